"""What does not need the extras works without them, where CI has them installed.

The suite as a whole is run either with torch or without. These files start workers and commands of
every kind that does not need a model, so they are run a second time, in processes in which the
extras cannot be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import have_torch

EXTRAS = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf")
FILES = ("workers", "worker", "torch")
VALIDATION = "tasks/test_validate.py::test_json_and_text_and_report"
PYTEST = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-n", "0"]


def test_workers_that_need_no_model_need_no_extras(tmp_path: Path) -> None:
    if not have_torch():
        pytest.skip("the extras are not installed, so the whole suite runs without them")
    # A module that is None cannot be imported or found; every Python reads this file at its start.
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS}))\n"
    )
    tests = Path(__file__).parent
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    files = [str(next(tests.rglob(f"test_{name}.py"))) for name in FILES]
    files.append(str(tests / VALIDATION))
    done = subprocess.run(
        [sys.executable, *PYTEST, "-m", "not wallclock", *files],
        cwd=tests.parent,
        env=env | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(tests.parent)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "torch and transformers are not installed" in done.stdout  # so it was hidden
