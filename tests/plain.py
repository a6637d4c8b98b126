"""The rules of docs/model.md once more, plainly: lists, no engine, constant latencies.

Written from the text of the rules, without a look at the engines, to be compared with them. Slow,
and meant to be read beside the rules.
"""

from __future__ import annotations


def settle_times(algorithm, timing, accepts, *, preemptible=True):
    """When every token settles (list of ns), passes begun, passes wasted, drafts begun."""
    if algorithm == "dsi":
        return _dsi(timing, accepts, preemptible=preemptible)
    t1, t2 = timing.drafter_ns, timing.target_ns
    first_draft = timing.drafter_first_ns or t1
    first_pass = timing.target_first_ns or t2
    now, times, passes, drafts = 0, [], 0, 0
    while len(times) < len(accepts):
        wanted = 0
        if algorithm == "si":
            wanted = min(timing.lookahead, len(accepts) - len(times) - 1)
        for _ in range(wanted):
            now += t1 if drafts else first_draft
            drafts += 1
        now += t2 if passes else first_pass
        passes += 1
        n = 0
        while n < wanted and accepts[len(times) + n]:
            n += 1
        times += [now] * (n + 1)
    return times, passes, 0, drafts


def _dsi(timing, accepts, *, preemptible):
    wanted, k = len(accepts), timing.lookahead
    t1, t2 = timing.drafter_ns, timing.target_ns
    times = []  # of the settled tokens
    drafted, sent = 0, None  # q, and e of the branch (None: no pass yet)
    passes = []  # at work, in dispatch order: [end, context end, is wanted]
    drafting = None  # [end, is wanted]
    free = timing.targets
    begun, wasted, drafts = 0, 0, 0
    prefills = 0
    if timing.target_first_ns is not None:
        prefills, free = free - 1, 1

    def draft(now):
        nonlocal drafting, drafts
        if drafting is None and drafted < wanted - 1:
            first = timing.drafter_first_ns if drafts == 0 else None
            drafting = [now + (first or t1), True]
            drafts += 1

    def dispatch(now):
        nonlocal sent, free, begun
        in_flight = any(is_wanted for _, _, is_wanted in passes)
        if free and (
            sent is None
            or drafted - sent >= k
            or (drafted == wanted - 1 and drafted > sent)
            or not in_flight
        ):
            first = timing.target_first_ns if begun == 0 else None
            sent = drafted
            passes.append([now + (first or t2), sent, True])
            begun, free = begun + 1, free - 1

    def restart():
        nonlocal drafted, sent, free, wasted, drafting, passes
        drafted, sent = len(times), None
        wasted += sum(is_wanted for _, _, is_wanted in passes)
        if preemptible:
            free, passes, drafting = free + len(passes), [], None
        else:
            passes = [[end, context, False] for end, context, _ in passes]
            if drafting is not None:
                drafting[1] = False

    draft(0)
    dispatch(0)
    while True:
        ends = [end for end, _, _ in passes] + ([drafting[0]] if drafting else [])
        now = min(ends + ([timing.target_first_ns] if prefills else []))
        if drafting and drafting[0] == now:  # drafts before passes
            (_, is_wanted), drafting = drafting, None
            drafted += is_wanted
            draft(now)
            dispatch(now)
            continue
        ended = next((p for p in passes if p[0] == now), None)
        if ended is None:  # the prefills of the other servers, after that instant's verdict
            free, prefills = free + prefills, 0
            dispatch(now)
            continue
        passes.remove(ended)
        free += 1
        if ended[2]:
            while len(times) <= ended[1]:
                position = len(times)
                stands = position < drafted and accepts[position]
                times.append(now)
                if len(times) == wanted:
                    return times, begun, wasted + sum(p[2] for p in passes), drafts
                if not stands:
                    restart()
                    break
        draft(now)
        dispatch(now)
