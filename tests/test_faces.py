"""Face detection from the outside: sizes, places, orientations, processes, and MediaPipe as the reference."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from fer_nb import faces as faces_module
from fer_nb.core import EMOTIONS, ImageError, ModelError, models_dir
from fer_nb.crops import crop_face
from fer_nb.data.synthetic import draw_face
from fer_nb.faces import Face, Window, detect_faces, pyramid, run_network
from fer_nb.images import MAX_PIXELS

PHOTOS = os.environ.get("DLIB_FACES")  # dlib's examples/faces


@pytest.fixture(scope="module")
def people():
    "Eight drawn people, 400 x 400; the face is about 0.55 of the side."
    return [draw_face(EMOTIONS[seed % 7], seed, 400, zoom=0.6).convert("RGB") for seed in range(8)]


def sheet(people, width, height, face, count, seed=0):
    "People in rows on a plain picture, each face `face` pixels wide."
    rng, side = np.random.default_rng(seed), round(face / 0.55)
    across = max(1, width // int(1.3 * side))
    picture = Image.new("RGB", (width, height), tuple(rng.integers(40, 220, 3).tolist()))
    for k in range(count):
        x, y = k % across * (width // across), k // across * int(1.2 * side)
        assert y + side <= height
        picture.paste(people[k % 8].resize((side, side), Image.Resampling.LANCZOS), (x, y))
    return np.asarray(picture)


def textures(width=900, height=700):
    "Pictures without a face: noise of several sizes, stripes, tiles, gradients."
    rng, x, y = np.random.default_rng(0), *np.meshgrid(np.arange(width), np.arange(height))
    for cells in (3, 8, 20, 60, 200):
        noise = rng.integers(0, 255, (cells, cells, 3)).astype(np.uint8)
        yield np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    for period in (7, 40, 150):
        rings = np.sin(np.hypot(x - 400, y - 300) / period)
        for wave in (np.sin(x / period), np.sin(x / period) * np.sin(y / period), rings):
            yield np.repeat((127 + 120 * wave).astype(np.uint8)[..., None], 3, 2)
    yield np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


@pytest.mark.parametrize(
    "width, height, face, count",
    [
        (995, 960, 100, 6),
        (1280, 720, 100, 11),
        (1920, 1080, 48, 12),
        (3840, 2160, 60, 36),
        (8064, 6048, 48, 60),  # 48 megapixels
        (500, 375, 24, 8),
        (300, 300, 160, 1),
    ],
)
def test_every_face_is_found(people, width, height, face, count):
    found = detect_faces(sheet(people, width, height, face, count))
    assert len(found) == count
    assert all(0.6 * face < f.box[2] < 1.4 * face and 0.5 < f.detection_score <= 1 for f in found)
    assert [f.box for f in found] == sorted(f.box for f in found)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_every_orientation_is_found_and_read_upright(people, quarters):
    upright = sheet(people, 900, 700, 80, 4)
    turned = np.ascontiguousarray(np.rot90(upright, quarters))
    found = detect_faces(turned)
    assert len(found) == 4
    assert all(abs((f.roll + 90 * quarters + 180) % 360 - 180) < 20 for f in found)
    crops = [crop_face(upright, f).astype(float).ravel() for f in detect_faces(upright)]
    for face in found:
        crop = crop_face(turned, face).astype(float).ravel()
        assert max(np.corrcoef(crop, other)[0, 1] for other in crops) > 0.8


def test_min_face_is_honored_both_ways(people):
    small, large = sheet(people, 1200, 900, 16, 6), sheet(people, 1200, 900, 100, 3)
    assert len(detect_faces(small, min_face=12)) == 6
    assert len(detect_faces(large, min_face=60)) == 3 and detect_faces(large, min_face=150) == []
    assert detect_faces(small, min_face=40) == []


def test_the_fast_way_finds_what_is_large(people):
    assert len(detect_faces(sheet(people, 640, 480, 110, 4), thorough=False)) == 4
    assert len(detect_faces(people[0].resize((300, 300)), thorough=False)) == 1  # fills half of the picture


def half_hidden(people):
    "Large faces, about half of each hidden from the left, alone in a gray picture."
    for side in (260, 300, 340):
        for hidden in (180, 190, 200):  # of 400
            for person in people:
                picture, pixels = np.full((600, 800, 3), 120, np.uint8), np.array(person)
                pixels[:, :hidden] = 120
                picture[140 : 140 + side, 240 : 240 + side] = Image.fromarray(pixels).resize((side, side))
                yield picture


def test_closer_looks_find_half_hidden_faces(people, monkeypatch):
    found = [len(detect_faces(picture, thorough=False)) for picture in half_hidden(people)]
    assert max(found) == 1 and sum(found) >= 36  # 39 of 72
    monkeypatch.setattr(faces_module, "MIN_LARGE_SCORE", 2)
    assert sum(len(detect_faces(picture, thorough=False)) for picture in half_hidden(people)) < sum(found)


def test_closer_looks_only_where_nothing_else_is_found(people, monkeypatch):
    doubts, confirm = [], faces_module.confirm

    def recorded(*how, doubtful=False):
        doubts.append(doubtful)
        return confirm(*how, doubtful=doubtful)

    monkeypatch.setattr(faces_module, "confirm", recorded)
    for thorough in (False, True):
        assert detect_faces(sheet(people, 640, 480, 110, 1), thorough=thorough)
    assert doubts and not any(doubts)
    monkeypatch.setattr(faces_module, "MIN_SCORE", {"short": 2, "full": 2})
    detect_faces(people[0], thorough=False)
    assert any(doubts)


def test_a_face_that_lies_is_found_beside_an_upright_one(people):
    picture = np.full((700, 1000, 3), 110, np.uint8)
    picture[100:300, 100:300] = people[0].resize((200, 200))
    picture[300:500, 600:800] = np.rot90(np.asarray(people[1].resize((200, 200))))
    assert sorted(round(face.roll / 90) for face in detect_faces(picture)) == [-1, 0]


@pytest.mark.parametrize("number", range(15))
def test_a_texture_has_no_face(number):
    texture = list(textures())[number]
    assert detect_faces(texture) == [] == detect_faces(texture, thorough=False)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5000), (5000, 1), (31, 33), (7000, 40)])
def test_odd_sizes(size):
    assert detect_faces(np.zeros((*size, 3), np.uint8)) == []


def test_a_face_at_the_edge_has_a_box_inside(people):
    picture = np.asarray(people[0])[:, 120:]
    (face,) = detect_faces(picture)
    x, y, w, h = face.box
    assert x >= 0 and y >= 0 and x + w <= picture.shape[1] and y + h <= picture.shape[0]
    assert crop_face(picture, face).shape == (48, 48)


def test_a_crop_beyond_the_picture_is_still_a_crop(people):
    points = tuple((x - 1000, y - 1000) for x, y in detect_faces(people[0])[0].landmarks)
    assert crop_face(np.asarray(people[0]), Face((0, 0, 1, 1), 1.0, points)).shape == (48, 48)


def test_threads_see_the_same(people):
    picture = sheet(people, 800, 600, 90, 4)
    alone = detect_faces(picture)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == alone for found in pool.map(detect_faces, [picture] * 8))


def test_pictures_searched_at_once_share_the_cores(people, monkeypatch):
    picture, asked = sheet(people, 800, 600, 90, 4), []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads):
            asked.append(threads)
            super().__init__(threads)

    monkeypatch.setattr(faces_module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    alone = detect_faces(picture)
    assert max(asked) == 4
    for others, threads in ((1, 2), (3, None)):  # None: no thread of its own
        asked.clear()
        with ExitStack() as stack:
            for _ in range(others):
                stack.enter_context(faces_module.active_search())
            assert detect_faces(picture) == alone
        assert max(asked, default=None) == threads
    with pytest.raises(ImageError):
        detect_faces(b"no picture")
    monkeypatch.setattr(faces_module, "search", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detect_faces(picture)
    assert faces_module._searches == 0


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=os.environ | environment
    )


def test_nothing_but_onnx_runtime_is_needed():
    done = run("""
