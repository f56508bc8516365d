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
from streamlit.testing.v1 import AppTest

from fer_nb.core import EMOTIONS, MODELS, PARTS, models_dir, shipped_models
from fer_nb.data import draw_face

ROOT = Path(__file__).parent.parent


def png(picture, kind="PNG"):
    "The bytes of a picture's file."
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


FACE = png(draw_face("happy", 1, size=480, zoom=0.6))


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


def test_before_a_photo_the_seven_are_shown_and_one_click_gives_a_face(page):
    assert all(f"<span>{emotion}</span>" in html(page) for emotion in EMOTIONS)
    assert cards(page) == 0
    page.button[0].click().run()
    assert not page.exception and cards(page) == 1


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    "A folder with the shipped model under two names, and its figures."
    first, second = shipped_models()[0], next(name for name in MODELS if name != shipped_models()[0])
    for name in (first, second):
        shutil.copy(models_dir() / f"{first}.onnx", tmp_path / f"{name}.onnx")
    shutil.copy(models_dir() / "results.json", tmp_path)
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    return tmp_path


def test_every_model_can_be_chosen_and_all_together(two_models, page):
    choice = page.sidebar.radio[0]
    assert choice.options == [MODELS[name].title for name in shipped_models()] + ["All together"]
    assert choice.value == (shipped_models()[0],)
    upload(page, ("face.png", FACE))
    for value in [(name,) for name in shipped_models()] + [tuple(shipped_models())]:
        page.sidebar.radio[0].set_value(value).run()
        title = MODELS[value[0]].title if len(value) == 1 else "All together"
        assert not page.exception and f"1 face · read by {title}<" in html(page)


def test_a_choice_says_what_it_costs_and_how_often_it_is_right(two_models):
    from fer_nb.app_ui import measured, worth

    found = json.loads((models_dir() / "results.json").read_text())
    for row in found["rows"]:
        if row["model"] in shipped_models() and not row["tta"] and row["part"] == "PublicTest":
            assert f"**{row['accuracy']:.0%}**" in worth((row["model"],), found | {"rows": [row]})
    alone, both = worth((shipped_models()[0],), measured()), worth(tuple(shipped_models()), measured())
    size = float(re.search(r"([\d.]+) MB", alone)[1])
    assert float(re.search(r"([\d.]+) MB", both)[1]) == pytest.approx(2 * size, abs=0.11)
    (two_models / "results.json").write_text("{")
    assert measured() == {} and worth((shipped_models()[0],), measured()) == f"{size} MB"


def test_a_photo_gets_a_card_for_its_face(page):
    upload(page, ("face.png", FACE))
    assert cards(page) == 1
    assert "1 face · read by" in html(page)
    assert all(html(page).count(f"<li><span>{emotion}</span>") == 1 for emotion in EMOTIONS)


def test_several_photos_are_shown_each_under_its_name(page):
    wall = png(Image.new("RGB", (320, 240), "teal"))
    upload(page, ("one.png", FACE), ("<b>two</b>.png", FACE), ("wall.png", wall), ("none.png", b"no"))
    assert cards(page) == 2
    assert html(page).count('<h2 class="fer-name">') == 4
    assert "&lt;b&gt;two&lt;/b&gt;.png" in html(page) and "<b>two" not in html(page)
    assert len(page.info) == len(page.warning) == 1


def test_a_click_elsewhere_does_not_look_at_the_photos_again(page, monkeypatch):
    from fer_nb import app_ui

    upload(page, ("one.png", FACE), ("two.png", FACE))
    asked = []
    monkeypatch.setattr(app_ui, "look_at", lambda photo, models: asked.append(photo) or 1 / 0)
    page.toggle[0].set_value(True).run()
    assert not page.exception and not asked and cards(page) == 2
    page.file_uploader[0].set_value([("one.png", FACE, "image/png")])
    assert "fer-look" in html(page)


