"""The live environment, on a clock and pipes that the tests own."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from multiprocessing.reduction import ForkingPickler

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simpy.core import EmptySchedule

from dsim.backends import lines
from dsim.backends.lines import Line, Pipe, Reply, SystemClock, exchange
from dsim.backends.live import LiveEnvironment
from dsim.errors import EngineError
from dsim.events.order import PASS
from dsim.events.output import Output
from dsim.events.servers import Pool

WATCHDOG_NS = 50
LONG_AGO = 1000


class FakeClock:
    """Time passes only while something waits, and then at once."""

    def __init__(self) -> None:
        self.time_ns = LONG_AGO

    def now_ns(self) -> int:
        return self.time_ns

    def wait(self, objects, timeout_ns):
        times = [t for t in (o.ready_at() for o in objects) if t is not None]
        until = min(times, default=None)
        if timeout_ns is not None and (until is None or until > self.time_ns + timeout_ns):
            self.time_ns += timeout_ns
            return []
        assert until is not None, "waits for ever"
        self.time_ns = max(self.time_ns, until)
        return [o for o in objects if o.ready_at() is not None and o.ready_at() <= self.time_ns]


class FakePipe:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.mail: list[tuple[int, object]] = []  # (when it can be read, message)
        self.closed_at: int | None = None
        self.sent: list[object] = []

    def send(self, message) -> None:
        if self.closed_at is not None and self.closed_at <= self.clock.time_ns:
            raise BrokenPipeError
        self.sent.append(message)

    def ready_at(self) -> int | None:
        times = [t for t, _ in self.mail]
        return min([*times, *([] if self.closed_at is None else [self.closed_at])], default=None)

    def poll(self, timeout) -> bool:
        assert timeout == 0
        at = self.ready_at()
        return at is not None and at <= self.clock.time_ns

    def recv(self):
        self.mail.sort(key=lambda item: item[0])
        if self.mail and self.mail[0][0] <= self.clock.time_ns:
            return self.mail.pop(0)[1]
        raise EOFError


class Sentinel:
    def __init__(self) -> None:
        self.at: int | None = None

    def ready_at(self) -> int | None:
        return self.at


class Asker:
    """A backend that only asks."""

    preemptible = False

    def __init__(self, env: LiveEnvironment) -> None:
        self.env = env

    def attach(self, _):
        return self.begin

    def begin(self, forward) -> None:
        self.env.ask(self.env.lines[forward.server], forward, "go", self.answered)

    def answered(self, forward, reply) -> None:
        forward.token = reply.value

    def verify(self, *_):
        raise AssertionError

    def cancel(self, _) -> None:
        raise AssertionError


def world(workers: int):
    clock = FakeClock()
    lines = [Line(f"target {i + 1}", i, FakePipe(clock), Sentinel()) for i in range(workers)]
    env = LiveEnvironment(lines, clock=clock, watchdog_ns=WATCHDOG_NS)
    pool = Pool(env, Asker(env), Output(env, 10), role="target", priority=PASS, count=workers)
    return clock, lines, env, pool


class LiveMachine(RuleBasedStateMachine):
    """Workers do whatever workers may do; the environment must stay right, or say who failed."""

    @initialize(workers=st.integers(1, 3))
    def start(self, workers: int) -> None:
        self.clock, self.lines, self.env, self.pool = world(workers)
        self.pool.callbacks.append(self.happened)
        self.stamps: dict[object, int] = {}
        self.open: set[object] = set()
        self.cancelled: set[object] = set()
        self.unwanted = [0] * workers  # replies that nobody waits for
        self.doomed: dict[int, tuple[str, int]] = {}  # rank: what must be said, by when
        self.over = False
        self.last_ns = 0
        self.read_at: dict[object, int] = {}

    def happened(self, forward) -> None:
        assert forward in self.open, "an event that was never asked for, or happened before"
        self.open.remove(forward)
        assert self.env.now >= self.stamps[forward] - LONG_AGO
        assert forward.cancelled == (forward in self.cancelled)
        assert forward.token == self.stamps[forward], "the answer to another question"

    @precondition(lambda self: not self.over and self.pool.free)
    @rule(latency=st.integers(0, 6), delay=st.integers(0, 4), fate=st.sampled_from("rrrrrrfdhcs"))
    def submit(self, latency: int, delay: int, fate: str) -> None:
        try:
            forward = self.pool.forward(0)
        except EngineError as error:  # it died while idle
            assert "died" in str(error)  # noqa: PT017
            self.over = True
            return
        line = self.lines[forward.server]
        stamp = self.clock.time_ns + latency
        self.open.add(forward)
        self.stamps[forward] = stamp
        at = stamp + delay
        if fate == "r":
            line.pipe.mail.append((at, Reply(line.serial, stamp - latency, stamp, stamp)))
            return
        words = {"f": "failed", "d": "died", "h": "hangs", "c": "died", "s": "died"}[fate]
        if fate == "f":
            line.pipe.mail.append((at, Reply(line.serial, stamp, stamp, None, "no luck")))
        elif fate == "d":
            line.sentinel.at = line.pipe.closed_at = at
        elif fate == "c":  # it lives on, deaf and dumb
            line.pipe.closed_at = at
        elif fate == "s":  # a child of its own holds the pipe open
            line.sentinel.at = at
        due = at if fate != "h" else self.clock.time_ns + WATCHDOG_NS
        self.doomed[line.rank] = (words, due)

    @precondition(lambda self: not self.over and self.open)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        forward = data.draw(st.sampled_from(sorted(self.open, key=lambda f: f.server)))
        self.pool.cancel([forward])
        self.cancelled.add(forward)
        assert forward.server not in self.pool.free, "it runs to its end"

    @precondition(lambda self: not self.over)
    @rule(data=st.data(), delay=st.integers(0, 9))
    def send_twice_or_late(self, data, delay: int) -> None:
        line = data.draw(st.sampled_from(self.lines))
        if line.rank in self.doomed:
            return
        # The last reply once more; or, while it is still wanted, the one before.
        serial = line.serial if line.forward is None and line.serial else line.serial - 1
        now = self.clock.time_ns
        line.pipe.mail.append((now + delay, Reply(serial, 0, now, "stale")))
        self.unwanted[line.rank] += 1

    @precondition(lambda self: not self.over)
    @rule()
    def step(self) -> None:
        busy = bool(self.open)
        before_ns = self.clock.time_ns
        try:
            self.env.step()
        except EmptySchedule:
            assert not busy, "a worker is busy and nobody waits for it"
        except EngineError as error:
            self.over = True
            named = [line for line in self.lines if str(error).startswith(line.name)]
            (line,) = named
            words, due = self.doomed[line.rank]
            assert words in str(error)  # noqa: PT017
            assert "pass over 0 tokens" in str(error)  # noqa: PT017
            assert self.clock.time_ns <= max(due, before_ns), "it took too long to notice"
        else:
            assert busy

    @precondition(lambda self: self.over)
    @rule(workers=st.integers(1, 3))
    def begin_anew(self, workers: int) -> None:
        self.start(workers)

    @invariant()
    def time_goes_forward(self) -> None:
        if hasattr(self, "env"):
            assert self.env.now >= self.last_ns
            self.last_ns = self.env.now
            # The environment is never ahead of the clock, by which nothing has happened yet.
            assert self.env.now <= self.clock.time_ns - LONG_AGO

    @invariant()
    def busy_servers_and_no_others_are_asked(self) -> None:
        if hasattr(self, "env") and not self.over:
            scheduled = {event for _, _, _, event in self.env._queue}
            asked = {line.forward for line in self.lines if line.forward is not None}
            assert asked | scheduled == self.open
            assert len(self.pool.free) == len(self.lines) - len(self.open)

    def teardown(self) -> None:
        if hasattr(self, "env") and not self.over and not self.doomed:
            while self.open:
                self.env.step()
            self.env.drain()
            for line in self.lines:
                assert line.dropped <= self.unwanted[line.rank]


TestLive = LiveMachine.TestCase
TestLive.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_arrivals_happen_in_the_order_of_their_stamps_then_of_the_servers() -> None:
    _clock, lines, env, pool = world(4)
    seen = []
    pool.callbacks.append(lambda f: seen.append((env.now, f.server)))
    for _ in range(4):
        pool.forward(0)
    # All are read at time 9; two have one stamp.
    for rank, stamp in ((0, 7), (1, 5), (2, 7), (3, 6)):
        lines[rank].pipe.mail.append((LONG_AGO + 9, Reply(1, 0, LONG_AGO + stamp)))
    while pool.free != [1, 3, 0, 2]:
        env.step()
    assert seen == [(5, 1), (6, 3), (7, 0), (7, 2)]
    assert env.lateness_ns == [4, 3, 2, 2]


def test_a_scheduled_event_that_is_due_first_is_not_kept_waiting() -> None:
    _, lines, env, pool = world(1)
    seen = []
    pool.callbacks.append(lambda _: seen.append(("reply", env.now)))
    pool.forward(0)
    lines[0].pipe.mail.append((LONG_AGO + 20, Reply(1, 0, LONG_AGO + 20)))
    env.timeout(11).callbacks.append(lambda _: seen.append(("timeout", env.now)))
    env.step()
    assert env.clock.now_ns() == LONG_AGO + 11
    env.step()
    assert seen == [("timeout", 11), ("reply", 20)]


def test_a_message_that_was_overtaken_does_not_happen_in_the_past() -> None:
    _, lines, env, pool = world(2)
    seen = []
    pool.callbacks.append(lambda f: seen.append((env.now, f.server)))
    pool.forward(0), pool.forward(0)
    lines[0].pipe.mail.append((LONG_AGO + 8, Reply(1, 0, LONG_AGO + 8)))
    lines[1].pipe.mail.append((LONG_AGO + 12, Reply(1, 0, LONG_AGO + 3)))
    env.step(), env.step()
    assert seen == [(8, 0), (8, 1)]


def test_a_reply_sent_before_death_still_counts() -> None:
    _, lines, env, pool = world(1)
    forward = pool.forward(0)
    lines[0].pipe.mail.append((LONG_AGO + 2, Reply(1, 0, LONG_AGO + 2, "last words")))
    lines[0].pipe.closed_at = lines[0].sentinel.at = LONG_AGO + 2
    env.step()
    assert forward.ended
    assert forward.token == "last words"  # noqa: S105
    with pytest.raises(EngineError, match="target 1 died"):
        pool.forward(0)


def test_a_busy_worker_is_not_asked_again() -> None:
    _, _, _env, pool = world(1)
    forward = pool.forward(0)
    with pytest.raises(RuntimeError, match="two forwards at once"):
        pool.backend.begin(forward)


def test_nothing_to_wait_for_is_an_error_and_not_a_wait() -> None:
    _, _, env, _ = world(2)
    with pytest.raises(RuntimeError):
        env.run(until=env.event())


@pytest.mark.parametrize("words", ["hang", "die", "fail", "babble"])
def test_exchange_outside_of_a_run_says_who_is_silent(words: str) -> None:
    clock = FakeClock()
    lines = [Line(f"target {i + 1}", i, FakePipe(clock), Sentinel()) for i in range(2)]
    lines[0].pipe.mail.append((LONG_AGO + 1, Reply(1, 0, 0, "fine")))
    if words == "die":
        lines[1].sentinel.at = LONG_AGO + 5
    elif words == "fail":
        lines[1].pipe.mail.append((LONG_AGO + 5, Reply(1, 0, 0, None, "no luck")))
    elif words == "babble":
        lines[1].pipe.mail.append((LONG_AGO + 5, "hello"))
    said = {"hang": "hangs", "die": "died", "fail": "no luck", "babble": "sent str"}[words]
    with pytest.raises(EngineError, match=f"target 2.*{said}"):
        exchange(lines, ["a", "b"], timeout_ns=10, clock=clock)
    assert clock.time_ns <= LONG_AGO + 10
    assert [line.pipe.sent for line in lines] == [[(1, "a")], [(1, "b")]]


@given(
    batches=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    taken=st.integers(0, 12),
    late=st.integers(0, 9),
)
def test_replies_that_come_together_happen_each_at_its_stamp(batches, taken, late) -> None:
    # A worker answers *count* forwards, and sends the answers in lists.
    count = sum(batches)
    taken = min(taken, count - 1)
    clock, lines, env, pool = world(1)
    (line,) = lines
    seen = []
    pool.callbacks.append(lambda f: seen.append((env.now, f.token)))
    begin, pool.begin = pool.begin, lambda _: None
    env.ask(line, pool.forward(0), "go", pool.backend.answered, ahead=count - 1)
    stamps = [2 * serial for serial in range(1, count + 1)]
    made = 0
    for size in batches:
        numbers = range(made + 1, made + size + 1)
        made += size
        at = LONG_AGO + stamps[made - 1] + late
        line.pipe.mail.append(
            (at, [(n, 0, LONG_AGO + stamps[n - 1], f"token {n}", None) for n in numbers])
        )
    env.step()
    for _ in range(taken):
        env.take(line, pool.forward(0), pool.backend.answered)
        env.step()
    assert [token for _, token in seen] == [f"token {n}" for n in range(1, taken + 2)]
    assert [now for now, _ in seen] == stamps[: taken + 1]
    pool.begin = begin
    env.halt(line)
    assert line.pipe.sent[1:] == [(1 + taken, None)] * (taken < count - 1)
    # The next question gets its own answer, whatever else is still to come.
    last = pool.forward(0)
    at = max(clock.time_ns, LONG_AGO + stamps[-1] + late) + 1
    line.pipe.mail.append((at, Reply(count + 1, 0, at, "new")))
    while not last.ended:
        env.step()
    assert seen[-1] == (at - LONG_AGO, "new")
    assert line.dropped == count - 1 - taken


def test_what_a_worker_does_unasked_is_taken_and_what_nobody_takes_is_dropped() -> None:
    _, lines, env, pool = world(1)
    (line,) = lines
    seen = []
    pool.callbacks.append(lambda f: seen.append((env.now, f.token)))

    def forward() -> None:
        """One more of the pool, without asking for it."""
        begin, pool.begin = pool.begin, lambda _: None
        made = pool.forward(0)
        pool.begin = begin
        env.take(line, made, pool.backend.answered)

    begin, pool.begin = pool.begin, lambda _: None
    first = pool.forward(0)
    pool.begin = begin
    env.ask(line, first, "go", pool.backend.answered, ahead=3)
    # Four answers come, whether anybody waits for them or not.
    for serial in (1, 2, 3, 4):
        at = LONG_AGO + 2 * serial
        line.pipe.mail.append((at, Reply(serial, at - 2, at, f"token {serial}")))
    env.step()
    forward()
    with pytest.raises(RuntimeError, match="two forwards at once"):
        env.take(line, first, pool.backend.answered)
    env.step()
    assert seen == [(2, "token 1"), (4, "token 2")]
    assert line.ahead == 2
    env.halt(line), env.halt(line)
    assert line.pipe.sent == [(1, "go"), (2, None)]  # no further than 2, said once
    pool.free.append(0)
    with pytest.raises(RuntimeError, match="nothing unasked"):
        forward()
    pool.free = [0]
    last = pool.forward(0)
    assert line.pipe.sent[2] == (5, "go")  # 3 and 4 were promised to what it does unasked
    line.pipe.mail.append((LONG_AGO + 9, Reply(5, 0, LONG_AGO + 9, "token 5")))
    while not last.ended:
        env.step()
    assert seen[2:] == [(9, "token 5")]
    assert line.dropped == 2


def test_a_pipe_says_what_is_there_and_outlives_a_change_of_process() -> None:
    ours, theirs = map(Pipe, multiprocessing.Pipe())
    assert not ours.poll()
    theirs.send((1, [2, 3], None))
    assert ours.poll()
    assert ours.recv() == (1, [2, 3], None)
    again = pickle.loads(ForkingPickler.dumps(theirs))  # noqa: S301 (as a child gets it)
    theirs.close()
    ours.send("hello")
    assert again.recv() == "hello"
    again.close()
    assert ours.poll(60), "the end of it is worth a look"  # who copied it lets go in a while
    with pytest.raises((EOFError, OSError)):
        ours.recv()


@pytest.mark.parametrize("poll", [True, False])
def test_real_pipes_and_the_real_clock(monkeypatch, poll: bool) -> None:
    if not poll:  # as on a system without that call
        monkeypatch.setattr(lines, "HAVE_POLL", False)
    ours, theirs = map(Pipe, multiprocessing.Pipe())
    assert list(SystemClock().wait([ours], 1000)) == []

    def work() -> None:
        serial, request = theirs.recv()
        now = SystemClock().now_ns()
        theirs.send((serial, now, now, request + "!"))

    worker = threading.Thread(target=work)
    worker.start()
    (reply,) = exchange([Line("target 1", 0, ours)], ["hello"], timeout_ns=60 * 10**9)
    worker.join()
    assert reply.value == "hello!"
