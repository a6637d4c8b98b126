"""What MkDocs does to pages that GitHub shows as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

COG = re.compile(r"<!-- \[\[\[(?:cog.*?\]\]\]|end\]\]\]) -->\n?", re.DOTALL)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")  # files of the repository, not of the site
SHIM = "https://unpkg.com/iframe-worker/shim"  # the theme would fetch it; ours needs no network


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Without the marks of the tool that writes parts, and without links to files elsewhere."""
    return OUTSIDE.sub(r"\1", COG.sub("", markdown))


def on_post_page(output: str, **_: Any) -> str:
    """With our own way to search from the disk."""
    return output.replace(SHIM, "javascripts/frame-worker.js")


def on_post_build(config: Any, **_: Any) -> None:
    """Without the page for addresses that do not exist: files have none."""
    (Path(config["site_dir"]) / "404.html").unlink()
