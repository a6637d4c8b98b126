"""Pages that dsim wrote, opened in a real browser with the network off."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Evaluated on a page with a selector: what is wrong with the texts inside.
TEXTS = Path(__file__).with_name("faults.js").read_text("utf-8")
# Pairs of texts of one chart that overlap, and texts that stick out of their figure.
FAULTS = """() => {
  const faults = [], box = e => e.getBoundingClientRect();
  for (const figure of document.querySelectorAll("figure")) {
    const texts = [...figure.querySelectorAll("svg text")].filter(e => e.textContent.trim()
      && getComputedStyle(e).opacity !== "0" && e.getAttribute("opacity") !== "0" && box(e).width);
    const frame = box(figure), menu = figure.querySelector("summary");
    const all = menu ? [...texts, menu] : texts;
    const name = e => `“${e.textContent.trim() || "menu"}”`;
    all.forEach((one, i) => {
      const a = box(one);
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1)
        faults.push(`${name(one)} is cut`);
      for (const other of all.slice(i + 1)) {
        const b = box(other);
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
          faults.push(`${name(one)} and ${name(other)} overlap`);
      }
    });
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push("the page scrolls sideways");
  for (const table of document.querySelectorAll("table"))
    if (!table.parentElement.matches(".scroll")) faults.push("a table that cannot scroll");
  return faults;
}"""
MARKS = "g.role-mark.mark-rect path, g.role-mark.mark-symbol path"
needs_browser = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("CI"), reason="no chromium on this machine"
)


def specifications(path):
    """The specifications of the charts of a page."""
    packed = re.search('id="charts">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


class Page:
    """A page that was opened, and everything that it complained of."""

    def __init__(self, browser, path, *, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        self.close = context.close
        self.page = context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("body[data-drawn]")

    def marks(self, number):
        return self.page.locator(f"#chart-{number}").locator(MARKS).count()
