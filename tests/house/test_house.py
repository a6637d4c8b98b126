"""The house: imports point down, files are short, names of orchestrations stay in their room."""

from __future__ import annotations

import pytest

from tests.house import laws, words


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_the_laws_hold(law):
    assert law() == []


def test_the_laws_see_the_code():
    """A law that reads nothing could not be broken."""
    known = laws.modules()
    assert {"dsim.cli.main", "dsim.model.acceptance", "dsim.orchestrations.dsi"} <= known.keys()
    arrows = {(one.source, one.target) for one in laws.imports()}
    assert ("dsim.orchestrations.si", "dsim.orchestrations.declaration") in arrows
    assert any(one.for_types for one in laws.imports())
    assert any(one.inside for one in laws.imports())


def test_no_lost_word_is_back():
    assert words.found() == []
