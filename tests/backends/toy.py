"""Orchestrations on toy models, in simulated time: the torch backend without its processes."""

from __future__ import annotations

import types

import numpy as np

from dsim.backends.lines import Reply
from dsim.backends.torch.backend import LiveOutput, Shared, Torch
from dsim.backends.torch.fitting import widest
from dsim.backends.torch.nodes import END
from dsim.backends.torch.protocol import Feed, FeedNodes
from dsim.backends.torch.worker import feed, feed_nodes
from dsim.events.environment import Environment
from dsim.model.case import Decoding
from dsim.model.lookahead import Plan
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.start import start

PROMPT = [0, 1]


class Toy:
    """A model whose next token hangs on the last two: its logits are a table of random numbers."""

    def __init__(self, vocab: int, seed: int, *, like: Toy | None = None, noise: float = 1.0):
        made = np.random.default_rng(seed).normal(size=(vocab, vocab, vocab)) * 1.5
        self.table = made if like is None else like.table + noise * made

    def after(self, text):
        return self.table[text[-2], text[-1]]

    def forward(self, tokens, rows):
        last = range(len(tokens) - rows + 1, len(tokens) + 1)
        return np.array([self.after(tokens[:end]) for end in last]), rows

    def read_nodes(self, asked):
        text, nodes, ask, *_ = asked
        paths = []
        for parent, token in nodes:
            paths.append([*(text if parent == END else paths[parent]), token])
        rows = [self.after(text if node == END else paths[node]) for node in ask]
        return np.array(rows), len(nodes)


class InProcess(Torch):
    """Answers at once, after a latency of simulated time."""

    def __init__(self, env, decoder, latency_ns, *args, **kwargs):
        line = types.SimpleNamespace(ahead=0, rank=0)
        super().__init__(env, [line] * 8, *args, **kwargs)
        self.decoder, self.latency_ns = decoder, latency_ns
        self.live = types.SimpleNamespace(
            ask=self.ask, halt=lambda _: None, zero_ns=0, schedule=env.schedule
        )
        self.simulated, self.env = env, self.live
        self.live.now = 0

    def ask(self, _, forward, request, answered, __=0):
        role = forward.servers.role
        if isinstance(request, FeedNodes):
            done = feed_nodes(self.decoder, self.rule, PROMPT, request)
        else:
            answer = {"drafter": self.rule.draft, "target": self.rule.own}[role]
            done = feed(self.decoder, answer, PROMPT, Feed(*request))
        forward.callbacks.insert(0, lambda _: answered(forward, Reply(0, 0, 0, done.pack())))
        self.simulated.schedule(forward, forward.servers.priority, self.latency_ns)


def run(algorithm, target, drafter, rule, tokens, *, decoding=None, k=2, servers=2, times=(3, 10)):
    """The tokens that *algorithm* settles, and the run's :class:`Shared`."""
    decoding = decoding or Decoding()
    env, shared = Environment(), Shared()
    output = LiveOutput(env, tokens)
    trees = ORCHESTRATIONS[algorithm].trees
    start(
        algorithm,
        env,
        output,
        drafter_backends=[
            InProcess(
                env,
                drafter,
                times[0],
                rule,
                shared,
                candidates=widest(decoding.tree) * trees,
                block_tokens=decoding.block_tokens,
            )
        ],
        target_backend=InProcess(env, target, times[1], rule, shared),
        plan=Plan(k),
        targets=servers,
        decoding=decoding,
    )
    env.run(until=output.done)
    return output.tokens[: output.settled], shared
