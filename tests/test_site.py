"""The pages as a site: built without a warning, every link leads somewhere, and no page asks another machine for anything."""

import functools
import http.server
import json
import re
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser import CHROMEDRIVER, CHROMIUM, Browser

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "object": "data", "use": "href"}
FETCHING = ("stylesheet", "icon", "preload", "prefetch", "preconnect", "manifest", "dns-prefetch")
SLOWEST = 20  # seconds of the notebook


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built strictly: what a page links to and is not there ends it."""
    build = pytest.importorskip("mkdocs.commands.build")
    pytest.importorskip("mkdocstrings")
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build.build(config)
    return folder


class Page(HTMLParser):
    """What a page loads, what it links to, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if given.get(LOADED.get(tag)):
            self.loads.append(given[LOADED[tag]])
        if tag == "link" and set(FETCHING) & set((given.get("rel") or "").split()):
            self.loads.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def pages(site):
    """path -> what stands in it."""
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def outside(address):
    return bool(re.match(r"(https?:)?//", address))


def test_nothing_is_loaded_from_elsewhere(site, pages):
    assert len(pages) > 40
    assert not {load for page in pages.values() for load in page.loads if outside(load)}
    for style in site.rglob("*.css"):
        assert not [
            found
            for found in re.findall(r"url\(['\"]?([^'\")]+)|@import ['\"]([^'\"]+)", style.read_text())
            if outside("".join(found))
        ]


def test_every_link_leads_somewhere(site, pages):
    """To a file of the site, and where it has an anchor to a place of that page."""
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links begin at the root, wherever that is
        for link in (*page.links, *page.loads):
            place, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (path.parent / urllib.parse.unquote(place)).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_relative_to(site)
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and target in pages:
                assert urllib.parse.unquote(anchor) in pages[target].anchors, f"{path.relative_to(site)}: {link}"


def test_docstrings_and_the_notebook_are_in_it(site):
    assert "Σ_l P(W_l)" in (site / "reference" / "api" / "index.html").read_text()
    assert "notebook-1.png" in (site / "notebook" / "index.html").read_text()


@pytest.fixture(scope="module")
def served(site):
    """The address of the site on this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="no browser")
def test_a_browser_asks_nobody_else(served):
    """Scripts, too; and on a telephone a page is no wider than the screen."""
    browser = Browser()
    try:
        for page in ("", "spectrum/", "reference/settings/", "notebook/", "reference/api/"):
            browser.devtools("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
            browser.heard()
            browser.post("/url", url=f"{served}/{page}")
            assert browser.run("return document.documentElement.scrollWidth") <= 400
            said, asked = browser.heard()
            assert not said
            assert asked
            assert all(address.startswith((served, "data:", "blob:")) for address in asked), asked
    finally:
        browser.close()


def test_the_notebook_runs_and_was_committed_with_its_outputs():
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient")
    import nbformat

    kept = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"]) == 2
    assert len(NOTEBOOK.read_bytes()) < 200_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(notebook, timeout=3 * SLOWEST, resources={"metadata": {"path": str(ROOT)}}).execute()
