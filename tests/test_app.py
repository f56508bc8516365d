"""The pages' logic, run by Streamlit's own AppTest, without a browser."""

import csv
import io
import json
import re
import shutil
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the page needs the [app] extra")
import streamlit as st
from conftest import tiny_model
from streamlit.testing.v1 import AppTest

from fer_nb.core import EMOTIONS, MODELS, SPLITS, available_models, models_dir
from fer_nb.data.synthetic import draw_face

ROOT = Path(__file__).parent.parent


def png(picture, kind="PNG"):
    "The bytes of a picture's file."
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


FACE = png(draw_face("happy", 1, size=480, zoom=0.6))
OTHER_FACE = png(draw_face("sad", 2, size=480, zoom=0.6))


def html(page):
    "All HTML of the page; an unescaped sign in it would break the parser's balance."
    text = "".join(block.proto.body for block in page.get("html"))
    HTMLParser().feed(text)
    return text


def cards(page):
    return html(page).count('<article class="fer-card"')


@pytest.fixture
def page():
    "The page as it opens."
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    assert not page.exception
    return page


def upload(page, *files):
    page.file_uploader[0].set_value([(name, content, "image/png") for name, content in files]).run()
    assert not page.exception
    return page


def choose(page, source):
    page.segmented_control[0].set_value(source).run()
    assert not page.exception
    return page


def test_before_a_photo_the_seven_are_buttons_and_one_click_gives_an_answer(page):
    assert [button.label for button in page.button] == [*EMOTIONS]
    assert cards(page) == 0
    for number, emotion in enumerate(EMOTIONS):
        page.button[number].click().run()
        assert not page.exception and cards(page) == 1 and f"<strong>{emotion}</strong>" in html(page)
        choose(page, "photos")


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    "A folder with the shipped model under two names, and its figures."
    first, second = available_models()[0], next(name for name in MODELS if name != available_models()[0])
    for name in (first, second):
        shutil.copy(models_dir() / f"{first}.onnx", tmp_path / f"{name}.onnx")
    shutil.copy(models_dir() / "results.json", tmp_path)
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    return tmp_path


def test_every_model_can_be_chosen_and_their_ensemble(two_models, page):
    choice = page.selectbox(key="model")
    titles = [MODELS[name].title for name in available_models()] + ["Ensemble"]
    assert [label.split(" · ")[0] for label in choice.options] == titles
    assert choice.value == available_models()[0]
    upload(page, ("face.png", FACE))
    for value in [(name,) for name in available_models()] + [tuple(available_models())]:
        page.selectbox(key="model").set_value(value[0] if len(value) == 1 else "ensemble").run()
        title = MODELS[value[0]].title if len(value) == 1 else "Ensemble"
        assert not page.exception and f"1 face · model: {title}<" in html(page)


def test_a_choice_says_what_it_costs_and_how_often_it_is_right(two_models):
    from fer_nb.app.frame import model_caption
    from fer_nb.core import load_results

    found = json.loads((models_dir() / "results.json").read_text())
    for row in found["rows"]:
        if row["model"] in available_models() and not row["tta"] and row["split"] == "PublicTest":
            assert f"**{row['accuracy']:.1%}**" in model_caption((row["model"],), found | {"rows": [row]})
    alone = model_caption((available_models()[0],), load_results())
    both = model_caption(tuple(available_models()), load_results())
    size = float(re.search(r"([\d.]+) MB", alone)[1])
    assert float(re.search(r"([\d.]+) MB", both)[1]) == pytest.approx(2 * size, abs=0.11)
    (two_models / "results.json").write_text("{")
    assert load_results() == {} and model_caption((available_models()[0],), load_results()) == f"{size} MB"


def test_a_photo_gets_a_card_for_its_face(page):
    upload(page, ("face.png", FACE))
    assert cards(page) == 1
    assert "1 face · model:" in html(page)
    assert all(html(page).count(f"<li><span>{emotion}</span>") == 1 for emotion in EMOTIONS)


def test_several_photos_are_shown_each_under_its_name(page):
    wall = png(Image.new("RGB", (320, 240), "teal"))
    upload(page, ("one.png", FACE), ("<b>two</b>.png", FACE), ("wall.png", wall), ("none.png", b"no"))
    assert cards(page) == 2
    assert html(page).count('<h2 class="fer-name"') == 4
    assert "&lt;b&gt;two&lt;/b&gt;.png" in html(page) and "<b>two" not in html(page)
    assert len(page.info) == len(page.warning) == 1


