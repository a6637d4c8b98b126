"""The orchestrations that can be compared, and how to add one (``docs/orchestrations.md``)."""

from __future__ import annotations

from dsim.orchestrations.declaration import (
    FURTHER_DRAFTERS,
    LOOKAHEAD,
    READABLE,
    Orchestration,
    Traits,
    Work,
)
from dsim.orchestrations.drafting import draft_up_to
from dsim.orchestrations.plugins import import_named
from dsim.orchestrations.registry import (
    COMPARED,
    DEFAULT,
    ORCHESTRATIONS,
    PIPELINE,
    REFERENCES,
    may_read,
    orchestration_of,
    register,
    title_of,
    titles,
)

__all__ = [
    "COMPARED",
    "DEFAULT",
    "FURTHER_DRAFTERS",
    "LOOKAHEAD",
    "ORCHESTRATIONS",
    "PIPELINE",
    "READABLE",
    "REFERENCES",
    "Orchestration",
    "Traits",
    "Work",
    "draft_up_to",
    "may_read",
    "orchestration_of",
    "register",
    "title_of",
    "titles",
]

import_named()  # in a worker process, before anything reads the list
