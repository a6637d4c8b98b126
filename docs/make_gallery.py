"""Draw the pictures of the gallery again: ``python docs/make_gallery.py`` (some minutes).

Each study that has a picture in ``docs/gallery`` is run; its chart takes the place of the picture.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from dsim.study import shipped
from dsim.study.executors import Executor
from dsim.study.loader import load
from dsim.system import available_cores
from dsim.tasks.run import run_study

HERE = Path(__file__).parent / "gallery"
# The chart that shows what the study asks, where it is not the first.
CHARTS = {"heatmap": "04-*.svg", "heatmap-paper": "04-*.svg"}

if __name__ == "__main__":
    for name in sys.argv[1:] or [path.stem for path in sorted(HERE.glob("*.svg"))]:
        with tempfile.TemporaryDirectory() as folder:
            study = load(shipped.path_of(name))
            run_study(study, Path(folder) / "out", executor=Executor(jobs=len(available_cores())))
            picture = min((Path(folder) / "out").glob(CHARTS.get(name, "01-*.svg")))
            shutil.copy(picture, HERE / f"{name}.svg")
            print(name, picture.name)
