"""The documentation as a site: it is built without a complaint, and works from the disk."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests import ROOT
from tests.pages import CHROMIUM, needs_browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the documentation as a site needs the extra site")
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    found = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return folder


def test_every_page_is_there_and_asks_for_nothing_elsewhere(site):
    pages = {path.stem for path in site.glob("*.html")}
    assert pages == {path.stem for path in (ROOT / "docs").glob("*.md")}
    for path in site.glob("*.html"):
        text = path.read_text("utf-8")
        assert "[[[cog" not in text, path.name
        fetched = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"?(https?:[^ >]*)", text)
        assert fetched == [], path.name
        for image in re.findall(r"<img[^>]*src=\"?([^\" >]+)", text):
            assert (site / image).is_file(), image


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_works_from_the_disk(site, width, scheme):
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        ).new_page()
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for name in ("index", "gallery", "settings"):
            page.goto((site / f"{name}.html").as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 1, name
        if width > 1000:
            page.wait_for_function("'IFrameWorker' in window")
            page.keyboard.press("s")
            page.get_by_text("Type to start searching").wait_for()
            page.keyboard.type("acceptance length", delay=20)
            page.locator(".md-search-result__link").first.wait_for()
        assert complaints == []
        browser.close()