import sys, numpy as np
from fer_nb.faces import detect_faces
detect_faces(np.zeros((64, 64, 3), np.uint8))
print([name for name in ("mediapipe", "cv2", "matplotlib", "scipy", "torch", "pandas") if name in sys.modules])
""")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_finds_faces_too():
    done = run("""
import os
from fer_nb.data.synthetic import draw_face
from fer_nb.faces import detect_faces
face = draw_face("happy", 4, 200, zoom=0.6).convert("RGB")
assert len(detect_faces(face)) == 1
child = os.fork()
if not child:
    os._exit(len(detect_faces(face)))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert done.stdout == "1\n", done.stderr


def test_a_damaged_network_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "face_short.onnx").write_bytes(b"not a network")
    for folder in ("models_dir", "shipped_dir"):
        monkeypatch.setattr(faces_module, folder, lambda: tmp_path)
    monkeypatch.setattr(faces_module, "_sessions", {})
    for name in ("short", "full"):
        with pytest.raises(ModelError, match=rf"face_{name}.onnx is missing or damaged. Install fer_nb again"):
            run_network(name, np.zeros((9, 9, 3), np.uint8), 0)


@pytest.mark.parametrize("name", ["short", "full"])
def test_the_files_say_where_they_come_from(name):
    path = models_dir() / f"face_{name}.onnx"
    about = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert about["source"].startswith("mediapipe 0.10.21, modules/face_detection/")
    assert len(about["sha256"]) == 64 and about["license"].startswith("Apache-2.0") and path.stat().st_size < 1_200_000


