"""The site that `make docs` leaves in _docs: every link leads somewhere, nothing comes from another host."""

import re
import shutil
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

SITE = Path(__file__).parent.parent / "_docs"
PAGES = sorted(page for page in SITE.rglob("*.html") if page.name != "404.html")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Reader(HTMLParser):
    "What a page leads to, loads, and can be led to."

    def __init__(self, file):
        super().__init__()
        self.links, self.loads, self.ids = [], [], {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids.add(a.get("id"))
        if tag == "a" and "href" in a:
            self.links.append(a["href"])
        if a.get("src") or (tag == "link" and a.get("rel") not in ("canonical", "prev", "next")):
            self.loads.append(a.get("src") or a["href"])


@pytest.fixture(scope="module")
def read():
    assert len(PAGES) > 30, "build it first: make docs"
    return {page: Reader(page) for page in PAGES}


def test_every_link_leads_somewhere(read):
    broken = []
    for page, reader in read.items():
        for link in reader.links + reader.loads:
            path, anchor = urldefrag(unquote(link))
            if urlsplit(link).scheme:
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (target in read and anchor not in read[target].ids):
                broken.append(f"{page.relative_to(SITE)}: {link}")
    assert broken == []


def test_the_page_that_recognizes_in_the_browser_has_what_it_loads():
    page = SITE / "browser"
    loads = [load for file in page.glob("*.*") for load in re.findall(r'["`]\./([\w./-]+\.m?js)"', file.read_text())]
    loads += ["models/face_short.onnx", "models/face_full.onnx", "models/mobilenet_v3.onnx"]
    wanted = loads if shutil.which("npm") else ["fer.js", "page.js"]
    assert "fer.js" in loads and [name for name in wanted if not (page / name).is_file()] == []
    assert not (page / "build.sh").exists()


def test_nothing_comes_from_another_host(read):
    loads = {load for reader in read.values() for load in reader.loads}
    sheets = "".join(sheet.read_text() for sheet in SITE.rglob("*.css"))
    loads |= set(re.findall(r"url\(['\"]?([^'\")]+)", sheets))
    assert [load for load in loads if re.match(r"(https?:)?//", load)] == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def page(address):
    "A page of a browser; afterwards nothing may have gone wrong in it, nor been asked of another host."
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, asked, wrong = browser.new_page(color_scheme="light"), [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(f"{m.text} {m.location['url']}"))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.goto(address)
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert wrong == []


def test_search_finds_a_function_and_opens_its_page(page):
    page.get_by_placeholder("Search").fill("draw_group")
    page.locator(".md-search-result__link").first.wait_for()
    page.locator(".md-search-result__link", has_text="draw_group").first.click()
    page.wait_for_url("**/api/data.synthetic.html**")
    page.get_by_role("heading", name="draw_group").wait_for()


def test_the_page_can_be_dark(page):
    def light():
        return page.evaluate("eval('parseInt(getComputedStyle(document.body).backgroundColor.slice(4))')")

    assert light() > 200
    page.locator("label[title=Dark]").click()
    page.wait_for_function("document.body.dataset.mdColorScheme == 'slate'")
    assert light() < 60


def test_every_page_opens_with_its_pictures(page, address):
    page.context.set_default_timeout(60_000)
    for file in PAGES:
        page.goto(address + str(file.relative_to(SITE)))
        assert page.locator("h1").count() == 1, file
        broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
        assert broken == [], file
