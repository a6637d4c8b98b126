"""Colours of orchestrations, as people with each kind of colour blindness see them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dsim.orchestrations import ORCHESTRATIONS
from dsim.report.style import SHAPES, colours, shape

# Linear RGB as dichromats see it: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# From linear sRGB to XYZ under D65 (IEC 61966-2-1), and from there to CIE 1976 L*a*b*.
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
LEAST = 12  # of the distance in L*a*b*; 2.3 is just noticeable side by side
GROUNDS = ("#ffffff", "#1b212a")  # cards of a page, light and dark


def linear(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light):
    xyz = TO_XYZ @ np.clip(light, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    """The contrast ratio of WCAG 2."""
    light, dark = sorted((TO_XYZ[1] @ linear(colour) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("kind", SEEN)
def test_colours_of_orchestrations_can_be_told_apart(kind):
    seen = {
        name: lab(np.array(SEEN[kind]) @ linear(one.colour)) for name, one in ORCHESTRATIONS.items()
    }
    near = {
        (a, b): round(float(np.linalg.norm(seen[a] - seen[b])), 1)
        for a, b in itertools.combinations(seen, 2)
    }
    assert {pair: distance for pair, distance in near.items() if distance < LEAST} == {}


@pytest.mark.parametrize("ground", GROUNDS)
def test_colours_of_orchestrations_stand_out_from_the_page(ground):
    for name, one in ORCHESTRATIONS.items():
        assert contrast(one.colour, ground) >= 2, name


def test_names_beyond_the_colours_differ_by_shape():
    """Variants of one algorithm, and names of plugins: a colour that is near has another shape."""
    names = [f"variant {i}" for i in range(len(SHAPES))]
    shapes = shape("series", names).to_dict()["scale"]["range"]
    found = list(zip(colours(["x"] * len(names)), shapes, strict=True))
    assert len({form for _, form in found}) == len(names)
    assert len(set(found)) == len(found)