def test_a_click_elsewhere_does_not_look_at_the_photos_again(page, monkeypatch):
    from fer_nb.app import results

    upload(page, ("one.png", FACE), ("two.png", FACE))
    asked = []
    monkeypatch.setattr(results, "recognize_photo", lambda photo, models: asked.append(photo) or 1 / 0)
    page.toggle(key="compare").set_value(True).run()
    assert not page.exception and not asked and cards(page) == 2
    assert "fer-compare" in html(page)


def test_fifty_photos_at_once_are_too_many_and_said_so(page):
    small = png(Image.new("L", (64, 64)))
    upload(page, *((f"{i}.png", small) for i in range(50)))
    assert "50 photos" in page.info[0].value
    assert html(page).count('<h2 class="fer-name"') == 24


def test_a_group_can_be_explained_face_by_face(page, monkeypatch):
    choose(page, "sample")
    page.pills[0].set_value("all seven").run()
    assert not page.exception and cards(page) > 2
    assert html(page).count("data-explain=") == html(page).count('class="fer-box') == cards(page)
    from fer_nb.app.results import get_explanations, photo_key

    (result,) = page.session_state["results"].values()
    monkeypatch.setattr(st, "session_state", {})
    models, key = (available_models()[0],), f"{photo_key(result.photo)}-2"
    made = get_explanations([result], models, key)
    assert list(made) == [key] and "fer-look" in made[key]
    assert get_explanations([result], models, "another-1") == made  # kept, and a stranger's key is no error


def test_drawn_faces_need_no_photo(page):
    choose(page, "sample")
    assert cards(page) == 1
    before = html(page)
    page.button[0].click().run()  # somebody else
    assert not page.exception and html(page) != before


@pytest.mark.parametrize("name", available_models())
def test_each_model_reads_the_seven_drawn_faces_as_they_are_meant(name):
    from fer_nb.app.frame import get_recognizer
    from fer_nb.app.photos import ALL_SEVEN, SAMPLE_SEEDS, sample_photo

    for turn in range(2):
        for which, due in [(ALL_SEVEN, [*EMOTIONS]), *((emotion, [emotion]) for emotion in EMOTIONS)]:
            assert [f.emotion for f in get_recognizer((name,))(sample_photo(which, turn).source).faces] == due
    assert {len(seeds) for seeds in SAMPLE_SEEDS.values()} == {2}


def test_a_small_face_says_so(page):
    wide = Image.new("L", (400, 300), 128)
    wide.paste(draw_face("happy", 1, size=80, zoom=0.6), (50, 50))
    upload(page, ("small.png", png(wide)))
    assert cards(page) == 1 and "pixels wide: a closer photo" in html(page)


def webcams(page):
    return [c for c in page.get("bidi_component") if c.proto.component_name == "fer_live"]


def test_the_cameras_are_off_until_chosen(page):
    assert not page.get("camera_input") and not webcams(page)
    assert len(choose(page, "snapshot").get("camera_input")) == 1
    assert len(webcams(choose(page, "webcam"))) == 1
    assert not page.get("camera_input")


def test_no_face_is_said(page):
    upload(page, ("wall.png", png(Image.new("RGB", (320, 240), "teal"))))
    assert cards(page) == 0
    assert "face" in page.info[0].value


def bomb():
    "A PNG of 200 million pixels in some kilobytes."
    squeezer = zlib.compressobj(9)
    rows = b"".join(squeezer.compress(bytes(2501)) for _ in range(10_000)) + squeezer.flush()  # 20,000 one-bit pixels
    chunk = lambda kind, data: (  # noqa: E731
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    )
    head = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zip_bomb():
    "A hundred megabytes of nothing in a hundred kilobytes."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", bytes(100_000_000))
    return file.getvalue()


HOSTILE = {
    "200 megapixels": lambda: bomb(),
    "zip bomb": lambda: zip_bomb(),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "truncated": lambda: png(draw_face("happy", 1, 480), "JPEG")[:2000],
    "one byte": lambda: b"\xff",
    "empty": lambda: b"",
    "html": lambda: b"<html><script>alert(1)</script></html>",
    "text": lambda: b"not a photo",
}


@pytest.mark.parametrize("content", HOSTILE)
def test_the_page_survives_what_is_no_photo(page, content):
    upload(page, ("**my** [photo](x) <script>alert(1)</script>.jpg", HOSTILE[content]()))
    assert cards(page) == 0
    assert "**my**" not in page.warning[0].value  # the name of a file is text, not Markdown
    assert "<script>" not in page.warning[0].value and "<script>alert" not in html(page)
    upload(page, ("face.png", FACE))
    assert cards(page) == 1 and not page.warning


