"""The rules of the other orchestrations once more, plainly: lists and loops, no engine.

Written from the text of the rules alone, to be compared with the engines. Slow, and meant to be
read beside the rules. Everywhere

* `ranks` has one number a token: r says that the target's token is the drafter's r-th candidate
  there, 0 that it is none of them; so its length is the number of tokens to generate;
* `t1` and `t2` are the latency of a drafter forward and of a target pass, whole numbers (`tree`
  and `treedsi` also take functions of the width);
* the answer is an `Outcome`. A forward that has begun is counted, whether it was of use or not.

DSI, and DSI over trees, are one loop over instants: the end of the drafter's forward first, then
the ends of passes in dispatch order; after each, the drafter and the dispatch rules have their
turn. Readings, where the rules leave room:

* *Patience f.* The first pass of a branch waits until f drafts follow the settled tokens on the
  main chain, or the chain is at its end, whatever the lookahead is. So does a pass for which there
  is no other reason than that none is in flight.
* *How far the last pass covers the main chain.* Where it does not cover the root, it ends one token
  before it, which is what DSI's `e` says there.
* *A later pass may end first* where latencies depend on the width: its server is free at its end;
  its verdict is taken right after those before it, and then the drafter and the dispatch rules
  have their turn once.
* *The drafter's forward* ends with its branch alone: it goes on where the root has left all that it
  feeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Outcome(NamedTuple):
    """When every token settled; target passes and drafter forwards begun (None: not counted)."""

    times: list[int]
    passes: int
    forwards: int | None


def cost(latency, width):
    """Latency of a forward over *width* tokens."""
    return latency(width) if callable(latency) else latency


def first_choices(ranks, start, end):
    """How many of the drafts from *start* on, up to before *end*, are right in a row."""
    n = 0
    while start + n < end and ranks[start + n] == 1:
        n += 1
    return n


def nonsi(t2, ranks):
    """One pass a token."""
    return Outcome([t2 * (i + 1) for i in range(len(ranks))], len(ranks), 0)


def si(t1, t2, ranks, k, *, block_tokens=1):
    """Draft, then verify; nothing overlaps. A drafter forward makes `block_tokens` drafts."""
    now, times, passes, forwards = 0, [], 0, 0
    while len(times) < len(ranks):
        v = len(times)
        m = min(k, len(ranks) - v - 1)
        blocks = -(-m // block_tokens)  # rounded up
        now += blocks * t1 + t2
        forwards += blocks
        passes += 1
        times += [now] * (first_choices(ranks, v, v + m) + 1)
    return Outcome(times, passes, forwards)


def pearl(t1, t2, ranks, gamma):
    """Two device groups in lock step: verify the pending drafts, make fresh ones meanwhile."""
    wanted = len(ranks)
    now, times, steps, forwards = 0, [], 0, 0
    pending = 0
    while len(times) < wanted:
        v = len(times)
        e = v + pending
        fresh = min(gamma, wanted - 1 - e)
        now += max(fresh * t1, t2)
        steps += 1
        forwards += fresh
        n = first_choices(ranks, v, e)
        times += [now] * (n + 1)
        # The token that settled last is the target's own. Only behind right drafts can it be the
        # first fresh one.
        stands = n == pending and fresh > 0 and ranks[e] == 1
        pending = fresh - 1 if stands else 0
    return Outcome(times, steps, forwards)


def pipespec(t1, t2, ranks, lookahead):
    """Drafter and one target, each at its own pace.

    A draft that ends at the instant at which a pass ends is still under way when the target has
    settled its tokens: it ends, and the drafter compares at that instant, so that the target does
    not wait. (The rules say that such a draft "does not belong to" the pass; with the usual order,
    drafts first, the drafter would already be at the next one and the target would wait for it.)
    """
    wanted = len(ranks)
    now, times, passes, forwards = 0, [], 0, 0
    chain = 0  # tokens that the drafter has, settled ones included
    taken = 0  # of them, how many it took from the target at the last difference
    end = None  # of the draft under way

    def begin():
        nonlocal end, forwards
        end = now + t1 if chain < wanted - 1 else None
        forwards += end is not None

    begin()
    while True:
        v = len(times)
        while chain < min(v + lookahead - 1, wanted - 1):  # the target waits for more drafts
            now, chain = end, chain + 1
            begin()
        started, covered = now, chain
        passes += 1
        while end is not None and end < started + t2:  # the drafter goes on during the pass
            now, chain = end, chain + 1
            begin()
        now = started + t2
        times += [now] * (first_choices(ranks, v, covered) + 1)
        v = len(times)
        if v == wanted:
            return Outcome(times, passes, forwards)
        if end is not None:  # the draft under way ends first
            now, chain = end, chain + 1
        known = min(v, chain)
        if chain < v or first_choices(ranks, taken, known) < known - taken:
            taken = chain = v
        begin()  # after the comparison, also where the drafter was at its end


def ssd(t1, t2, ranks, k, fanout, *, preemptible=True):
    """While the target verifies, the drafter guesses the outcome and drafts behind each guess.

    The guessing takes k + 1 forwards from the start of every pass, also where fewer than k drafts
    are left to make. Where none is left, the next pass begins at once, hit or miss.
    """
    wanted = len(ranks)
    guesses = fanout if isinstance(fanout, list) else [fanout] * (k + 1)
    times, passes = [], 0
    ready = min(k, wanted - 1) * t1  # when the drafts of the next pass are there
    while True:
        v = len(times)
        m = min(k, wanted - v - 1)
        guessed, now = ready + (k + 1) * t1, ready + t2
        passes += 1
        n = first_choices(ranks, v, v + m)
        times += [now] * (n + 1)
        if len(times) == wanted:
            return Outcome(times, passes, None)
        rank = ranks[v + n]  # of the target's own token
        tried = 0 if n == m else 1  # the first choice was the draft, and wrong
        hit = tried < rank <= tried + guesses[n]
        left = min(k, wanted - len(times) - 1)
        if left == 0:
            ready = now
        elif hit:
            ready = max(now, guessed)
        else:
            ready = (now if preemptible else max(now, guessed)) + left * t1


def tree(t1, t2, ranks, paths):
    """Draft a tree of fixed shape level by level, then verify all of it in one pass.

    `paths` has with every path also the path above it. Expanded are the nodes that have a node
    below; at the end of the text, nodes past the last but one position are left out.
    """
    now, times, passes, forwards = 0, [], 0, 0
    fed = 1  # tokens that the first forward of a round reads
    while len(times) < len(ranks):
        v = len(times)
        kept = [tuple(path) for path in paths if v + len(path) <= len(ranks) - 1]
        for level in range(1, max(map(len, kept), default=0) + 1):
            parents = {path[:-1] for path in kept if len(path) == level}
            now += cost(t1, fed if level == 1 else len(parents))
            forwards += 1
        now += cost(t2, len(kept) + 1)
        passes += 1
        n = 0
        while n + v < len(ranks) and tuple(ranks[v : v + n + 1]) in kept:
            n += 1
        times += [now] * (n + 1)
        fed = n + 1
    return Outcome(times, passes, forwards)


@dataclass(eq=False)
class Pass:
    """A target pass that holds its server, or waits for its verdict."""

    end: int
    covered: object  # DSI: the context's end; trees: the set of nodes, root included
    wanted: bool = True  # not cancelled
    ended: bool = False


class Machine:
    """Servers, the drafter and the clock; what a branch consists of is left to the subclasses."""

    def __init__(self, t1, t2, ranks, k, servers, patience, preemptible):
        self.t1, self.t2, self.ranks, self.k = t1, t2, ranks, k
        self.free, self.patience, self.preemptible = servers, patience, preemptible
        self.wanted = len(ranks)
        self.times, self.begun, self.forwards = [], 0, 0
        self.passes = []  # in dispatch order
        self.drafting = None  # [end, what it feeds, is wanted]
        self.restart()

    def restart(self):
        """A new branch behind the settled tokens."""
        self.last = None  # what the branch's last pass covers
        self.cancel(self.passes)
        if self.drafting is not None:
            self.drafting[2] = False
            if self.preemptible:
                self.drafting = None
        self.plant()

    def cancel(self, passes):
        for p in list(passes):
            p.wanted = False
            if p.ended or self.preemptible:
                self.free += not p.ended
                self.passes.remove(p)

    def draft(self, now):
        feed = self.unfed()
        if self.drafting is None and feed:
            self.drafting = [now + cost(self.t1, len(feed)), feed, True]
            self.forwards += 1

    def dispatch(self, now):
        v, q = len(self.times), self.drafted()
        at_end = q == self.wanted - 1
        patient = q - v >= self.patience or at_end
        if self.last is None:
            reason = patient
        else:
            e = self.dispatched()
            in_flight = any(p.wanted for p in self.passes)
            reason = q - e >= self.k or (at_end and q > e) or (not in_flight and patient)
        if self.free and reason:
            self.last = self.covers()
            width = len(self.last) if isinstance(self.last, set) else 1
            self.passes.append(Pass(now + cost(self.t2, width), self.last))
            self.free -= 1
            self.begun += 1

    def run(self):
        now = 0
        while True:
            self.draft(now)
            self.dispatch(now)
            ends = [p.end for p in self.passes if not p.ended]
            now = min(ends + ([self.drafting[0]] if self.drafting else []))
            if self.drafting and self.drafting[0] == now:
                (_, feed, is_wanted), self.drafting = self.drafting, None
                if is_wanted:
                    self.grow(feed)
                continue
            ended = next(p for p in self.passes if p.end == now and not p.ended)
            ended.ended = True
            self.free += 1
            if not ended.wanted:
                self.passes.remove(ended)
            while (first := next((p for p in self.passes if p.wanted), None)) and first.ended:
                self.passes.remove(first)
                self.judge(first, now)
                if len(self.times) == self.wanted:
                    return Outcome(self.times, self.begun, self.forwards)


class Chain(Machine):
    """A branch of DSI: one draft behind the other."""

    def __init__(self, *common, block_tokens):
        self.block_tokens = block_tokens
        super().__init__(*common)

    def plant(self):
        self.q = len(self.times)

    def unfed(self):
        return [self.q] if self.q < self.wanted - 1 else []

    def grow(self, _):
        self.q = min(self.q + self.block_tokens, self.wanted - 1)

    def drafted(self):
        return self.q

    def dispatched(self):
        return self.last

    def covers(self):
        return self.q

    def judge(self, judged, now):
        while len(self.times) <= judged.covered:
            v = len(self.times)
            self.times.append(now)
            if v + 1 == self.wanted:
                return
            if v >= self.q or self.ranks[v] != 1:
                self.restart()
                return


class Tree(Machine):
    """A branch over a tree; a node is its path of ranks from the start of the branch.

    All candidates of a node that has been fed are there; which of them are nodes follows from the
    root of the moment.
    """

    def __init__(self, *common, branches, deviations):
        self.branches, self.deviations = branches, deviations
        super().__init__(*common)

    def plant(self):
        self.base = len(self.times)  # settled before the branch
        self.root = ()
        self.fed = set()

    def allowed(self, path):
        below = path[len(self.root) :]
        deviations = sum(rank != 1 for rank in below)
        return deviations <= self.deviations and self.base + len(path) <= self.wanted - 1

    def children(self, path):
        if path not in self.fed:
            return []
        candidates = [(*path, rank) for rank in range(1, self.branches + 1)]
        return [candidate for candidate in candidates if self.allowed(candidate)]

    def nodes(self):
        """The root and all nodes below it."""
        found = [self.root]
        for path in found:  # which grows
            found += self.children(path)
        return found

    def unfed(self):
        has_next = (n for n in self.nodes() if self.base + len(n) <= self.wanted - 2)
        return [n for n in has_next if n not in self.fed]

    def grow(self, feed):
        self.fed.update(feed)

    def main_chain(self, nodes):
        """Number of nodes, the root included, on the path of first choices that are in *nodes*."""
        path, length = self.root, 0
        while path in nodes:
            path, length = (*path, 1), length + 1
        return length

    def drafted(self):
        return len(self.times) - 1 + self.main_chain(self.nodes())

    def dispatched(self):
        return len(self.times) - 1 + self.main_chain(self.last)

    def covers(self):
        return set(self.nodes())

    def judge(self, judged, now):
        while self.root in judged.covered:
            token = (*self.root, self.ranks[len(self.times)])
            is_node = token in self.children(self.root)  # before the token settles
            self.times.append(now)
            if len(self.times) == self.wanted:
                return
            if not is_node:
                self.restart()
                return
            self.root = token
        self.cancel([p for p in self.passes if p.wanted and self.root not in p.covered])


def dsi(t1, t2, ranks, k, servers, *, block_tokens=1, patience=0, preemptible=True):
    """DSI; a forward of the drafter makes the next `block_tokens` drafts."""
    common = t1, t2, ranks, k, servers, patience, preemptible
    return Chain(*common, block_tokens=block_tokens).run()


def treedsi(t1, t2, ranks, k, servers, branches, deviations, *, patience=0, preemptible=True):
    """DSI over trees: the drafter's next choices are kept, and drafted behind, too."""
    common = t1, t2, ranks, k, servers, patience, preemptible
    return Tree(*common, branches=branches, deviations=deviations).run()
