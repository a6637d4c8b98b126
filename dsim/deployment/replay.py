"""Workloads that are replayed: when requests came, how long they are, and what else is known."""

from __future__ import annotations

import functools
from typing import NamedTuple

from dsim.deployment.request_rows import Row, Text, shown, tables
from dsim.units import NS_PER_S

MAX_SPAN_NS = 30 * 365 * 86_400 * NS_PER_S  # fits twice over into 63 bits


class Replay(NamedTuple):
    """A workload from a file.

    Attributes:
        began_ns: when the first request came, by the clock of the file.
        requests: (ns since then, prompt tokens, output tokens) in order of arrival.
        texts: what else is known of each of them.
        source: name of the file's format.
        failed: requests without an answer, which are left out.
    """

    began_ns: int
    requests: tuple[tuple[int, int, int], ...]
    texts: tuple[Text, ...]
    source: str = "dsim"
    failed: int = 0

    def window(
        self, from_s: float = 0.0, for_s: float | None = None, rate_scale: float = 1.0
    ) -> Replay:
        """The requests of a part of the time, which then begins at 0, at another rate.

        Args:
            from_s: seconds after the first request from which on requests count.
            for_s: seconds for which they do; ``None``: to the end.
            rate_scale: how many times as often requests come; 2 halves every gap.

        Raises:
            ValueError: there is no request.
        """
        if (from_s, for_s, rate_scale) == (0.0, None, 1.0):
            return self
        begin = round(from_s * NS_PER_S)
        end = None if for_s is None else begin + round(for_s * NS_PER_S)
        kept = [
            number
            for number, (at, _, _) in enumerate(self.requests)
            if at >= begin and (end is None or at < end)
        ]
        if not kept:
            span_s = self.requests[-1][0] / NS_PER_S
            raise ValueError(f"no request comes in that time; the trace has {span_s:,.6g} s")
        rows = [self.requests[number] for number in kept]
        first = rows[0][0] if from_s else 0
        scaled = [(round((at - first) / rate_scale), p, o) for at, p, o in rows]
        if scaled[-1][0] > MAX_SPAN_NS:
            raise ValueError("the requests come over more than 30 years")
        texts = tuple(self.texts[number] for number in kept)
        began_ns = self.began_ns + first
        return self._replace(began_ns=began_ns, requests=tuple(scaled), texts=texts)


@functools.lru_cache(maxsize=8)  # the cases of a study have it in common
def read_replay(text: str) -> Replay:
    """A workload from the text of a file.

    dsim's own CSV has the columns ``arrival_ms`` (or ``arrival_s``, ``arrival_us``),
    ``prompt_tokens`` (0 if there is none) and ``output_tokens``; and, if known, ``request_id``,
    ``prefix_group`` and ``prefix_tokens`` (the first so many tokens of a group's prompts are the
    same), and ``accepts`` (0 and 1 by output position). With ``arrival_us``, ``request_id`` and
    ``prompt_tokens`` must be there, and the rows must be sorted by time; otherwise they need not
    be. The first request comes at 0.

    Traces of the field are read as they are published: Azure's (2023, 2024), BurstGPT's, and
    Mooncake's (JSON lines). Their rows must be sorted by time; requests without an answer are left
    out.

    Raises:
        ValueError: a column is missing, a value is not valid, or times go back.
    """
    form, lines = tables(text)
    found: list[Row] = []
    failed = 0
    for number, cells in lines:
        try:
            row = form.row(cells)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if form.failures and row.output == 0:
            failed += 1
            continue
        if form.sorted and found and row.at_ns < found[-1].at_ns:
            raise ValueError(f"line {number}: times go back, got {shown(cells)}")
        found.append(row)
    if not found:
        raise ValueError("expected a header and at least one request")
    found.sort(key=lambda row: row.at_ns)
    began_ns = found[0].at_ns
    if found[-1].at_ns - began_ns > MAX_SPAN_NS:
        raise ValueError("the requests come over more than 30 years")
    return Replay(
        began_ns=began_ns,
        requests=tuple((row.at_ns - began_ns, row.prompt, row.output) for row in found),
        texts=tuple(row.text for row in found),
        source=form.name,
        failed=failed,
    )


def read_trace(text: str) -> tuple[tuple[int, int, int], ...]:
    """The requests of :func:`read_replay`."""
    return read_replay(text).requests
