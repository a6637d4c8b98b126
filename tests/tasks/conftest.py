from __future__ import annotations

import pytest

from dsim.study.loader import loads
from dsim.tasks.run import run_study


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The results folder of a small study."""
    from tests.tasks.test_run import SMALL

    folder = tmp_path_factory.mktemp("small") / "out"
    run_study(loads(SMALL), folder)
    return folder
