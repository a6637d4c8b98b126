"""Commands of the pages, run as they are written down (by cog, in ``make docs``)."""

from __future__ import annotations

import os
import tempfile
import textwrap
from contextlib import chdir
from pathlib import Path

from click.testing import CliRunner

from dsim.cli.main import main


def shown(words: str, *, files: dict[str, str] | None = None, keep: int = 0) -> str:
    """A command and what it prints, as two blocks of Markdown.

    Args:
        words: what stands behind ``dsim``.
        files: files that it reads, by name.
        keep: number of lines of output to keep; 0: all.
    """
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, text in (files or {}).items():
            Path(name).write_text(text, encoding="utf-8")
        before = dict(os.environ)
        found = CliRunner().invoke(main, words.split())
        os.environ.clear()
        os.environ.update(before)
    if found.exit_code:
        raise RuntimeError(found.output)
    lines = []
    for line in found.stdout.rstrip().splitlines()[: keep or None]:
        lines += [line] if not line or "  " in line.strip() else textwrap.wrap(line, 110)
    return f"```sh\ndsim {words}\n```\n\n```text\n" + "\n".join(lines) + "\n```"
