"""Draw the pictures of the gallery again: ``python docs/make_gallery.py`` (some minutes).

Each study that has a picture in ``docs/gallery`` is run; its chart takes the place of the picture.
With names of studies, only these. The pictures of the README in ``docs/images`` follow: a timeline,
and dark versions of pictures of the gallery.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from pathlib import Path

from dsim import make_case
from dsim.engines.simulate import run_events
from dsim.orchestrations import COMPARED
from dsim.report import timeline
from dsim.report.lanes import lanes
from dsim.report.vega import Vega
from dsim.study import shipped
from dsim.study.executors import Executor
from dsim.study.loader import load
from dsim.system import available_cores
from dsim.tasks.run import run_study

HERE = Path(__file__).parent / "gallery"
# The chart that shows what the study asks, where it is not the first.
CHARTS = {"heatmap": "04-*.svg", "heatmap-paper": "04-*.svg"}
CHARTS |= {"adaptive": "01-*-3.svg", "devices": "01-*-2.svg"}  # of the higher acceptance rates

IMAGES = Path(__file__).parent / "images"
README = ("heatmap", "load", "servers")
# Colours of a picture on a dark ground; those of the data stay.
DARK = {
    'fill="white"': 'fill="#12161c"',
    "#000": "#c3ccd7",
    "#e6e9ee": "#2d3642",
    "#dde2e8": "#2d3642",
    "#b9c1cb": "#4a5563",
}


def images() -> None:
    """Draw the pictures of the README."""
    case = make_case({"tokens": 14, "repeats": 1, "acceptance.rate": 0.75, "lookahead": 2})
    run = run_events(case, COMPARED[-1], 0, keep_history=True)
    with lanes() as at_work:
        title = "DSI: drafts go on while target servers verify"
        panel = dataclasses.replace(timeline.panel("timeline", title, run), width=620)
        _, svg = Vega(at_work).pictures(panel)()
    pictures = {"timeline": svg, **{n: (HERE / f"{n}.svg").read_text("utf-8") for n in README}}
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "timeline.svg").write_text(svg, "utf-8")
    for name, text in pictures.items():
        shades = re.compile("|".join(DARK))
        dark = shades.sub(lambda found: DARK[found[0]], text)
        (IMAGES / f"{name}-dark.svg").write_text(dark, "utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or [path.stem for path in sorted(HERE.glob("*.svg"))]:
        with tempfile.TemporaryDirectory() as folder:
            study = load(shipped.path_of(name))
            run_study(study, Path(folder) / "out", executor=Executor(jobs=len(available_cores())))
            picture = min((Path(folder) / "out").glob(CHARTS.get(name, "01-*.svg")))
            shutil.copy(picture, HERE / f"{name}.svg")
            print(name, picture.name)
    images()