def test_downloads_say_what_the_page_says(page):
    from fer_nb.app.frame import to_csv
    from fer_nb.app.photos import InputPhoto
    from fer_nb.app.results import annotated_images, recognize_photo, table_columns

    group = np.hstack([np.asarray(draw_face(e, 1, 320, zoom=0.6)) for e in ("happy", "surprise")])
    wall = Image.new("RGB", (64, 64))
    photos = [InputPhoto("1", "=two.png", png(Image.fromarray(group))), InputPhoto("2", "wall.png", wall)]
    models = (available_models()[0],)
    results = [recognize_photo(photo, models) for photo in photos]
    table = to_csv([row for r in results for row in r.rows], table_columns(results[0].faces[0])).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [r["face"] for r in rows] == ["1", "2", "0"]
    assert rows[0]["source"] == "'=two.png"  # a spreadsheet does not run it
    assert {r["model"] for r in rows} == {r.record["model"] for r in results} == {*models}
    assert [r["emotion"] for r in rows[:2]] == [face.emotion for face in results[0].faces]
    assert json.loads(json.dumps([r.record for r in results]))[0]["faces"][1]["emotion"] == rows[1]["emotion"]
    assert Image.open(io.BytesIO(annotated_images(results[:1]))).size == (640, 320)
    with zipfile.ZipFile(io.BytesIO(annotated_images([results[0]] * 2))) as archive:
        assert archive.namelist() == ["01_two_faces.jpg", "02_two_faces.jpg"]


def video(path, seconds=1.0, fps=10):
    "A video of a drawn face that moves a little."
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (320, 240))
    face = np.asarray(draw_face("happy", 1, size=240, zoom=0.6))
    for i in range(round(seconds * fps)):
        picture = np.full((240, 320), 120, np.uint8)
        picture[:, i : i + 240] = face
        writer.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path.read_bytes()


def test_a_video_leaves_nothing_behind(tmp_path):
    from fer_nb.app.video import analyze_video

    steps, shm = [], Path("/dev/shm")
    before = set(shm.iterdir()) if shm.is_dir() else set()
    note = lambda *step: steps.append(step)  # noqa: E731
    seen = analyze_video(video(tmp_path / "f.mp4"), "My video.MP4", (available_models()[0],), note)
    assert seen.video[:4] == b"\x1aE\xdf\xa3"  # WebM
    assert len(steps) == 10 and 0 <= steps[0][1] <= steps[-1][1] <= 1
    assert seen.timeline.summary()[0]["frames"] == len(seen.rows) > 5 and not seen.note
    assert {p for p in (shm.iterdir() if shm.is_dir() else ()) if p.name.startswith("fer_nb_")} <= before


def test_a_video_on_the_page(page, tmp_path, monkeypatch):
    choose(page, "video")
    page.file_uploader[0].set_value(("**f**.mp4", b"no video", "video/mp4")).run()
    assert not page.exception and "**f**" not in page.warning[0].value and "mp4 is not a video" in page.warning[0].value
    page.file_uploader[0].set_value(("f.mp4", video(tmp_path / "f.mp4"), "video/mp4")).run()
    assert not page.exception and not page.warning
    assert "<strong>Face 1</strong>" in html(page)
    assert len(page.get("video")) == 1 and len(page.get("download_button")) == 3
    assert not any("were read" in caption.value for caption in page.caption)
    monkeypatch.setattr("fer_nb.app.video.MAX_SECONDS", 1)
    page.file_uploader[0].set_value(("long.mp4", video(tmp_path / "long.mp4", 3), "video/mp4")).run()
    assert any(caption.value.startswith("Only the first 1 seconds were read.") for caption in page.caption)


def test_a_long_video_is_read_in_part(tmp_path, monkeypatch):
    from fer_nb.app import video as module

    monkeypatch.setattr(module, "MAX_SECONDS", 1)
    monkeypatch.setattr(module, "MAX_FRAMES", 5)
    seen = module.analyze_video(video(tmp_path / "f.mp4", 3), "f.mp4", (available_models()[0],))
    assert seen.read_to == 1 and not seen.note and 4 <= seen.timeline.frames <= 6
    stopped = module.analyze_video(video(tmp_path / "f.mp4", 3), "f.mp4", (available_models()[0],), lambda *_: True)
    assert stopped.read_to == stopped.timeline.end == 0 and stopped.timeline.frames == 1


