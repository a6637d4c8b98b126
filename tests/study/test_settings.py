"""What ``dsim settings`` prints can be read one setting at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dsim.study.deployment_settings import DEPLOYMENT_SETTINGS
from dsim.study.settings import CHART_SETTINGS, SETTINGS

if TYPE_CHECKING:
    from dsim.study.setting import Setting


@pytest.mark.parametrize(
    "setting", [*SETTINGS, *DEPLOYMENT_SETTINGS, *CHART_SETTINGS], ids=lambda s: s.key
)
def test_meaning_stands_alone(setting: Setting) -> None:
    """No meaning continues that of another setting, or leaves out its noun."""
    meaning = re.sub(r"^multidsi: ", "", setting.meaning)
    assert not re.search(r"^(…|as |of |their |while )|(,| and|, as many)$", meaning)