def test_fifty_photos_at_once_are_too_many_and_said_so(page):
    small = png(Image.new("L", (64, 64)))
    upload(page, *((f"{i}.png", small) for i in range(50)))
    assert "50 photos" in page.info[0].value
    assert html(page).count('<h2 class="fer-name">') == 24


def test_a_group_can_be_looked_at_face_by_face(page):
    choose(page, "Drawn")
    page.pills[0].set_value("all seven").run()
    assert not page.exception and cards(page) > 2
    page.pills[1].set_value(2).run()
    assert not page.exception and html(page).count("fer-look") > 1


def test_drawn_faces_need_no_photo(page):
    choose(page, "Drawn")
    assert cards(page) == 1
    before = html(page)
    page.button[0].click().run()
    assert not page.exception and html(page) != before


def test_a_small_face_says_so(page):
    wide = Image.new("L", (400, 300), 128)
    wide.paste(draw_face("happy", 1, size=80, zoom=0.6), (50, 50))
    upload(page, ("small.png", png(wide)))
    assert cards(page) == 1 and "pixels wide: a closer photo" in html(page)


def test_the_cameras_are_off_until_chosen(page):
    assert not page.get("camera_input") and not page.get("bidi_component")
    assert len(choose(page, "Snapshot").get("camera_input")) == 1
    assert len(choose(page, "Live").get("bidi_component")) == 1
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
    from fer_nb.app_ui import COLUMNS, Photo, annotated, look_at, table

    group = np.hstack([np.asarray(draw_face(e, 1, 320, zoom=0.6)) for e in ("happy", "surprise")])
    photos = [Photo("1", "=two.png", png(Image.fromarray(group))), Photo("2", "wall.png", Image.new("RGB", (64, 64)))]
    models = (shipped_models()[0],)
    answers = [look_at(photo, models) for photo in photos]
    rows = list(csv.DictReader(io.StringIO(table([r for a in answers for r in a.rows], COLUMNS).decode())))
    assert [r["face"] for r in rows] == ["1", "2", "0"]
    assert rows[0]["source"] == "'=two.png"  # a spreadsheet does not run it
    assert [r["emotion"] for r in rows[:2]] == [face.emotion for face in answers[0].faces]
    assert json.loads(json.dumps([a.record for a in answers]))[0]["faces"][1]["emotion"] == rows[1]["emotion"]
    assert Image.open(io.BytesIO(annotated(answers[:1]))).size == (640, 320)
    with zipfile.ZipFile(io.BytesIO(annotated([answers[0]] * 2))) as archive:
        assert archive.namelist() == ["01_two_faces.jpg", "02_two_faces.jpg"]


def film(path, seconds=1.0, fps=10):
    "A film of a drawn face that moves a little."
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (320, 240))
    face = np.asarray(draw_face("happy", 1, size=240, zoom=0.6))
    for i in range(round(seconds * fps)):
        picture = np.full((240, 320), 120, np.uint8)
        picture[:, i : i + 240] = face
        writer.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path.read_bytes()


def test_a_film_leaves_nothing_behind(tmp_path):
    from fer_nb.app_ui import watch_film

    told, shm = [], Path("/dev/shm")
    before = set(shm.iterdir()) if shm.is_dir() else set()
    seen = watch_film(film(tmp_path / "f.mp4"), "My film.MP4", (shipped_models()[0],), lambda *w: told.append(w))
    assert seen.film[:4] == b"\x1aE\xdf\xa3"  # WebM
    assert len(told) == 10 and 0 <= told[0][1] <= told[-1][1] <= 1
    assert seen.timeline.summary()[0]["frames"] == len(seen.rows) > 5 and not seen.note
    assert {p for p in (shm.iterdir() if shm.is_dir() else ()) if p.name.startswith("fer_nb_")} <= before