def sampled(image, side):
    "What MediaPipe shows a network: uint8 [side, side, 3]."
    import cv2

    height, width = image.shape[:2]
    corners, longer = np.float32([[0, 1], [0, 0], [1, 0], [1, 1]]), max(height, width)
    source = np.float32([(width - longer) / 2, (height - longer) / 2]) + corners * longer
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), corners * side)
    return cv2.warpPerspective(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@pytest.mark.parametrize("model, name, side, min_score", [(0, "short", 128, 0.5), (1, "full", 192, 0.6)])
def test_mediapipe_says_the_same(people, model, name, side, min_score):
    pytest.importorskip("mediapipe")
    from mediapipe.python.solutions.face_detection import FaceDetection

    total = 0
    with FaceDetection(model_selection=model) as reference:
        for seed, (width, height) in enumerate([(640, 480), (480, 640), (300, 300), (1000, 500)]):
            image = sheet(people, width, height, (120, 160, 110)[seed % 3], 1 + seed % 2, seed)
            theirs = []
            for one in reference.process(image).detections or []:
                box, points = one.location_data.relative_bounding_box, one.location_data.relative_keypoints
                corners = [(box.xmin, box.ymin), (box.xmin + box.width, box.ymin + box.height)]
                places = np.array(corners + [(p.x, p.y) for p in points]) * (width, height)
                theirs.append([*places.ravel(), one.score[0]])
            ours = run_network(name, sampled(image, side), min_score).astype(float)
            longer = max(width, height)
            ours[:, :16] = ours[:, :16] * longer / side - np.tile([(longer - width) / 2, (longer - height) / 2], 8)
            ours, theirs = (rows[np.argsort(-rows[:, 16])] for rows in (ours, np.array(theirs).reshape(-1, 17)))
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max(initial=0) < 1e-3
            total += len(ours)
    assert total >= 4


@pytest.mark.skipif(not PHOTOS, reason="needs DLIB_FACES, the folder examples/faces of dlib's repository")
def test_real_photos():
    import xml.etree.ElementTree as ET

    found = labels = 0
    for image in ET.parse(Path(PHOTOS) / "training.xml").iter("image"):
        boxes = [face.box for face in detect_faces(Path(PHOTOS) / image.get("file"))]
        centers = [(x + w / 2, y + h / 2) for x, y, w, h in boxes]
        for box in image.iter("box"):
            left, top, width, height = (int(box.get(key)) for key in ("left", "top", "width", "height"))
            labels += 1
            found += any(left < x < left + width and top < y < top + height for x, y in centers)
    assert found == labels == 18
    collage = detect_faces(Path(PHOTOS) / "bald_guys.jpg")
    assert len(collage) == 24  # and not the torso
    assert len(detect_faces(Path(PHOTOS) / "dogs.jpg")) <= 1  # the singer on a record's sleeve


def test_a_smallest_face_is_bounded():
    for size in ((3000, 4000), (480, 640), (1, 3)):
        finest = pyramid(Window(np.broadcast_to(np.uint8(0), (*size, 3)), np.eye(3)), 1)[0].pixels
        assert finest.shape[0] * finest.shape[1] <= 1.01 * MAX_PIXELS and finest.shape >= size
    assert detect_faces(np.zeros((48, 48, 3), np.uint8), min_face=10**11) == []
    with pytest.raises(ImageError, match="0 or more, not -5"):
        detect_faces(np.zeros((48, 48, 3), np.uint8), min_face=-5)
