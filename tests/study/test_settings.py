"""What ``dsim settings`` prints can be read one setting at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dsim.errors import UserError
from dsim.study.deployment_settings import DEPLOYMENT_SETTINGS
from dsim.study.loader import loads
from dsim.study.settings import CHART_SETTINGS, SETTINGS
from dsim.words import closest

if TYPE_CHECKING:
    from dsim.study.setting import Setting


@pytest.mark.parametrize(
    "setting", [*SETTINGS, *DEPLOYMENT_SETTINGS, *CHART_SETTINGS], ids=lambda s: s.key
)
def test_meaning_stands_alone(setting: Setting) -> None:
    """No meaning continues that of another setting, or leaves out its noun."""
    meaning = re.sub(r"^multidsi: ", "", setting.meaning)
    assert not re.search(r"^(…|as |of |their |while )|(,| and|, as many)$", meaning)


def test_a_table_inside_another_is_explained():
    """``cluster.price`` below ``[replica]`` was taken for a misspelled ``replica.router``."""
    with pytest.raises(UserError, match=r"replica.cluster: unknown setting: what follows \[repl"):
        loads("[replica]\ncount = 1\ncluster.gpus_per_target = 2\n")


def test_the_beginning_of_a_name_leads_to_it():
    with pytest.raises(UserError, match='workload.rate: unknown setting; did you mean "workload'):
        loads("workload.rate = 3\n")
    assert closest("workload.rate", ["workload.trace", "workload.rate_per_s"]).endswith("per_s")
