"""The rules of ``docs/replicas.md`` once more, as plainly as can be, with every token in a list.

It shares nothing with dsim: tests hold the engine against it.
"""

from __future__ import annotations


class Text:
    """One request: its tokens, and the numbers of its blocks."""

    def __init__(self, number, arrival, prompt, output, group="", shared=0, accepts=()):
        self.number, self.arrival, self.output, self.accepts = number, arrival, output, accepts
        self.tokens = [(group, i) if i < shared else (number, i) for i in range(prompt)]
        self.prompt, self.computed, self.drafts, self.drafter_read = prompt, 0, 0, prompt
        self.blocks, self.settled, self.preemptions = [], [], 0

    def left(self):
        return self.prompt + self.output - len(self.tokens)

    def decoding(self):
        return len(self.tokens) - self.computed == 1 and self.computed >= self.prompt


class Memory:
    """KV blocks: what each holds, who uses it, and the queue of those that nobody uses."""

    def __init__(self, count, size, cache):
        self.size, self.cache = size, cache
        self.holds = [None] * count
        self.users = [0] * count
        self.queue = list(range(count))

    def cached(self, text):
        found = []
        for end in range(self.size, len(text.tokens), self.size):
            block = next((b for b in self.order if self.holds[b] == tuple(text.tokens[:end])), None)
            if block is None or not self.cache:
                break
            found.append(block)
        return found

    order = ()

    def take(self, text):
        block = self.queue.pop(0)
        self.holds[block] = None
        self.order = [b for b in self.order if b != block]
        self.users[block] = 1
        text.blocks.append(block)

    def note(self, text, end):
        """The first *end* tokens of *text* are in its blocks now."""
        for place in range(min(end, len(text.tokens)) // self.size):
            block = text.blocks[place]
            if self.holds[block] is None:
                self.holds[block] = tuple(text.tokens[: (place + 1) * self.size])
                self.order = [*self.order, block]

    def missing(self, text, end):
        return max(0, -(-end // self.size) - len(text.blocks))

    def give_back(self, text):
        for block in reversed(text.blocks):
            self.users[block] -= 1
            if self.users[block] == 0:
                self.queue.append(block)
        text.blocks = []


def run(texts, s, target, drafter, drafts_for):
    """Serve *texts* on one replica.

    Args:
        texts: in order of arrival.
        s: max_seqs, budget, threshold (0: none), blocks, size, cache, features.
        target, drafter: times by (prefill tokens, decoding tokens) and by tokens.
        drafts_for: ``k`` by the number of requests that go on; ``None``: nothing drafts.
    """
    memory = Memory(s["blocks"], s["size"], s["cache"])
    coming, waiting, running, now, steps = list(texts), [], [], 0, []
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0].arrival)
        while coming and coming[0].arrival <= now:
            text = coming.pop(0)
            if -(-(text.prompt + text.output - 1) // s["size"]) <= s["blocks"]:
                waiting.append(text)
        if not waiting and not running:
            continue
        budget, evicted, batch = s["budget"], False, []
        for text in list(running):
            if text not in running or not budget:
                continue
            tokens = min(len(text.tokens) - text.computed, s["threshold"] or budget, budget)
            drafts = 0
            if text.computed + tokens == len(text.tokens):
                drafts = min(text.drafts, budget - tokens)
            end = text.computed + tokens + drafts
            while text in running and memory.missing(text, end) > len(memory.queue):
                evicted, last = True, running.pop()
                memory.note(last, last.computed)
                memory.give_back(last)
                last.computed = last.drafts = 0
                last.preemptions += 1
                waiting.insert(0, last)
            if text in running:
                for _ in range(memory.missing(text, end)):
                    memory.take(text)
                memory.note(text, text.computed + tokens)
                budget -= tokens + drafts
                batch.append((text, tokens, drafts))
        while waiting and not evicted and budget and len(running) < s["max_seqs"]:
            text = waiting[0]
            hits = memory.cached(text)
            computed = len(hits) * s["size"]
            tokens = min(len(text.tokens) - computed, s["threshold"] or budget, budget)
            idle = [block for block in hits if memory.users[block] == 0]
            new = -(-(computed + tokens) // s["size"]) - len(hits)
            if new + len(idle) > len(memory.queue):
                break
            running.append(waiting.pop(0))
            for block in hits:
                memory.users[block] += 1
            memory.queue = [block for block in memory.queue if block not in idle]
            text.blocks, text.computed = hits, computed
            for _ in range(new):
                memory.take(text)
            memory.note(text, computed + tokens)
            budget -= tokens
            batch.append((text, tokens, 0))
        prefill = sum(t for text, t, _ in batch if not text.decoding())
        decoding = sum(t + d for text, t, d in batch if text.decoding())
        ended = now + target(prefill, decoding)
        going, done, settled = [], [], []
        for text, tokens, drafts in batch:
            text.computed += tokens
            if text.computed < len(text.tokens):
                continue
            position = len(text.tokens) - text.prompt
            stand = 0
            while stand < drafts and text.accepts[position + stand]:
                stand += 1
            for _ in range(stand + 1):
                text.tokens.append((text.number, len(text.tokens)))
                settled.append(text)
            text.drafter_read = min(text.drafter_read, text.computed + stand)
            text.computed += stand
            text.drafts = 0
            (going if text.left() else done).append(text)
        if drafts_for is not None and going:
            k = drafts_for(len(going))
            for text in going:
                text.drafts = min(k, text.left() - 1)
            for forward in range(max(text.drafts for text in going)):
                feed = 0
                for text in going:
                    if text.drafts > forward:
                        feed += 1 if forward else len(text.tokens) - text.drafter_read
                ended += drafter(feed)
            for text in going:
                if text.drafts:
                    ahead = 0 if s["features"] else text.drafts - 1
                    text.drafter_read = len(text.tokens) + ahead
        for text in settled:
            text.settled.append(ended)
        for text in done:
            running.remove(text)
        owners = [block for text in running + done for block in text.blocks]
        assert all(owners.count(b) == memory.users[b] for b in range(s["blocks"]))
        assert sum(t + d for _, t, d in batch) <= s["budget"]
        for text in done:
            memory.give_back(text)
        steps.append((now, ended))
        now = ended
    return steps
