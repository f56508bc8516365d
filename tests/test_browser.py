"""The pages in a real browser, started as a user starts them: `fer-nb app`."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import free_port, wait_for_app
from PIL import Image

from fer_nb.core import EMOTIONS, MODELS, available_models, models_dir
from fer_nb.data.synthetic import draw_face, draw_group

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
pytest.importorskip("streamlit", reason="the browser tests need the [app] extra")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
CLIP = Path(__file__).parents[2] / "shared" / "photos" / "single_face.mp4"
DEFAULT = available_models()[0]
SECOND = next(name for name in MODELS if name != DEFAULT)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "A running app, started from a folder that is not the project's, with a second model; its address and its process."
    port = free_port()
    models, log = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("app") / "log"
    for name in {DEFAULT, SECOND, *available_models()}:
        source = name if name in available_models() else DEFAULT
        shutil.copy(models_dir() / f"{source}.onnx", models / f"{name}.onnx")
    shutil.copy(models_dir() / "results.json", models)
    env = os.environ | {"STREAMLIT_SERVER_PORT": str(port), "STREAMLIT_SERVER_HEADLESS": "true"}
    env |= {"FER_NB_MODELS": str(models)}
    command = [sys.executable, "-c", "from fer_nb.cli import app; app()", "app"]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=log.parent, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for_app(process, port, tries=300, said=log.read_text)
        yield f"http://localhost:{port}", process
        assert process.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def address(server):
    return server[0]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    "What the camera sees: a clip of a real face where there is one, else a drawn face that moves, smiles and stops."
    path = tmp_path_factory.mktemp("camera") / "scene.mjpeg"
    if CLIP.exists():
        from fer_nb.video.reader import VideoReader

        frames = (Image.fromarray(frame.image) for frame in VideoReader(CLIP))
    else:
        faces = [draw_face(e, 1, size=360, zoom=0.6).convert("RGB") for e in ("happy", "surprise")]
        frames = (Image.new("RGB", (640, 360), "gray") for _ in range(60))
        frames = (f.paste(faces[i // 30], (100 + i, 0)) or f for i, f in enumerate(frames))
    with path.open("wb") as file:
        for frame in frames:
            frame.save(file, "JPEG", quality=90)
    return path


@pytest.fixture(scope="module")
def visitor(scene):
    "One browser with one cache for all tests; each has a page, and so a session, of its own."
    with sync_api.sync_playwright() as playwright:
        camera = [*CAMERA, f"--use-file-for-fake-video-capture={scene}"]
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *OFFLINE, *camera]
        )
        context = browser.new_context(permissions=["camera"])
        context.set_default_timeout(120_000)
        yield context
        browser.close()


@pytest.fixture
def page(visitor, address, request):
    "The page as it opens; afterwards nothing may have been asked of another machine, nor have gone wrong in it."
    page, asked, wrong = visitor.new_page(), [], []
    looks = {"width": 1280, "height": 900, "scheme": "light"} | getattr(request, "param", {})
    page.emulate_media(color_scheme=looks["scheme"])
    page.set_viewport_size({"width": looks["width"], "height": looks["height"]})
    page.on("request", lambda r: asked.append(r.url))
    page.on("websocket", lambda w: asked.append(w.url))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("dialog", lambda d: wrong.append(d.message) or d.dismiss())  # a script of somebody else's would say hello
    page.goto(address)
    page.get_by_text("Nothing leaves this machine.").wait_for()  # the last thing on it
    yield page
    page.close()
    host = address.removeprefix("http://")
    own = (f"http://{host}", f"ws://{host}", "data:", f"blob:http://{host}")
    assert [url for url in asked if not url.startswith(own)] == []
    assert wrong == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw_face("happy", 1, size=480, zoom=0.6).save(folder / "face.png")
    draw_group(["happy", "surprise", "neutral", "sad"], 3).save(folder / "group.png")
    Image.new("RGB", (320, 240), "teal").save(folder / "wall.png")
    (folder / "notes.jpg").write_text("not a photo")
    return folder


def upload(page, *files):
    page.locator("input[type=file]").set_input_files(files)


def until(page, script, seconds=60):
    "Wait until a script gives something true; Playwright's own way needs `eval`, which the page's policy forbids."
    end = time.monotonic() + seconds
    while not page.evaluate(script):
        assert time.monotonic() < end, script
        page.wait_for_timeout(100)


def choose_source(page, source):
    page.get_by_role("radio", name=re.compile(f"(^| ){source}$")).click()


def choose_model(page, title):
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name=title).click()


def test_a_photo_and_its_seven_numbers(page, photos):
    upload(page, photos / "face.png")
    card = page.get_by_role("article")
    card.wait_for()
    photo = page.get_by_alt_text("face.png: 1 face, numbered")
    assert photo.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
    numbers = card.locator(".fer-bars li")
    assert [n.is_visible() for n in numbers.all()] == [True] * 3 + [False] * 4
    card.get_by_text("All emotions").press("Enter")  # by keyboard
    numbers.last.wait_for()
    shown = sum(int(n.inner_text().split()[-1].rstrip("%")) for n in numbers.all())
    assert 97 <= shown <= 103  # seven rounded percentages
    card.get_by_role("button", name="Which parts decided?").press("Enter")
    card.get_by_alt_text("coloured by what counted").wait_for()
    assert page.evaluate("document.activeElement.matches('[data-explanation]')")  # the button is gone


def test_many_faces_and_what_there_is_to_take_along(page, photos):
    upload(page, photos / "group.png")
    cards = page.get_by_role("article")
    cards.first.wait_for()
    said = [card.locator("strong").inner_text() for card in cards.all()]
    assert len(said) > 2

    def taken(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    name, table = taken("Table (CSV)")
    assert name == "group.csv"
    assert [row["emotion"] for row in csv.DictReader(io.StringIO(table.decode("utf-8-sig")))] == said
    assert [face["emotion"] for face in json.loads(taken("JSON")[1])[0]["faces"]] == said
    name, picture = taken("Picture with boxes")
    assert name == "group_faces.jpg" and Image.open(io.BytesIO(picture)).size == (1280, 320)


def test_several_photos_and_another_model(page, photos):
    upload(page, photos / "face.png", photos / "group.png")
    page.get_by_role("heading", name="group.png").wait_for()
    page.get_by_text(f"model: {MODELS[DEFAULT].title}").nth(1).wait_for()
    choose_model(page, MODELS[SECOND].title)
    page.get_by_text(f"model: {MODELS[SECOND].title}").nth(1).wait_for()
    choose_model(page, "Ensemble")
    page.get_by_text("model: Ensemble").nth(1).wait_for()


def test_what_is_no_photo_and_what_has_no_face(page, photos):
    alert = page.get_by_test_id("stAlert")
    upload(page, photos / "notes.jpg")
    alert.filter(has_text="notes.jpg").wait_for()
    upload(page, photos / "wall.png")
    alert.filter(has_text="face").wait_for()
    upload(page, photos / "face.png")
    page.get_by_role("article").wait_for()


def test_hostile_uploads(page, photos, tmp_path):
    from test_app import HOSTILE

    script = "<img src=x onerror=alert(1)>"
    for number, make in enumerate(HOSTILE.values()):
        (tmp_path / f"{number}{script}.png").write_bytes(make())
    upload(page, *sorted(tmp_path.iterdir()), photos / "face.png")
    page.get_by_role("article").wait_for()
    assert page.get_by_test_id("stAlert").count() == len(HOSTILE)
    assert page.get_by_role("heading", name=script).count() == len(HOSTILE)  # as text
    (tmp_path / "large.jpg").write_bytes(bytes(31_000_000))
    (tmp_path / "drawing.svg").write_text("<svg/>")
    upload(page, tmp_path / "large.jpg", tmp_path / "drawing.svg")
    page.get_by_text("must be 30.0MB or smaller").first.wait_for()
    page.get_by_text("not allowed").first.wait_for()
    assert page.get_by_role("article").count() == 1  # the app lives on


def test_photos_stay_until_they_are_cleared(page, photos):
    upload(page, photos / "face.png")
    page.get_by_role("article").wait_for()
    page.get_by_role("link", name="How good is it?").click()
    page.get_by_role("heading", name="What it is not for").wait_for()
    page.get_by_role("link", name="Faces").click()
    page.get_by_role("article").wait_for()
    choose_source(page, "Video")
    page.get_by_text("Each face is followed").wait_for()
    choose_source(page, "Photos")
    page.get_by_text("drop them here").wait_for()  # what is to be removed is there a moment longer
    page.get_by_role("article").wait_for()
    upload(page, photos / "group.png")  # comes to the first one
    page.get_by_role("heading", name="group.png").wait_for()
    assert page.get_by_role("heading", name="face.png").count() == 1
    page.get_by_text("2 photos, ").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("No photo at hand?").wait_for()
    sync_api.expect(page.get_by_role("article")).to_have_count(0)  # Streamlit removes what is gone after it adds


def test_the_address_keeps_model_and_source(page, address):
    choose_model(page, MODELS[SECOND].title)
    choose_source(page, "Sample face")
    page.get_by_text(f"model: {MODELS[SECOND].title}").wait_for()
    until(page, f"location.search.includes('model={SECOND}') && location.search.includes('source=sample')")
    page.goto(page.url)
    page.get_by_text(f"model: {MODELS[SECOND].title}").wait_for()


def test_boxes_and_cards_are_one(page, photos):
    upload(page, photos / "group.png")
    page.get_by_role("article").first.wait_for()
    box, card = page.locator(".fer-box").nth(1), page.get_by_role("article").nth(1)
    page.wait_for_timeout(500)  # until the script listens
    box.focus()
    assert "fer-on" in card.get_attribute("class")
    downloads = page.get_by_role("button", name="JSON").bounding_box()
    assert downloads["y"] + downloads["height"] <= 900  # in view, whatever is scrolled
    page.keyboard.press("Enter")
    until(page, "document.activeElement.className.includes('fer-card')")
    page.get_by_role("button", name="Enlarge").click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")


def test_a_snapshot(page):
    choose_source(page, "Snapshot")
    until(page, "(v => v && v.readyState >= 2 && v.videoWidth)(document.querySelector('video'))")  # it runs
    page.get_by_role("button", name="Take Photo").click()
    page.get_by_text("model:").wait_for()


def cpu_seconds(process):
    "Processor time that a process has used."
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_live(page, server):
    answers = []

    def listen(wire):
        if "/live?" in wire.url:
            wire.on("framereceived", lambda text: answers.append(json.loads(text)))

    page.on("websocket", listen)
    choose_source(page, "Webcam")
    start_button, stop_button = (page.get_by_role("button", name=name) for name in ("Start the camera", "Stop"))
    is_focused = "button => button === button.getRootNode().activeElement"
    start_button.press("Enter")
    page.get_by_text("pictures a second").wait_for()
    assert stop_button.evaluate(is_focused)  # the button that had the keyboard is gone
    n, used, start = len(answers), cpu_seconds(server[1]), time.monotonic()
    page.wait_for_timeout(5000)
    n, used, took = len(answers) - n, cpu_seconds(server[1]) - used, time.monotonic() - start
    print(f"{n / took:.1f} pictures a second, {1000 * used / n:.0f} ms of the server's processor time each")
    assert used / n < 1 / 15  # one core of two is enough for 15 a second
    if os.getloadavg()[0] < 0.5 * os.cpu_count():  # on a machine that has nothing else to do
        assert n / took >= 15
    assert answers[-1]["width"] == 640 and {face["emotion"] for a in answers for face in a["faces"]} <= {*EMOTIONS}
    if CLIP.exists():
        assert sum(len(a["faces"]) == 1 for a in answers) > 0.9 * len(answers)
        said = page.locator("p[role=status]").filter(has_text="%").inner_text().split()[0]
        assert said in EMOTIONS
    shown = page.locator("canvas.chart").evaluate(
        "c => c.getContext('2d').getImageData(c.width - 2, c.height / 2, 1, 1).data[3]"
    )
    assert shown == 255 or not CLIP.exists()
    with page.expect_event("websocket", lambda w: f"models={SECOND}" in w.url):
        choose_model(page, MODELS[SECOND].title)  # the camera stays on
    stop_button.press("Enter")
    assert start_button.evaluate(is_focused)
    assert page.locator("video").evaluate("v => v.srcObject") is None


WAIT_FOR_THE_VISITOR = """() => {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = wish => new Promise(allow => {
    window.allowCamera = () => ask(wish).then(stream => { window.given = stream; allow(stream); });
  });
}"""


def test_a_camera_that_is_allowed_too_late_stays_off(page):
    sockets = []
    page.on("websocket", lambda wire: sockets.append(wire.url))
    page.evaluate(WAIT_FOR_THE_VISITOR)
    choose_source(page, "Webcam")
    page.get_by_role("button", name="Start the camera").click()
    until(page, "Boolean(window.allowCamera)")
    choose_source(page, "Photos")
    page.get_by_test_id("stFileUploader").wait_for()
    until(page, "!document.querySelector('video')")
    page.evaluate("window.allowCamera()")
    until(page, "window.given?.getTracks().every(track => track.readyState === 'ended')")
    assert not [url for url in sockets if "/live?" in url]


def test_what_was_recorded_is_there_when_the_camera_is_off(page):
    choose_source(page, "Webcam")
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Start the camera").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("link", name="webcam.csv").click()
    assert saved.value.path().read_text(encoding="utf-8-sig").startswith("seconds,model,face,emotion")
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(1500)
    with page.expect_download() as saved:  # there is no link to click on any more
        choose_source(page, "Photos")
    assert saved.value.suggested_filename.startswith("webcam.")


NO_CAMERA = {
    "no HTTPS": ("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})", "over HTTPS"),
    "no permission": (
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))",
        "may not use the camera",
    ),
    "no camera": (
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError'))",
        "There is no camera",
    ),
}


@pytest.mark.parametrize("why", NO_CAMERA)
def test_live_falls_back_to_a_snapshot_and_says_why(page, why):
    script, sentence = NO_CAMERA[why]
    page.evaluate(f"() => {{ {script} }}")
    choose_source(page, "Webcam")
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_test_id("stAlert").filter(has_text=sentence).wait_for()
    page.get_by_test_id("stFileUploader" if why == "no HTTPS" else "stCameraInput").wait_for()


def test_live_says_when_the_line_is_broken(page):
    page.route_web_socket(lambda url: "/live?" in url, lambda wire: wire.close())
    choose_source(page, "Webcam")
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_test_id("stAlert").filter(has_text="connection to the server was lost").wait_for()


@pytest.fixture(scope="module")
def video(tmp_path_factory, scene):
    import cv2

    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    capture = cv2.VideoCapture(str(scene))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (640, 360))
    for _ in range(15):
        writer.write(capture.read()[1])
    writer.release()
    return path


def test_a_video(page, video):
    choose_source(page, "Video")
    page.get_by_text("Each face is followed").wait_for()  # that of the photos is gone
    upload(page, video)
    page.get_by_text("mostly").first.wait_for()
    player = page.locator("video")
    until(page, "(v => v && v.readyState >= 1)(document.querySelector('video'))")  # the browser can play it
    assert 1 < player.evaluate("v => v.duration") < 2
    page.get_by_role("slider", name="Face 1 over time").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Video with boxes").click()
    assert download.value.suggested_filename == "clip_faces.webm"


def test_a_video_survives_a_look_elsewhere_and_its_timeline_leads_into_it(page, video):
    choose_source(page, "Video")
    page.get_by_text("Each face is followed").wait_for()  # that of the photos is gone
    upload(page, video)
    page.get_by_text("seconds read").or_(page.get_by_text("mostly")).first.wait_for()
    page.get_by_role("link", name="How good is it?").click()
    page.get_by_role("heading", name="What it is not for").wait_for()
    page.get_by_role("link", name="Faces").click()
    strip = page.get_by_role("slider", name="over time").first
    strip.wait_for()
    until(page, "document.querySelector('video')?.readyState >= 1")
    strip.click(position={"x": strip.bounding_box()["width"] / 2, "y": 20})
    until(page, "document.querySelector('video')?.currentTime > 0.3")
    strip.press("ArrowLeft")
    until(page, "document.querySelector('video')?.currentTime < 0.3")
    assert strip.locator(".fer-playhead").count() == 1


def test_the_first_page_is_light_where_it_is_ours(visitor, address):
    with contextlib.closing(visitor.browser.new_context()) as fresh:  # nothing cached
        page, names, sizes = fresh.new_page(), {}, {}
        network = fresh.new_cdp_session(page)
        network.on("Network.responseReceived", lambda e: names.update({e["requestId"]: e["response"]["url"]}))
        network.on("Network.loadingFinished", lambda e: sizes.update({e["requestId"]: e["encodedDataLength"]}))
        network.send("Network.enable")
        line = dict(offline=False, latency=50, downloadThroughput=1.6e6 / 8, uploadThroughput=1.6e6 / 8)
        network.send("Network.emulateNetworkConditions", line)
        start = time.monotonic()
        page.goto(address)
        page.get_by_role("heading", name="What does this face show?").wait_for()
        seconds = time.monotonic() - start
        page.get_by_text("Nothing leaves this machine.").wait_for()
        page.wait_for_load_state("networkidle")
    own = sum(size for key, size in sizes.items() if "/static/" not in names.get(key, ""))
    fonts = sum(size for key, size in sizes.items() if names.get(key, "").endswith(".woff2"))
    total = sum(sizes.values())
    print(f"{seconds:.1f} s at 1.6 Mbit/s; {total / 1e6:.2f} MB, fonts {fonts / 1e6:.2f}, own {own / 1e3:.0f} kB")
    assert own < 25_000 and 0 < fonts < 600_000 and total < 1_450_000


@pytest.mark.parametrize("place", ["", "how-good", "?source=webcam", "?source=video"])
def test_a_screen_reader_is_told_the_language(visitor, address, place):
    context = visitor.browser.new_context(locale="de-DE")
    page = context.new_page()
    page.goto(f"{address}/{place}")
    until(page, "document.documentElement.lang === 'de'")
    context.close()


def test_how_good(page):
    page.get_by_role("link", name="How good is it?").click()
    page.get_by_role("heading", name="What it is not for").wait_for()
    assert page.get_by_role("table").first.get_by_role("row").count() >= 2
    cells = page.get_by_role("table").nth(1).get_by_role("cell").all_inner_texts()
    assert sum(int(c) for c in cells if c.strip()) == pytest.approx(700, abs=20)
    page.get_by_role("link", name="Faces").click()
    page.get_by_role("heading", name="What does this face show?").wait_for()


CONTRAST = """() => {
  const parse = c => {
    const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number);
    return c.startsWith('color(srgb') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => [.2126, .7152, .0722].reduce((sum, weight, i) => sum + weight * linear(c[i] / 255), 0);
  const hidden = '[aria-hidden=true], [disabled], [data-testid=stIconMaterial]', poor = [];
  const texts = 'h1, h2, h3, p, span, b, strong, em, td, th, summary, figcaption, label, button';
  for (const e of document.querySelectorAll(texts)) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || !e.checkVisibility() || e.closest(hidden)) continue;
    const chain = [];
    for (let a = e; a; a = a.parentElement) chain.unshift(getComputedStyle(a));
    const under = chain.reduce((under, style) => over(parse(style.backgroundColor), under), [255, 255, 255, 1]);
    const ink = parse(chain.at(-1).color);
    ink[3] *= chain.reduce((alpha, style) => alpha * style.opacity, 1);
    const [dark, bright] = [light(over(ink, under)), light(under)].sort((x, y) => x - y);
    const ratio = (bright + .05) / (dark + .05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(1)}: ${text.slice(0, 40)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("page", [{}, {"scheme": "dark"}], indirect=True, ids=["light", "dark"])
def test_all_text_stands_out(page, photos):
    assert page.evaluate(CONTRAST) == []
    upload(page, photos / "group.png")
    page.get_by_text("JSON").wait_for()
    assert page.evaluate(CONTRAST) == []
    page.get_by_role("link", name="How good is it?").click()
    page.get_by_role("heading", name="What it is not for").wait_for()
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize(
    "page", [{"width": 360, "height": 740, "scheme": "dark"}], indirect=True, ids=["phone, dark"]
)
def test_on_a_phone_in_the_dark(page):
    def fits(what):
        box = what.bounding_box()
        return box["x"] >= 0 and box["x"] + box["width"] <= 360  # nothing hangs out at the side

    faces = [page.get_by_role("button", name=emotion, exact=True) for emotion in EMOTIONS]
    assert all(fits(face) for face in faces) and len({round(face.bounding_box()["y"]) for face in faces}) == 2  # rows
    choose_source(page, "Sample face")
    card = page.get_by_role("article")
    card.wait_for()
    assert fits(card)
    background = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert max(int(c) for c in background.strip("rgb()").split(",")) < 60
    choose_source(page, "Webcam")
    page.get_by_role("button", name="Start the camera").wait_for()
    assert fits(page.locator(".stage")) and fits(page.locator("canvas.chart"))


class Visitor:
    "A session without a browser: what the page's script sends and gets."

    def __init__(self, address):
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from websockets.sync.client import connect

        wire = f"ws{address.removeprefix('http')}/_stcore/stream"
        self.wire = connect(wire, subprotocols=["streamlit"], origin=address, max_size=None)
        self.ask = BackMsg()
        self.ask.rerun_script.query_string = ""
        self.groups = {}
        self.run()

    def run(self):
        "Run the script once and give back all its HTML."
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        self.wire.send(self.ask.SerializeToString())
        texts = []
        while True:
            message = ForwardMsg.FromString(self.wire.recv(timeout=300))
            if message.WhichOneof("type") == "script_finished":
                return "".join(texts)
            element = message.delta.new_element
            assert not element.HasField("exception"), element.exception.message
            self.groups[element.button_group.label] = element.button_group
            texts.append(element.html.body)

    def choose(self, label, word):
        "Click one of several buttons."
        group = self.groups[label]
        (value,) = [f"{o.content_icon} {o.content}".strip() for o in group.options if o.content == word]
        self.ask.rerun_script.widget_states.widgets.add(id=group.id).string_array_value.data.append(value)
        return self.run()


def test_twenty_sessions_at_once(address):
    from fer_nb.app.photos import SAMPLE_SEEDS
    from fer_nb.inference import EmotionRecognizer

    with EmotionRecognizer(DEFAULT) as recognizer:
        due = {e: recognizer(draw_face(e, SAMPLE_SEEDS[e][0], size=480, zoom=0.6)).faces for e in EMOTIONS}
    wrong = []

    def visit(emotion):
        try:
            visitor = Visitor(address)
            visitor.choose("Faces from", "Sample face")
            text = visitor.choose("Expression", emotion)
            for face in due[emotion]:
                assert f"<strong>{face.emotion}</strong><span>{face.confidence:.0%}</span>" in text, emotion
        except Exception as e:
            wrong.append(e)

    visitors = [threading.Thread(target=visit, args=[EMOTIONS[i % 7]]) for i in range(20)]
    for v in visitors: v.start()
    for v in visitors: v.join()
    assert wrong == []


def test_twenty_cameras_at_once_and_no_stranger(address):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    wire, wrong = f"ws{address.removeprefix('http')}/live?models={DEFAULT}", []

    def film(count):
        try:
            file = io.BytesIO()
            Image.fromarray(np.asarray(draw_group(["happy"] * count, 4, 240))).save(file, "JPEG")
            with connect(wire, origin=address) as line:
                for _ in range(3):
                    line.send(file.getvalue())
                    answer = json.loads(line.recv(timeout=300))
                    assert answer["width"] == 240 * count  # of this camera, and of no other
        except Exception as e:
            wrong.append(e)

    cameras = [threading.Thread(target=film, args=[1 + i % 4]) for i in range(20)]
    for c in cameras: c.start()
    for c in cameras: c.join()
    assert wrong == []
    for stranger, models in [("http://elsewhere.example", DEFAULT), (address, "../../etc/passwd"), (None, DEFAULT)]:
        with pytest.raises(InvalidStatus):
            connect(wire.replace(DEFAULT, models), origin=stranger)
    with connect(wire, origin=address) as line:
        line.send(b"no picture")
        with pytest.raises(Exception, match="no picture from a camera"):
            line.recv(timeout=60)


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    "The source of axe-core: from the package axe-playwright-python, or else from npm."
    try:
        from importlib.resources import files

        return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, OSError):
        folder = tmp_path_factory.mktemp("axe")
        npm = shutil.which("npm")
        if not npm or subprocess.run([npm, "pack", "axe-core@4"], cwd=folder, capture_output=True).returncode:
            pytest.skip("axe-core is not here: pip install axe-playwright-python, or npm and its registry")
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            return archive.extractfile("package/axe.min.js").read().decode()


