"""Mutants: small faults planted one by one, each of which the tests have to notice.

``python benchmarks/mutants.py [--number N] [--seed S] [--log FILE] [--list]`` plants N faults that
cosmic-ray makes (a comparison turned, a number changed, an "and" for an "or" …), drawn at random
from the modules below, into a copy of the working tree, and runs the tests that belong to the
module. A mutant whose tests stay green survives. With ``--log`` a campaign goes on where it was
interrupted, and ``--again`` tries its survivors once more. Needs ``pip install cosmic-ray``, and
the extra torch for the backends.

``--tests FOLDER`` is quicker: all tests run once under coverage (``pip install pytest-cov``), whose
data are kept there; then the tests that reach the changed line come first, the quickest foremost.

What type checkers and readers see alone is left out: annotations, and words of messages.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from dsim.system import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
KEEP = ("dsim", "tests", "studies", "docs", "benchmarks", "models", "pyproject.toml", "README.md")
# Modules, and the tests that belong to them: the quickest first.
TESTED_BY = {
    "dsim/orchestrations/*.py": "tests/orchestrations tests/engines tests/tasks/test_serving.py",
    "dsim/events/*.py": "tests/events tests/orchestrations tests/engines",
    "dsim/model/*.py": "tests/model tests/engines tests/study/test_drafts.py tests/orchestrations",
    "dsim/engines/**/*.py": "tests/engines tests/orchestrations tests/study/test_grids.py "
    "tests/study/test_study.py",
    "dsim/deployment/**/*.py": "tests/deployment tests/tasks/test_load.py tests/study "
    "tests/tasks/test_advise.py",
    "dsim/backends/torch/verify.py": "tests/backends/test_verify.py tests/backends/test_torch.py",
    "dsim/backends/*.py": "tests/backends/test_live.py tests/backends/test_wallclock.py "
    "tests/orchestrations tests/backends/test_live_lookahead.py",
    "dsim/tasks/validate/*.py": "tests/tasks/test_prediction.py tests/tasks/test_validate.py",
}
REACH_S = 120.0  # so much time, of tests that reach a line, comes before all tests of its module
NEAR = 8  # lines above a changed line that may be the first one of its statement
NO_FAULTS = ("RemoveDecorator", "ExceptionReplacer", "VariableReplacer", "VariableInserter")
MAX_S = 1800


def modules() -> dict[str, str]:
    """Every module that is mutated, with its tests; the first pattern that fits counts."""
    found: dict[str, str] = {}
    for pattern, tests in sorted(TESTED_BY.items(), key=lambda item: "*" in item[0]):
        for path in sorted(ROOT.glob(pattern)):
            found.setdefault(str(path.relative_to(ROOT)), tests)
    return {name: tests for name, tests in found.items() if not name.endswith("__init__.py")}


def unseen(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The parts of a module that no run executes: annotations and imports for them."""
    parts: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            parts += [one.annotation for one in every if one.annotation]
            parts += [node.returns] if node.returns else []
        elif isinstance(node, ast.AnnAssign):
            parts.append(node.annotation)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            parts.append(node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORCHESTRATION":
            parts.append(node)  # titles, colours and traits: tests of documents hold them
    return [
        ((part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0))  # type: ignore[attr-defined]
        for part in parts
    ]


def mutants(name: str) -> Iterator[tuple[str, str, int]]:
    """The mutants of module *name*: its name, the operator's, and which occurrence."""
    path = ROOT / name
    hidden = unseen(path.read_text(encoding="utf-8"))
    tree = get_ast_from_path(path)
    for operator_name in sorted(operator_names()):
        if any(unfit in operator_name for unfit in NO_FAULTS):
            continue
        operator = get_operator(operator_name)()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if not any(first <= start and end <= last for first, last in hidden):
                yield name, operator_name, occurrence


def planted(name: str, operator_name: str, occurrence: int) -> tuple[str, str]:
    """The module with the fault in it, and the lines that differ."""
    path = ROOT / name
    before = path.read_text(encoding="utf-8")
    after = mutate_code(before.encode(), get_operator(operator_name)(), occurrence) or before
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return after, "\n".join(line for line in lines if line[:3] not in {"---", "+++"})


def compiles(mutant: tuple[str, str, int]) -> bool:
    """Whether it is Python at all: cosmic-ray takes the star of ``def f(*, x)`` for a product."""
    try:
        compile(planted(*mutant)[0], mutant[0], "exec")
    except SyntaxError:
        return False
    return True


def pytest_in(tree: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    """Begin tests of *tree*, none of which needs real time, in silence."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not wallclock", "--hypothesis-seed=1", *more]
    own = {"PYTHONPATH": f"{tree}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(
        command,
        cwd=tree,
        env={**os.environ, **own, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def outcomes_in(times: Path) -> Iterator[tuple[str, bool, float]]:
    """Each test of a JUnit file: its name, whether it passed, and its seconds."""
    for case in ET.parse(times).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        yield name, not len(case), float(case.get("time", 0))


class Reach:
    """Which tests reach which line, and how long they take."""

    def __init__(self, folder: Path, tree: Path) -> None:
        """Read the data in *folder*; if there are none, run all tests of *tree* under coverage."""
        sys.path[:] = [path for path in sys.path if Path(path) != ROOT / "benchmarks"]
        from coverage import CoverageData  # the package, not benchmarks/coverage.py

        data, times = folder.resolve() / "coverage", folder.resolve() / "times.xml"
        if not (data.exists() and times.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            tests = sorted({one for tests in TESTED_BY.values() for one in tests.split()})
            options = ["-n2", f"--junitxml={times}", "--cov=dsim", "--cov-context=test"]
            # A test that fails here, in a copy, is not among those that can tell a mutant.
            pytest_in(tree, *options, "--cov-report=", *tests, COVERAGE_FILE=str(data)).wait()
        self.data = CoverageData(str(data))
        self.data.read()
        self.took_s = {name: took_s for name, passed, took_s in outcomes_in(times) if passed}

    def tests(self, name: str, diff: str) -> list[str]:
        """The quickest of the tests that reach the lines of module *name* that *diff* changes."""
        path = next((one for one in self.data.measured_files() if one.endswith(f"/{name}")), "")
        at = self.data.contexts_by_lineno(path)
        found: set[str] = set()
        for line in re.findall(r"^@@ -(\d+)", diff, re.MULTILINE):
            near = range(int(line), int(line) - NEAR, -1)
            found |= next(filter(None, (self._known(at.get(n, ())) for n in near)), set())
        if not found:  # reached when it is imported
            found = self._known(one for contexts in at.values() for one in contexts)
        chosen, spent_s = [], 0.0
        for test in sorted(found, key=lambda one: (self.took_s[one], one)):
            spent_s += self.took_s[test]
            if spent_s < REACH_S:
                chosen.append(test)
        return chosen

    def _known(self, contexts: Iterable[str]) -> set[str]:
        return {one.split("|")[0] for one in contexts} & self.took_s.keys()


def verdict(tree: Path, tests: list[str], limit_s: float) -> tuple[str, str]:
    """What becomes of *tests* in *tree*, and which of them failed.

    Returns:
        ``killed``, ``killed by time`` or ``SURVIVED``; and the first test that failed, if one did.
    """
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder, "times.xml")
        process = pytest_in(tree, "-x", "-n0", f"--junitxml={times}", *tests)
        try:
            if not process.wait(limit_s):
                return "SURVIVED", ""
            names = outcomes_in(times) if times.exists() else ()
            return "killed", next((name for name, passed, _ in names if not passed), "")
        except subprocess.TimeoutExpired:
            return "killed by time", ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def fate(tree: Path, first: list[str], tests: list[str], limit_s: float) -> tuple[str, str]:
    """As :func:`verdict`, of the tests that reach a fault and then of all of its module.

    A test that fails must do so by itself, too: on a busy machine, or after others, some fail
    without a fault.
    """
    for chosen in filter(None, (first, tests)):
        others: list[str] = []
        while True:
            outcome, by = verdict(tree, [*chosen, *others], limit_s)
            if not by or verdict(tree, [by], limit_s)[0] != "SURVIVED":
                break
            others.append(f"--deselect={by}")
        if outcome != "SURVIVED":
            return outcome, by
    return "SURVIVED", ""


def main() -> None:
    """Draw mutants, try them, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--again", action="store_true", help="try the survivors of the log again")
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    parser.add_argument("--tests", type=Path, help="a folder of which tests reach which line")
    parser.add_argument("--limit", type=float, default=MAX_S, help="seconds a mutant may take")
    options = parser.parse_args()

    tested_by = modules()
    everything = [one for name in tested_by for one in mutants(name)]
    random.Random(options.seed).shuffle(everything)  # noqa: S311
    drawn = list(itertools.islice(filter(compiles, everything), options.number))
    print(f"{len(everything):,} mutants in {len(tested_by)} modules; {len(drawn)} are tried")
    known: dict[str, dict[str, Any]] = {}
    if options.log and options.log.exists():
        rows = map(json.loads, options.log.read_text(encoding="utf-8").splitlines())
        known = {" ".join(map(str, row["mutant"])): row for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in KEEP:
            if (ROOT / part).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(ROOT / part, tree / part, ignore=ignore)
            else:
                shutil.copy(ROOT / part, tree / part)
        reach = Reach(options.tests, tree) if options.tests else None
        outcomes = collections.Counter[str]()
        for number, mutant in enumerate(drawn):
            row = known.get(" ".join(map(str, mutant)))
            if row is None or (options.again and row["outcome"] == "SURVIVED"):
                code, diff = planted(*mutant)
                if options.list:
                    print(mutant[0], diff, sep="\n", end="\n\n")
                    continue
                original = (ROOT / mutant[0]).read_text(encoding="utf-8")
                (tree / mutant[0]).write_text(code, encoding="utf-8")
                began = time.monotonic()
                first = reach.tests(mutant[0], diff) if reach else []
                outcome, by = fate(tree, first, tested_by[mutant[0]].split(), options.limit)
                (tree / mutant[0]).write_text(original, encoding="utf-8")
                took_s = round(time.monotonic() - began, 1)
                row = {"mutant": mutant, "outcome": outcome, "by": by, "took_s": took_s}
                row["diff"] = diff
                if options.log:
                    with options.log.open("a", encoding="utf-8") as log:
                        log.write(json.dumps(row) + "\n")
            outcomes[row["outcome"]] += 1
            if row["outcome"] == "SURVIVED":
                print(f"SURVIVED {number} {mutant[0]}\n{row['diff']}\n", flush=True)
        print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))


if __name__ == "__main__":
    with stop_on_signals():  # SIGTERM, too, ends the tests under way
        main()
