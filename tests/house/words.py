"""Words that dsim has lost: habits that a stranger stumbles over, and what to write instead.

``python -m tests.house.words`` prints every place where one is back.
"""

from __future__ import annotations

import re

from tests import ROOT

LOST = {
    r"\banew\b": "again",
    r"\blikewise\b": "the noun once more",
    r"\bin vain\b": "wasted, or: its result is ignored",
    r"\bof (its|their) own accord\b": "unasked",
    r"\bin earnest\b": "(nothing)",
    r"\bstands? there twice\b": "duplicate",
    r"\bat hand\b": "available",
    r"\b(same|their|its|alike|of|by) luck\b|\bluck (is|in)\b|\bonly the luck\b": "random draws",
    r"\b(same|worse|machine's) weather\b": "machine load",
    r"\bthe door\b": "admission queue",
    r"\bobituary\b|\bin peace\b|\bIN_PEACE\b": "exit reason, completed",
    r"\bturned away\b": "rejected",
    r"\b(MOST|LEAST|FEWEST|LONGEST)_[A-Z]": "MAX_, MIN_",
    r"\bso (many|much) (of|times|servers|others|requests|forwards)\b": "the number",
    r"(:|^) (it|likewise|which ones|what|of (it|that|these|the run))\.(\n|$)": "a noun for each it",
    r"\bmistake of dsim's\b": "bug in dsim",
    r"\bin whatever currency\b": "in any currency",
    r"\bleaves with\b": "exits with status",
}
# Texts that models read or wrote are nobody's words.
PLACES = ("README.md", "docs/**/*.md", "dsim/**/*.py", "dsim/**/*.jinja", "studies/*.toml")
PLACES += ("benchmarks/**/*.py", "benchmarks/**/*.md", "tests/**/*.py")
KEPT = ("tests/house/words.py",)


def found() -> list[str]:
    """Every place with a lost word: file, line, word, what to write."""
    places = []
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if name in KEPT:
                continue
            lines = path.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(lines, 1):
                for lost, instead in LOST.items():
                    if match := re.search(lost, line, re.IGNORECASE if lost.islower() else 0):
                        places.append(f"{name}:{number}: “{match[0]}”: {instead}")
    return places


if __name__ == "__main__":
    print("\n".join(found()))