def test_a_recording_that_states_no_length_is_read_whole(tmp_path):
    "As a browser's MediaRecorder leaves it."
    import av

    from fer_nb.app.video import analyze_video

    with av.open(str(tmp_path / "rec.webm"), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", 10)
        stream.width, stream.height = 64, 48
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(stream.encode())
    seen = analyze_video((tmp_path / "rec.webm").read_bytes(), "rec.webm", (available_models()[0],))
    assert seen.timeline.frames == 20 and not seen.note


def quality():
    from fer_nb.app.quality import quality_page

    quality_page()


def test_how_good_shows_what_was_measured():
    found = json.loads((models_dir() / "results.json").read_text())
    rows = [r for r in found["rows"] if r["model"] == available_models()[0] and not r["tta"] and r["split"] in SPLITS]
    row = max(rows, key=lambda r: SPLITS.index(r["split"]))
    page = AppTest.from_function(quality, default_timeout=60).run()
    assert not page.exception
    low, high = row["accuracy_ci95"]
    assert f"<td>{low:.1%}–{high:.1%}</td>" in html(page)
    assert html(page).count('scope="row"') == 7 + len({r["model"] for r in found["rows"]})
    assert "Regulation (EU) 2024/1689" in html(page)
    cards = [name for name in available_models() if (models_dir() / f"{name}.md").is_file()]
    assert len(page.expander) == (available_models()[0] in cards)
    assert not any("<!--" in text.value or "![" in text.value for text in page.markdown)


def test_how_good_without_figures_still_says_what_it_is_not_for(two_models):
    (two_models / "results.json").unlink()
    page = AppTest.from_function(quality, default_timeout=60).run()
    assert not page.exception and "fer-nb evaluate" in page.info[0].value
    assert "decisions about people" in html(page)


@pytest.fixture
def fresh_recognizers():
    "No model of another test is used, and none is left to others."
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.mark.parametrize("emotions", [("sad", "happy", "content"), (*EMOTIONS, "contempt")], ids=len)
def test_pages_follow_the_emotions_of_the_model_file(emotions, fresh_recognizers, tmp_path, monkeypatch):
    from fer_nb.app.live import live_data

    first, second = available_models()[0], next(name for name in MODELS if name != available_models()[0])
    seven, found = models_dir() / f"{first}.onnx", json.loads((models_dir() / "results.json").read_text())
    tiny_model(tmp_path / f"{first}.onnx", {"emotions": ",".join(emotions), "size": "48"}, n=len(emotions))
    shutil.copy(seven, tmp_path / f"{second}.onnx")
    for row in found["rows"]:
        row |= {"per_class": {e: {} for e in emotions}, "confusion_matrix": np.eye(len(emotions)).tolist()}
    (tmp_path / "results.json").write_text(json.dumps(found))
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    page.selectbox(key="model").set_value(first).run()
    assert len(page.selectbox(key="model").options) == 2  # no ensemble of different emotions
    upload(page, ("one.png", FACE), ("two.png", OTHER_FACE))
    assert cards(page) == 2 and html(page).count(f"<strong>{emotions[0]}</strong>") == 2
    assert all(html(page).count(f"<li><span>{emotion}</span>") == 2 for emotion in emotions)
    page.toggle(key="compare").set_value(True).run()
    assert not page.exception and f"{emotions[0]} {1 / len(emotions):.0%}" in html(page)
    shown = AppTest.from_function(quality, default_timeout=60).run()
    assert not shown.exception and html(shown).count('<td class="hit"') == len(emotions)
    data = live_data((first,))
    assert data["emotions"] == emotions and len(data["names"]) == len(data["colors"]) == len(emotions)
    choose(page, "video")
    page.file_uploader[0].set_value(("f.mp4", video(tmp_path / "f.mp4"), "video/mp4")).run()
    assert not page.exception and not page.warning and f"mostly {emotions[0]}" in html(page)


def test_without_a_model_the_page_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    page = AppTest.from_file(str(ROOT / "app.py")).run()
    assert not page.exception
    assert "fer-nb train" in page.error[0].value


def test_two_sessions_share_one_copy_of_a_model():
    from fer_nb.app.frame import get_recognizer

    one = (available_models()[0],)
    assert get_recognizer(one) is get_recognizer(one)
    assert get_recognizer(one).classifier.sessions[0] is get_recognizer(one, 77).classifier.sessions[0]  # camera


def thousand():
    "A session that looks at a thousand photos, one after the other, and notes the memory it takes."
    import os

    import numpy as np
    import streamlit as st

    from fer_nb.app import photos
    from fer_nb.app.results import recognize_photos
    from fer_nb.core import available_models
    from fer_nb.data.synthetic import draw_face

    models, pages = (available_models()[0],), []
    face = np.asarray(draw_face("happy", 1, size=96, zoom=0.6))
    for i in range(1000):
        (result,) = recognize_photos([photos.InputPhoto(str(i), "f.png", np.roll(face, i % 3, 1))], models)
        assert len(result.faces) == 1
        with open("/proc/self/statm") as file:
            pages.append(int(file.read().split()[1]))
    st.session_state["megabytes"] = [n * os.sysconf("SC_PAGE_SIZE") / 1e6 for n in pages]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_thousand_photos_in_one_session_take_no_more_memory():
    page = AppTest.from_function(thousand, default_timeout=600).run()
    assert not page.exception
    used = page.session_state["megabytes"]
    assert max(used[-100:]) - max(used[200:300]) < 10


def test_the_page_needs_nothing_of_what_training_needs():
    import subprocess
    import sys

    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        f"page = AppTest.from_file({str(ROOT / 'app.py')!r}, default_timeout=120).run()\n"
        "page.segmented_control[0].set_value('sample').run(); assert not page.exception\n"
        "from fer_nb.app import quality; quality.quality_page()\n"
        "print(*{'torch', 'fastai', 'sklearn'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.split() == []


def test_settings_keep_everything_on_this_machine():
    settings = (ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    assert "\ngatherUsageStats = false " in settings
    assert '\naddress = "localhost" ' in settings
    assert "http" not in settings  # no font or theme from the net


def sentences_in_use():
    "Every sentence that the modules of the app give to `tr`, directly or in a table of theirs."
    import ast

    from fer_nb.app import live, pages, photos, quality
    from fer_nb.core import load_results

    found = {*live.LIVE_TEXTS.values(), *live.CAMERA_ERRORS.values(), *EMOTIONS, photos.ALL_SEVEN}
    found |= {*quality.HEADS, *quality.LIMITATIONS, *(info.summary for info in MODELS.values())}
    found |= {corruption for model in load_results()["models"].values() for corruption in model.get("robustness", ())}
    found |= {source.title for source in pages.SOURCES.values()} | {"fast", "balanced", "best"}
    for file in [*(ROOT / "fer_nb" / "app").glob("*.py"), ROOT / "app.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("tr", "download", "page_header"):
                given = node.args[:2] if name == "page_header" else node.args[:1]
                found |= {a.value for a in given if isinstance(a, ast.Constant)}
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "words":
                found |= {n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and " " in str(n.value)}
    return found


def test_every_sentence_has_its_row_and_every_row_its_sentence():
    from fer_nb.app.frame import sentences

    used = sentences_in_use()
    missing = {s for s in used if s not in sentences() and s[0] not in " <(" and "fer-nb" not in s and s[-1] in ".?!…"}
    assert not missing
    assert {*sentences()} <= used | {"Picture with boxes", "Pictures with boxes"}


@pytest.mark.parametrize("locale, words", [("de-DE", "fröhlich"), ("fr-CA", "joie"), ("pt-BR", "happy")])
def test_the_page_speaks_the_browsers_language(locale, words, monkeypatch):
    from fer_nb.app import frame

    monkeypatch.setattr(frame, "language", lambda: locale[:2] if locale[:2] in frame.LANGUAGES else "en")
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    page.button[EMOTIONS.index("happy")].click().run()
    assert not page.exception and f"<strong>{words}</strong>" in html(page)
    assert ("\N{NARROW NO-BREAK SPACE}%<" in html(page)) == (words != "happy")


def test_numbers_are_written_as_the_language_writes_them(monkeypatch):
    from fer_nb.app import frame, quality

    row = dict(n=3589, split="PublicTest", without_exact_duplicates=dict(accuracy=0.7123))
    said = {}
    for language in frame.LANGUAGES:
        monkeypatch.setattr(frame, "language", lambda language=language: language)
        said[language] = quality.evaluation_caption(row, {})
    assert "71.2%" in said["en"]
    assert all("71,2\N{NARROW NO-BREAK SPACE}%" in said[language] for language in ("de", "fr"))


def test_the_choice_of_a_folder_keeps_what_was_uploaded(page):
    upload(page, ("one.png", FACE))
    for folder in (True, False):
        page.toggle(key="photos folder").set_value(folder).run()
        assert not page.exception and cards(page) == 1
