"""A pair of tiny random models, and workers that have loaded it."""

from __future__ import annotations

import multiprocessing

import pytest

from dsim.backends.torch.models import specs
from dsim.backends.torch.pair import load_pair
from dsim.backends.torch.workers import Workers
from tests.tiny import write_pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pair(tmp_path_factory)


@pytest.fixture(scope="module")
def workers(folder):
    pair = load_pair(*specs(str(folder / "target"), str(folder / "drafter")))
    with Workers(pair, 2, share=True) as workers:
        yield workers
    assert not multiprocessing.active_children()
