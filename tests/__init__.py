"""Tests, a folder for each room of dsim."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"


def said(errors: str) -> str:
    """What a run said on standard error, without the lines of progress of a slow machine."""
    progress = r"[\d,]+ of [\d,]+ \w+(, about .+ left)?"
    return "\n".join(line for line in errors.splitlines() if not re.fullmatch(progress, line))
