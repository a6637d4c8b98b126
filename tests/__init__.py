"""Tests, a folder for each room of dsim."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
