"""What a worker does unasked, on a pipe and a model that the tests own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.backends.torch import worker
from dsim.backends.torch.protocol import Begin, Done
from dsim.backends.torch.verify import Match

VOCAB = 7


class Counting:
    """Says that after *tokens* comes their sum; remembers what it was asked."""

    parameters = 0

    def __init__(self) -> None:
        self.read: list[list[int]] = []

    def reset(self) -> None:
        pass

    def forward(self, tokens, rows: int):
        self.read.append(list(tokens))
        logits = np.zeros((rows, VOCAB), dtype=np.float32)
        for row in range(rows):
            logits[row, sum(tokens[: len(tokens) - rows + 1 + row]) % VOCAB] = 1
        return logits, rows


class Script:
    """The worker's end of a pipe: each message is there when so many replies have been sent."""

    def __init__(self, messages) -> None:
        self.messages = list(messages)  # (after how many replies, message)
        self.sent: list[tuple] = []
        self.batches: list[int] = []

    def poll(self, _timeout_s: float = 0) -> bool:
        return bool(self.messages) and self.messages[0][0] <= len(self.sent)

    def recv(self):
        return self.messages.pop(0)[1]

    def send(self, message) -> None:
        self.batches.append(len(message))
        self.sent += message


def numbers(messages) -> tuple[list[int], Script, Counting]:
    """The numbers that :func:`worker.serve` answers."""
    pipe, model = Script([(0, (0, Begin([1], Match()))), *messages]), Counting()
    worker.serve(pipe, {"drafter": model})
    assert all(message[4] is None for message in pipe.sent)
    return [message[0] for message in pipe.sent[1:]], pipe, model


def test_a_chain_reads_its_own_answers_and_ends_where_it_should() -> None:
    answered, pipe, model = numbers([(1, (1, ([2, 3], 2, "drafter", 3))), (9, None)])
    assert answered == [1, 2, 3, 4]
    assert model.read == [[1, 2, 3], [1, 2, 3, 6], [1, 2, 3, 6, 5], [1, 2, 3, 6, 5, 3]]
    tokens = [Done.unpack(message[3]).answers[0].token for message in pipe.sent[1:]]
    assert tokens == [6, 5, 3, 6]
    starts = [(message[1], message[2]) for message in pipe.sent]
    assert all(a[1] <= b[0] <= b[1] for a, b in itertools.pairwise(starts))


@given(
    ahead=st.integers(0, 6),
    seen_after=st.integers(1, 8),
    taken=st.integers(0, 6),
    then=st.integers(0, 3),
)
def test_a_halt_lets_it_finish_what_was_taken_and_no_more(ahead, seen_after, taken, then) -> None:
    # The parent has taken answers up to number 1 + taken when it halts; the worker finds the halt
    # when it has sent *seen_after* answers, be that before or after that number.
    taken = min(taken, ahead)
    answered, _, model = numbers(
        [
            (1, (1, ([], 0, "drafter", ahead))),
            (1 + seen_after, (1 + taken, None)),
            # It asks again when it has read the last answer that it took.
            (1 + max(seen_after, 1 + taken), (50, ([4], 1, "drafter", then))),
            (99, None),
        ]
    )
    under_way = min(1 + ahead, max(1 + taken, seen_after))
    assert answered == [*range(1, under_way + 1), *range(50, 51 + then)]
    assert model.read[under_way] == [1, 4], "what follows a halt begins again"


@given(ahead=st.integers(0, 6), seen_after=st.integers(1, 8))
def test_any_other_message_ends_a_chain(ahead, seen_after) -> None:
    answered, _, _ = numbers(
        [
            (1, (1, ([], 0, "drafter", ahead))),
            (1 + seen_after, (50, ([4], 1, "drafter"))),
            (99, None),
        ]
    )
    assert answered == [*range(1, min(1 + ahead, seen_after) + 1), 50]


class Slow(Counting):
    """Takes the next of *took* for each forward, by a clock of its own."""

    def __init__(self, took) -> None:
        super().__init__()
        self.now_ns, self.took = 0, list(took)

    def forward(self, tokens, rows: int):
        self.now_ns += self.took.pop(0)
        return super().forward(tokens, rows)


