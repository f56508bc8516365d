"docs/browser: the page that recognizes without a server says what Python says."

import base64
import functools
import io
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_nb.core import EMOTIONS
from fer_nb.crops import crop_face
from fer_nb.data.synthetic import draw_face
from fer_nb.faces import nms, run_network, to_face
from fer_nb.inference import EmotionRecognizer

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM or not shutil.which("npm"), reason="needs Chromium and npm")
PAGE = Path(__file__).parent.parent / "docs" / "browser"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Where the page's files lie."
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def site(folder):
    "The page as it is published, at an address of this machine."
    built = subprocess.run(["bash", str(PAGE / "build.sh"), str(folder)], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"onnxruntime-web cannot be had: {built.stderr[-200:]}")

    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    "A film of a drawn face, as Chromium's fake camera wants it."
    file = tmp_path_factory.mktemp("camera") / "face.mjpeg"
    frame = io.BytesIO()
    scene(["happy"]).save(frame, "JPEG")
    file.write_bytes(frame.getvalue() * 30)
    return file


@pytest.fixture(scope="module")
def page(site, camera):
    with sync_api.sync_playwright() as playwright:
        fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        args = ["--no-sandbox", "--disable-gpu", *fake, f"--use-file-for-fake-video-capture={camera}"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(site)
        page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        page.asked = asked
        yield page
        browser.close()


def scene(emotions, size=(640, 480), turn=0):
    canvas = Image.new("RGB", size, (120, 130, 140))
    for i, emotion in enumerate(emotions):
        face = draw_face(emotion, i, 260, zoom=0.6).rotate(turn, fillcolor=128)
        canvas.paste(face, (20 + 300 * i, 90 + 20 * i))
    return canvas


def in_python(image, size=48):
    "Boxes and probabilities by the same steps, the crops of `size` pixels."
    rows = nms(np.concatenate([run_network("short", image, 0.5), run_network("full", image, 0.6)]))
    faces = sorted((to_face(row, image.shape[1], image.shape[0]) for row in rows), key=lambda face: face.box)
    with EmotionRecognizer("mobilenet_v3") as recognizer:
        return faces, recognizer.classify(np.stack([crop_face(image, face, size) for face in faces]))


def in_browser(page, picture):
    "The same, as the page finds them."
    file = io.BytesIO()
    picture.save(file, "PNG")
    return page.evaluate(
        """async (text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const picture = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
            return fer.look(picture, picture.width, picture.height);
        }""",
        base64.b64encode(file.getvalue()).decode(),
    )


@pytest.mark.parametrize(("turn", "size"), [(0, (640, 480)), (14, (640, 480)), (0, (650, 500))])
def test_the_browser_says_what_python_says(page, turn, size):
    picture = scene(["happy", "surprise"], size, turn)
    found = in_browser(page, picture)
    faces, probs = in_python(np.asarray(picture))
    assert len(found) == len(faces) == 2
    for one, face, row in zip(found, faces, probs, strict=True):
        assert np.allclose(one["box"], face.box, atol=1)
        assert np.allclose(one["probabilities"], row, atol=1e-3)
    best = EMOTIONS[int(probs[0].argmax())]
    assert page.inner_text("ol li:first-child").startswith(best)


def test_crops_are_as_large_as_the_model_file_says(page, site, folder):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "models" / "mobilenet_v3.onnx")
    onnx.helper.set_model_props(model, {p.key: p.value for p in model.metadata_props} | {"face_size": "112"})
    onnx.save(model, folder / "models" / "large.onnx")
    other, picture = page.context.browser.new_page(), scene(["happy", "surprise"])
    other.goto(f"{site}?model=large")
    other.wait_for_selector("body[data-ready=yes]", timeout=60_000)
    for tab, size, wrong in ((page, 48, 112), (other, 112, 48)):
        found = np.array([face["probabilities"] for face in in_browser(tab, picture)])
        distances = [np.abs(found - in_python(np.asarray(picture), n)[1]).max() for n in (size, wrong)]
        assert distances[0] < 1e-3 < distances[1]
    other.close()


def test_the_camera_is_recognized_and_nothing_is_sent(page, site):
    page.click("button")
    page.wait_for_selector("body[data-fps]", timeout=30_000)
    fps = float(page.get_attribute("body", "data-fps"))
    print(f"{fps} pictures a second")
    assert fps >= (15 if os.environ.get("FUZZ") else 0.1)  # other tests may run beside this one
    assert "happy" in page.inner_text("ol li")
    page.click("button")
    assert all(url.startswith((site, "blob:", "data:")) for url in page.asked)


TWO_CLICKS = """async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms)), devices = navigator.mediaDevices;
  const ask = devices.getUserMedia.bind(devices), button = document.querySelector("button"), tracks = [];
  let asked = 0;
  devices.getUserMedia = async (wish) => {
    asked++;
    await wait(100);
    const stream = await ask(wish);
    tracks.push(...stream.getTracks());
    return stream;
  };
  button.click(); button.click();
  while (button.textContent !== "Stop") await wait(50);
  tracks[0].dispatchEvent(new Event("ended"));
  return [asked, tracks[0].readyState, button.textContent, document.querySelector("[role=status]").textContent];
}"""


def test_a_second_click_opens_no_second_camera_and_an_unplugged_one_is_said(page, site):
    other = page.context.browser.new_page()
    other.goto(site)
    other.wait_for_function("window.fer", timeout=60_000)
    said = "The camera was unplugged. Plug one in and start again."
    assert other.evaluate(TWO_CLICKS) == [1, "ended", "Start the camera", said]
    other.close()


TOO_LATE = """async () => {
  const button = document.querySelector("button"), stream = document.createElement("canvas").captureStream();
  let allow;
  navigator.mediaDevices.getUserMedia = () => new Promise((done) => { allow = () => done(stream); });
  button.click();
  document.querySelector("input").dispatchEvent(new Event("change"));
  allow();
  await new Promise((done) => setTimeout(done, 500));
  return [stream.getTracks()[0].readyState, button.textContent];
}"""


def test_a_camera_that_is_allowed_after_a_photo_was_chosen_stays_off(page, site):
    other = page.context.browser.new_page()
    other.goto(site)
    other.wait_for_function("window.fer", timeout=60_000)
    assert other.evaluate(TOO_LATE) == ["ended", "Start the camera"]
    other.close()


def test_the_same_photo_can_be_chosen_again(page):
    file = io.BytesIO()
    scene(["happy"]).save(file, "PNG")
    page.set_input_files("input", dict(name="face.png", mimeType="image/png", buffer=file.getvalue()))
    page.wait_for_selector("[role=status]:text('1 found.')", timeout=30_000)
    page.wait_for_function("document.querySelector('input').value === ''", timeout=1000)