def test_a_film_on_the_page(page, tmp_path):
    choose(page, "Film")
    page.file_uploader[0].set_value(("**f**.mp4", b"no film", "video/mp4")).run()
    assert not page.exception and "**f**" not in page.warning[0].value and "mp4 is not a film" in page.warning[0].value
    page.file_uploader[0].set_value(("f.mp4", film(tmp_path / "f.mp4"), "video/mp4")).run()
    assert not page.exception and not page.warning
    assert "<strong>Face 1</strong>" in html(page)
    assert len(page.get("video")) == 1 and len(page.get("download_button")) == 3


def test_a_long_film_is_looked_at_in_part(tmp_path, monkeypatch):
    from fer_nb import app_ui

    monkeypatch.setattr(app_ui, "MOST_SECONDS", 1)
    monkeypatch.setattr(app_ui, "MOST_LOOKS", 5)
    seen = app_ui.watch_film(film(tmp_path / "f.mp4", 3), "f.mp4", (shipped_models()[0],))
    assert "fer-nb video" in seen.note and 4 <= seen.timeline.frames <= 6


def good(models):
    from fer_nb import app_ui

    app_ui.how_good(models)


def test_how_good_shows_what_was_measured():
    found = json.loads((models_dir() / "results.json").read_text())
    rows = [r for r in found["rows"] if r["model"] == shipped_models()[0] and not r["tta"] and r["part"] in PARTS]
    row = max(rows, key=lambda r: PARTS.index(r["part"]))
    page = AppTest.from_function(good, args=((shipped_models()[0],),), default_timeout=60).run()
    assert not page.exception
    low, high = row["accuracy_ci95"]
    assert f"<td>{low:.1%}–{high:.1%}</td>" in html(page)
    assert html(page).count('scope="row"') == 7 + len({r["model"] for r in found["rows"]})
    assert "Regulation (EU) 2024/1689" in html(page)
    cards = [name for name in shipped_models() if (models_dir() / f"{name}.md").is_file()]
    assert len(page.expander) == (shipped_models()[0] in cards)
    assert not any("<!--" in text.value or "![" in text.value for text in page.markdown)


def test_how_good_without_figures_still_says_what_it_is_not_for(two_models):
    (two_models / "results.json").unlink()
    page = AppTest.from_function(good, args=((shipped_models()[0],),), default_timeout=60).run()
    assert not page.exception and "fer-nb evaluate" in page.info[0].value
    assert "Never decide anything" in html(page)


def test_without_a_model_the_page_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    page = AppTest.from_file(str(ROOT / "app.py")).run()
    assert not page.exception
    assert "fer-nb train" in page.error[0].value


def test_two_sessions_share_one_copy_of_a_model():
    from fer_nb.app_ui import recogniser

    one = (shipped_models()[0],)
    assert recogniser(one) is recogniser(one)
    assert recogniser(one)._sessions[0] is recogniser(one, 77)._sessions[0]  # photos and camera


def thousand():
    "A session that looks at a thousand photos, one after the other, and notes the memory it takes."
    import os

    import numpy as np
    import streamlit as st

    from fer_nb import app_ui
    from fer_nb.core import shipped_models
    from fer_nb.data import draw_face

    models, pages = (shipped_models()[0],), []
    face = np.asarray(draw_face("happy", 1, size=96, zoom=0.6))
    for i in range(1000):
        (answer,) = app_ui.look_at_all([app_ui.Photo(str(i), "f.png", np.roll(face, i % 3, 1))], models)
        assert len(answer.faces) == 1
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
        "page.segmented_control[0].set_value('Drawn').run(); assert not page.exception\n"
        "from fer_nb import app_ui; app_ui.how_good((app_ui.shipped_models()[0],))\n"
        "print(*{'torch', 'fastai', 'sklearn'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.split() == []


def test_settings_keep_everything_on_this_machine():
    settings = (ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    assert "\ngatherUsageStats = false " in settings
    assert '\naddress = "localhost" ' in settings
    assert "http" not in settings  # no font or theme from the net