# what is Streamlit's own: the hidden input behind a file uploader has no label (react-dropzone issue 1430)
STREAMLIT_S_OWN = ('data-testid="stFileUploaderDropzo',)  # axe shortens it

VIOLATIONS = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations
  .filter(v => ['serious', 'critical'].includes(v.impact))
  .flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 200)}`))"""


@pytest.mark.parametrize(
    "page",
    [{}, {"scheme": "dark"}, {"width": 390, "height": 844}, {"width": 390, "height": 844, "scheme": "dark"}],
    indirect=True, ids=["desktop, light", "desktop, dark", "phone, light", "phone, dark"],
)  # fmt: skip
def test_axe_finds_nothing_serious(page, axe, photos):
    def violations():
        page.evaluate(axe)
        return [v for v in page.evaluate(VIOLATIONS) if not any(own in v for own in STREAMLIT_S_OWN)]

    assert violations() == []
    upload(page, photos / "face.png", photos / "group.png")
    page.get_by_text("JSON").wait_for()
    assert violations() == []
    choose_source(page, "Webcam")
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_text("pictures a second").wait_for()
    assert violations() == []
    page.get_by_role("link", name="How good is it?").click()
    page.get_by_role("heading", name="What it is not for").wait_for()
    assert violations() == [] and page.title() == "How good is it? · fer_nb"


def test_another_site_gets_no_frame_of_the_page(visitor, address):
    import http.server

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            script = "onload = () => frames[0].postMessage({stCommVersion: 1, type: 'STOP_SCRIPT'}, '*')"
            body = f"<iframe src={address}></iframe><script>{script}</script>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_): pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = visitor.new_page()
    refused = []
    page.on("console", lambda m: refused.append(m.text) if "frame-ancestors" in m.text else None)
    page.goto(f"http://127.0.0.1:{server.server_port}")
    until(page, "document.readyState === 'complete'")
    assert refused and all(frame.get_by_text("What does this face show?").count() == 0 for frame in page.frames[1:])
    page.close()
    server.shutdown()
