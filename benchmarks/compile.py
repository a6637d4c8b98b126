"""One model's forwards: with a cache that grows, with a static one, and compiled.

    python benchmarks/compile.py --model FOLDER --dtype bfloat16

In this process, on one core with one thread, the three interleaved. ``static`` is what is compiled,
before it is. Set ``TORCHINDUCTOR_CACHE_DIR`` to an empty folder to see what the first warm-up on a
machine takes, and to the same folder again for a later one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", required=True)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--context", type=int, default=100)
    options.add_argument("--tokens", type=int, default=192, help="of the longest text")
    options.add_argument("--repeats", type=int, default=30)
    options.add_argument("--widths", default="1,4,8")
    args = options.parse_args()
    widths = [int(width) for width in args.widths.split(",")]

    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import numpy as np
    import torch

    from dsim.backends.torch.decoders import StaticTransformer, Transformer, nothing_learns
    from dsim.backends.torch.models import ModelSpec, load_config, load_model
    from dsim.backends.torch.placement import WARM_UP_WIDTHS, static_tokens
    from dsim.system import available_cores

    os.sched_setaffinity(0, available_cores()[-1:])
    torch.set_num_threads(1)
    spec = ModelSpec(name=args.model, dtype=args.dtype)
    model, config = load_model(spec, "cpu"), load_config(spec, "--model")
    vocab = config.vocab_size
    room = static_tokens(args.tokens, config.max_position_embeddings)
    decoders = {
        "dynamic": Transformer(model, "cpu", vocab),
        "static": StaticTransformer(model, "cpu", vocab, room, compiled=False),
        "compiled": StaticTransformer(model, "cpu", vocab, room),
    }
    for name, decoder in decoders.items():
        start = time.perf_counter()
        with nothing_learns():
            decoder.warm_up(WARM_UP_WIDTHS)
        print(f"{name}: warm-up {time.perf_counter() - start:.1f} s", flush=True)
    text = [(7 * i) % vocab for i in range(args.context)]
    print(f"{'width':>5}{'':4}" + "".join(f"{name:>15}" for name in decoders) + "   largest error")
    for width in widths:
        took: dict[str, list[float]] = {name: [] for name in decoders}
        error = 0.0
        for decoder in decoders.values():
            decoder.reset()
            with nothing_learns():
                decoder.forward(text, 1)
        for turn in range(args.repeats + 3):
            new = [(turn + i) % vocab for i in range(width)]
            logits = []
            for name, decoder in decoders.items():
                start_ns = time.perf_counter_ns()
                with nothing_learns():
                    logits.append(decoder.forward(text + new, width)[0])
                if turn >= 3:
                    took[name].append((time.perf_counter_ns() - start_ns) / 1e6)
            error = max(error, float(np.abs(logits[2] - logits[0]).max()))
        middles = "".join(f"{statistics.median(times):12.2f} ms" for times in took.values())
        print(f"{width:>5}{'':4}{middles}{error:16.1e}", flush=True)


if __name__ == "__main__":
    main()
