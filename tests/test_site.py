"""The documentation as a site: it is built without a complaint, and works from the disk."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

from tests import ROOT
from tests.pages import TEXTS, needs_browser


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


def test_links_and_anchors_are_alive(site):
    """Also those that the generator does not check: of generated HTML and of notebooks."""
    names, links = {}, {}
    for path in site.glob("*.html"):
        text = path.read_text("utf-8")
        names[path.name] = set(re.findall(r"\sid=\"?([^\s\">]+)", text))
        links[path.name] = set(re.findall(r"<a[^>]*\shref=\"?([^\s\">]+)", text))
    dead = []
    for page, found in links.items():
        for link in found:
            target, _, anchor = html.unescape(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            name = unquote(target) or page
            if not (site / name).exists() or (
                anchor and name in names and unquote(anchor) not in names[name]
            ):
                dead.append(f"{page}: {link}")
    assert dead == []


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r": ([\w-]+\.md)$", config, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_can_be_read(site, browser, width, scheme):
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    ).new_page()
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        faults += [f"{path.stem}: {fault}" for fault in page.evaluate(TEXTS, "article")]
    assert faults == []


@needs_browser
def test_the_search_works_from_the_disk(site, browser):
    page = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((site / "index.html").as_uri())
    page.wait_for_function("'IFrameWorker' in window")
    page.keyboard.press("s")
    page.get_by_text("Type to start searching").wait_for()
    page.keyboard.type("acceptance length", delay=20)
    page.locator(".md-search-result__link").first.wait_for()
    assert complaints == []