@pytest.mark.parametrize(
    ("took", "stop", "batches"),
    [
        ([5] * 9, None, [5, 4]),  # the sixth would end 25 after the first
        ([20] * 4, None, [2, 2]),
        ([21] * 4, None, [1] * 4),  # none waits for a forward that takes longer
        ([5, 5, 30, 5, 5], None, [3, 2]),  # who could have known?
        ([1] * 9, 3, [3, 3, 3]),  # every third says 3, and may be the last
    ],
)
def test_an_answer_waits_only_for_what_is_likely_to_come_in_time(
    monkeypatch, took, stop, batches
) -> None:
    begin = Begin([1], Match(), hold_ns=20, stop_ids=frozenset({stop}))
    chain = (1, ([2, 3], 2, "drafter", len(took) - 1))
    pipe, model = Script([(0, (0, begin)), (1, chain), (1 + len(took), None)]), Slow(took)
    monkeypatch.setattr(worker.time, "perf_counter_ns", lambda: model.now_ns)
    worker.serve(pipe, {"drafter": model})
    assert pipe.batches[1:] == batches


class Contrary(Counting):
    """Says something else now and then."""

    def forward(self, tokens, rows: int):
        logits, width = super().forward(tokens, rows)
        for row in range(rows):
            if sum(tokens[: len(tokens) - rows + 1 + row]) % 3 == 0:
                logits[row] = np.roll(logits[row], 1)
        return logits, width


def plain_si(k: int, wanted: int) -> tuple[list[list[int]], list[list[int]], list[str]]:
    """What drafter and target read in SI after the prompt [1], and whose turn it was."""
    text: list[int] = []
    drafter, target, turns = Counting(), Contrary(), []
    while len(text) < wanted:
        settled = len(text)
        for _ in range(min(k, wanted - settled - 1)):
            text.append(int(drafter.forward([1, *text], 1)[0][0].argmax()))
            turns.append("drafter")
        own = target.forward([1, *text], len(text) - settled + 1)[0].argmax(axis=1).tolist()
        turns.append("target")
        n = next((i for i, t in enumerate(text[settled:]) if t != own[i]), len(text) - settled)
        text[settled + n :] = [own[n]]
    return drafter.read, target.read, turns


@given(
    k=st.integers(1, 5),
    wanted=st.integers(2, 14),
    hold_ns=st.sampled_from((0, 10**18)),
    cut_after=st.none() | st.integers(1, 30),
)
def test_a_worker_with_both_models_goes_on_with_si(k, wanted, hold_ns, cut_after) -> None:
    drafts, passes, turns = plain_si(k, wanted)
    drafter, target = Counting(), Contrary()
    made = [len(turns), cut_after][cut_after is not None and cut_after < len(turns)]
    # A message that it finds when it has computed so many answers ends the chain.
    pipe = Script([])
    begin = (0, Begin([1], Match(), hold_ns=hold_ns))
    first = (1, ([], 0, "drafter", min(k, wanted - 1) - 1, (0, k, wanted)))
    later = [(made, None)] if made == len(turns) else []
    script = [begin, first, *later, (500, ([4], 1, "target")), None]
    pipe.recv = lambda: script.pop(0)
    found_at = made + 3 * bool(later)  # at the end of the text it stops by itself
    pipe.poll = lambda _timeout_s=0: len(drafter.read) + len(target.read) >= found_at
    worker.serve(pipe, {"drafter": drafter, "target": target})
    assert [message[0] for message in pipe.sent] == [*range(made + 1), 500]
    assert all(message[4] is None for message in pipe.sent)
    counts = [turns[:made].count(role) for role in ("drafter", "target")]
    assert drafter.read == drafts[: counts[0]]
    assert target.read == [*passes[: counts[1]], [1, 4]]
    # Each pass speaks of every draft of its block, and of the position after them.
    answers = [len(Done.unpack(message[3]).answers) for message in pipe.sent[1 : made + 1]]
    drafted = 0
    for role, count in zip(turns, answers, strict=False):
        assert count == (1 if role == "drafter" else drafted + 1)
        drafted = drafted + 1 if role == "drafter" else 0
    assert pipe.batches == ([1, made, 1] if hold_ns else [1] * (made + 2))


def test_a_failure_ends_a_chain() -> None:
    class Failing(Counting):
        def forward(self, tokens, rows):
            if len(tokens) > 2:
                raise ValueError("no more")
            return super().forward(tokens, rows)

    begin = (0, (0, Begin([1], Match())))
    pipe = Script([begin, (1, (1, ([], 0, "drafter", 9))), (9, None)])
    worker.serve(pipe, {"drafter": Failing()})
    assert [message[0] for message in pipe.sent] == [0, 1, 2, 3]
    assert [message[4] for message in pipe.sent] == [None, None, None, "ValueError: no more"]
