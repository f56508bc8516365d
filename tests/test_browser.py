"""The page in a real browser, started as a user starts it: `fer-nb app`."""

import os
import shutil
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from PIL import Image

from fer_nb.data import draw_face

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
pytest.importorskip("streamlit", reason="the browser tests need the [app] extra")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "A running app, started from a folder that is not the project's."
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = os.environ | {"STREAMLIT_SERVER_PORT": str(port), "STREAMLIT_SERVER_HEADLESS": "true"}
    command = [sys.executable, "-c", "from fer_nb.cli import app; app()", "app"]
    log = tmp_path_factory.mktemp("app") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=log.parent, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            try:
                if urlopen(f"http://localhost:{port}/_stcore/health").status == 200:
                    break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *OFFLINE, *CAMERA]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, request):
    "The page as it opens; afterwards nothing may have been asked of another machine, nor have gone wrong in it."
    settings = {"viewport": {"width": 1280, "height": 900}} | getattr(request, "param", {})
    context = browser.new_context(permissions=["camera"], **settings)
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("websocket", lambda w: asked.append(w.url))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.goto(address)
    page.get_by_role("heading", name="What does this face show?").wait_for()
    yield page
    context.close()
    host = address.removeprefix("http://")
    own = (f"http://{host}", f"ws://{host}", "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert wrong == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw_face("happy", 1, size=480, zoom=0.6).save(folder / "face.png")
    Image.new("RGB", (320, 240), "teal").save(folder / "wall.png")
    (folder / "notes.jpg").write_text("not a photo")
    return folder


def upload(page, file):
    page.locator("input[type=file]").set_input_files(file)


def test_a_photo_and_its_seven_numbers(page, photos):
    upload(page, photos / "face.png")
    card = page.get_by_role("article")
    card.wait_for()
    photo = page.get_by_alt_text("The photo: 1 face, numbered")
    assert photo.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
    numbers = card.locator(".fer-bars li")
    assert [n.is_visible() for n in numbers.all()] == [True] * 3 + [False] * 4
    card.get_by_text("All seven").press("Enter")  # by keyboard
    numbers.last.wait_for()
    shown = sum(int(n.inner_text().split()[-1].rstrip("%")) for n in numbers.all())
    assert 97 <= shown <= 103  # seven rounded percentages


def test_what_is_no_photo_and_what_has_no_face(page, photos):
    alert = page.get_by_test_id("stAlert")
    upload(page, photos / "notes.jpg")
    alert.filter(has_text="notes.jpg").wait_for()
    upload(page, photos / "wall.png")
    alert.filter(has_text="face").wait_for()
    upload(page, photos / "face.png")
    page.get_by_role("article").wait_for()
    assert alert.count() == 0


def test_a_snapshot(page):
    page.get_by_role("radio", name="Camera").click()
    page.wait_for_function("(v => v && v.readyState >= 2 && v.videoWidth)(document.querySelector('video'))")  # it runs
    page.get_by_role("button", name="Take Photo").click()
    page.get_by_text("read on this machine").wait_for()


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}], indirect=True, ids=["phone, dark"]
)
def test_on_a_phone_in_the_dark(page):
    page.get_by_role("radio", name="Drawn face").click()
    card = page.get_by_role("article")
    card.wait_for()
    box = card.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360  # nothing hangs out at the side
    background = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert max(int(c) for c in background.strip("rgb()").split(",")) < 60
