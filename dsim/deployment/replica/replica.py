"""One replica: it steps its whole batch at once. The rules are those of ``docs/replicas.md``."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from dsim.deployment.replica.blocks import Blocks, CachedBlocks
from dsim.deployment.replica.cost import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsim.deployment.replica.cost import Cost
    from dsim.deployment.replica.request import Request
    from dsim.deployment.replica.spec import ReplicaSpec

UNLIMITED = 1 << 60


class Step(NamedTuple):
    """What one step did, for a trace.

    Attributes:
        start_ns, target_ns, end_ns: its begin, the end of the target's forward, and its end.
        fed: see :class:`Replica`.
        waiting: requests that wait for admission.
    """

    start_ns: int
    target_ns: int
    end_ns: int
    fed: list[tuple[int, int, int, int]]
    waiting: int


class Drafting(NamedTuple):
    """How a replica drafts.

    Attributes:
        tokens: the number of drafts of each request, by the number of requests that decode.
        cost: how long a forward of the drafter takes.
        features: whether the drafter is fed every new token again.
        judged: heeds verdicts: (drafts that stand, drafts); ``None``: nobody does.
        lookup_ns: time of a draft where drafting is a look-up; ``None``: it takes forwards.
    """

    tokens: Callable[[int], int]
    cost: Cost
    features: bool = False
    judged: Callable[[int, int], None] | None = None
    lookup_ns: float | None = None


class Replica:
    """One replica.

    Args:
        spec: its scheduler and its memory.
        target: how long a forward of the target takes.
        drafting: how it drafts; ``None``: it does not.
        host_ns: time of a step in which no forward runs.
        keep_fed: keep what each request was fed in the last step.
        keep_log: keep every step.

    Attributes:
        waiting: requests that wait for admission.
        running: requests that were admitted, in that order.
        admitted: requests that were admitted in the last step.
        first: requests that get their first token at the end of the step.
        finished: requests that get their last token at the end of the step.
        batch: requests that take part in the step.
        fed: of each request in the step: its number, tokens that it was fed, drafts among them,
            and tokens that settle at the end of the step; where that is kept.
        read_ns, ends_ns: when the target's forward of the last step ends, and the step itself.
        busy_ns, drafting_ns: how long it stepped, and the part in which it drafted.
        steps: number of steps.
        outstanding: tokens that its requests still need, read and written.
    """

    def __init__(
        self,
        spec: ReplicaSpec,
        target: Cost,
        drafting: Drafting | None = None,
        *,
        host_ns: int = 0,
        keep_fed: bool = False,
        keep_log: bool = False,
    ) -> None:
        self.spec = spec
        self.forget()
        self.max_seqs = spec.max_seqs
        self.budget = spec.max_batched_tokens
        self.chunk = spec.long_prefill_threshold or UNLIMITED
        self.target = target
        self.drafting = drafting
        self.host_ns = host_ns
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.admitted: list[Request] = []
        self.first: list[Request] = []
        self.finished: list[Request] = []
        self.batch: list[Request] = []
        self.fed: list[tuple[int, int, int, int]] = []
        self.log: list[Step] | None = [] if keep_log else None
        self.keep_fed = keep_fed or keep_log
        self.read_ns = self.ends_ns = 0
        self.busy_ns = 0
        self.drafting_ns = 0
        self.steps = 0
        self.outstanding = 0
        self._progress = 0

    def arrives(self, request: Request) -> None:
        """*request* joins the queue."""
        self.waiting.append(request)
        self.outstanding += request.end - request.sent

    def begin(self, now_ns: int) -> int:
        """Begin a step. There is something to do.

        Returns:
            When the step ends; :meth:`end` is to be called then.
        """
        self._progress = 0
        self.batch = fed = self._schedule()
        batch, going = self._judge(fed)
        read_ns = now_ns + self.host_ns + self.target(batch)
        ends_ns = read_ns
        if self.drafting is not None and going:
            draft = self._draft if going[0].speculation is None else self._draft_shapes
            ends_ns += draft(going, self.drafting)
        self.read_ns, self.ends_ns = read_ns, ends_ns
        self.busy_ns += ends_ns - now_ns
        self.drafting_ns += ends_ns - read_ns
        self.steps += 1
        if self.log is not None:
            self.log.append(Step(now_ns, read_ns, ends_ns, self.fed, len(self.waiting)))
        return ends_ns

    def end(self) -> None:
        """The step is over: who has finished leaves, and frees blocks."""
        self.outstanding -= self._progress
        if self.finished:
            for request in self.finished:
                self.blocks.release(request)
            self.running = [r for r in self.running if r.known < r.end]

    def forget(self) -> None:
        """Lose the KV cache."""
        kind = CachedBlocks if self.spec.prefix_cache else Blocks
        self.blocks: Blocks = kind(self.spec.kv_blocks, self.spec.block_size)

    def fail(self, now_ns: int) -> tuple[list[Request], list[Request]]:
        """Lose the KV cache and the step under way, of which nothing settles.

        Args:
            now_ns: when that is; -1: no step is under way. What each request is fed has to be kept.

        Returns:
            The requests that ran, and those that waited; all of them leave.
        """
        if now_ns >= 0:
            self.busy_ns -= self.ends_ns - now_ns
            self.drafting_ns -= self.ends_ns - max(now_ns, self.read_ns)
            if self.log:
                read_ns = min(self.read_ns, now_ns)
                fed = [(*row[:3], 0) for row in self.fed]
                last = self.log[-1]
                self.log[-1] = last._replace(target_ns=read_ns, end_ns=now_ns, fed=fed)
            for request, (_, _, drafts, settled) in zip(self.batch, self.fed, strict=True):
                request.known -= settled
                request.drafted -= drafts
                request.accepted -= max(0, settled - 1)
        interrupted, waiting = self.running, list(self.waiting)
        for request in (*interrupted, *waiting):
            request.lose()
        self.running, self.waiting, self.outstanding = [], deque(), 0
        self.forget()
        return interrupted, waiting

    def _schedule(self) -> list[Request]:
        """Choose who takes part in a step, and with how many tokens: rules 2 to 4.

        Returns:
            Those who do, with ``fed`` and ``drafts`` set.
        """
        running, grow = self.running, self.blocks.grow
        most, budget = self.chunk, self.budget
        evicted, count = False, 0
        for request in running:
            if not budget:
                break
            computed = request.computed
            tokens = min(request.known - computed, most, budget)
            if request.drafts:  # then it decodes
                request.drafts = min(request.drafts, budget - tokens)
            end = computed + tokens + request.drafts
            if end > request.room or computed < request.shared:
                while not grow(request, end):
                    evicted = True
                    if self._evict_last() is request:
                        break
                if not request.room:
                    break
            request.fed = tokens
            budget -= tokens + request.drafts
            count += 1
        fed = running[:count]
        waiting = self.waiting
        while waiting and budget and len(running) < self.max_seqs and not evicted:
            request = waiting[0]
            tokens = self.blocks.admit(request, min(most, budget))
            if not tokens:
                break
            self._progress += request.computed - request.sent
            request.fed = tokens
            budget -= tokens
            running.append(waiting.popleft())
            fed.append(request)
        self.admitted = fed[count:]
        return fed

    def _evict_last(self) -> Request:
        """Evict the request that was admitted last; it will compute all that it knows again."""
        request = self.running.pop()
        self.blocks.release(request, evicted=True)
        self.outstanding += request.computed
        request.lose()
        request.preemptions += 1
        self.waiting.appendleft(request)
        return request

    def _judge(self, fed: list[Request]) -> tuple[Batch, list[Request]]:
        """What the target says: rule 6.

        Returns:
            What its forward was fed, and the requests that go on to decode.
        """
        prefill = decode = sampled = context = attended = 0
        first, finished, going = [], [], []
        heed = self.drafting.judged if self.drafting is not None else None
        log: list[tuple[int, int, int, int]] | None = [] if self.keep_fed else None
        for request in fed:
            computed, known, drafts = request.computed, request.known, request.drafts
            tokens = request.fed
            width = tokens + drafts
            request.passes += 1
            context += computed
            attended += width * (computed + computed + width)
            if known - computed > 1 or computed < request.prompt:
                prefill += tokens
            else:
                decode += width
            stand = -1
            if computed + tokens == known:
                sampled += 1 + drafts
                stand = 0
                if drafts:
                    if request.speculation is not None:
                        stand = request.speculation.stand(drafts)
                    else:
                        stand = min(drafts, request.lengths[known - request.prompt])
                    request.drafted += drafts
                    request.accepted += stand
                    if heed is not None:
                        heed(stand, drafts)
                request.known = known + stand + 1
                if known == request.prompt:
                    first.append(request)
                if request.known == request.end:
                    finished.append(request)
                    self._progress += 1  # the last token, which is never read
                else:
                    going.append(request)
                tokens += stand
            request.computed = computed + tokens
            self._progress += tokens
            if log is not None:
                log.append((request.number, width, drafts, stand + 1))
        self.first, self.finished, self.fed = first, finished, log or []
        return Batch(prefill, decode, len(fed), sampled, context, attended / 2), going

    def _draft(self, going: list[Request], drafting: Drafting) -> int:
        """Draft for the requests that go on to decode: rule 7.

        Returns:
            How long it takes, in ns.
        """
        most = drafting.tokens(len(going))
        unseen = context = attended = 0
        members = [0] * (most + 1)  # by their number of drafts
        known_of = [0] * (most + 1)
        for request in going:
            known = request.known
            request.drafts = drafts = min(most, request.end - known - 1)
            # What the drafter fed itself counts only as far as it stood; also where this request
            # gets no draft now, but in a later step.
            request.seen = seen = min(request.seen, known - 1)
            if drafts:
                width = known - seen
                unseen += width
                context += seen
                attended += width * (seen + known)
                request.seen = known if drafting.features else known + drafts - 1
                members[drafts] += 1
                known_of[drafts] += known
        sequences = sum(members)
        if not sequences:
            return 0
        if drafting.lookup_ns is not None:
            made = sum(drafts * count for drafts, count in enumerate(members))
            return round(drafting.lookup_ns * made)
        cost = drafting.cost
        took_ns = cost(Batch(0, unseen, sequences, sequences, context, attended / 2))
        context = sum(known_of)
        for made in range(1, most):
            sequences -= members[made]
            context -= known_of[made]
            if not sequences:
                break
            before = context + (made - 1) * sequences
            took_ns += cost(
                Batch(0, sequences, sequences, sequences, before, before + sequences / 2)
            )
        return took_ns

    def _draft_shapes(self, going: list[Request], drafting: Drafting) -> int:
        """:meth:`_draft` for trees, for blocks of drafts, and where there may be no draft."""
        most, made = drafting.tokens(len(going)), 0
        levels: list[list[float]] = []  # tokens, sequences, context, attended of each forward
        for request in going:
            speculation, known = request.speculation, request.known
            if speculation is None:
                continue
            positions = min(most, request.end - known - 1)
            request.drafts, feeds = speculation.draft(known - request.prompt, positions)
            made += request.drafts
            if drafting.lookup_ns is not None:
                continue
            request.seen = context = min(request.seen, known - 1)
            for level, width in enumerate(feeds):
                fed = width or known - context
                if level == len(levels):
                    levels.append([0, 0, 0, 0])
                attended = fed * (2 * context + fed) / 2
                levels[level] = [
                    before + more
                    for before, more in zip(levels[level], (fed, 1, context, attended), strict=True)
                ]
                context += fed
            if feeds:
                rereads = drafting.features or speculation.rereads
                request.seen = known if rereads else context
        if drafting.lookup_ns is not None:
            return round(drafting.lookup_ns * made)
        took_ns = 0
        for tokens, sequences, context_tokens, attended in levels:
            batch = Batch(
                0, int(tokens), int(sequences), int(tokens), int(context_tokens), attended
            )
            took_ns += drafting.cost(batch)
        return took_ns
