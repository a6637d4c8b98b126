"""What the process does first from which workers are forked; see :mod:`dsim.backends.torch.forks`.

That process imports this module before anything else. To import it elsewhere does nothing.
"""

from __future__ import annotations

import gc
import os

from dsim.system import end_at_once

VARIABLE = "DSIM_FORKS_FOR"  # holds the process id of the process that the workers are for
servers: list[int] = []  # here and in copies: the process id of the fork server


def load(parent: int) -> None:
    """End with the process *parent*, hold no stream of it, and load what workers need."""
    end_at_once()
    if os.getppid() != parent:
        os._exit(1)  # it had ended before the system was told
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    servers.append(os.getpid())
    gc.disable()  # what is loaded stays
    try:
        # With most of what other models need.
        import transformers.models.llama.modeling_llama  # noqa: F401
        from transformers import AutoModelForCausalLM, DynamicCache  # noqa: F401

        import dsim.backends.torch.worker  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()  # a worker's collections shall not copy all of these pages


if asked := os.environ.pop(VARIABLE, ""):
    load(int(asked))
