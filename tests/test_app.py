"""The page's logic, run by Streamlit's own AppTest, without a browser."""

import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the page needs the [app] extra")
from streamlit.testing.v1 import AppTest

from fer_nb.core import EMOTIONS, MODELS, shipped_models
from fer_nb.data import draw_face

ROOT = Path(__file__).parent.parent


def png(picture):
    "The bytes of a picture's file."
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


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
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not page.exception
    return page


def upload(page, name, content):
    page.file_uploader[0].set_value((name, content, "image/png")).run()
    assert not page.exception
    return page


def test_before_a_photo_the_seven_are_shown(page):
    assert all(f"<span>{emotion}</span>" in html(page) for emotion in EMOTIONS)
    assert cards(page) == 0


def test_every_shipped_model_can_be_chosen_the_default_first(page):
    choice = page.sidebar.radio[0]
    assert choice.options == [MODELS[name].title for name in shipped_models()]
    assert choice.value == shipped_models()[0]


@pytest.mark.parametrize("model", shipped_models())
def test_a_photo_gets_a_card_for_its_face(page, model):
    page.sidebar.radio[0].set_value(model)
    upload(page, "face.png", png(draw_face("happy", 1, size=480, zoom=0.6)))
    assert cards(page) == 1
    assert f"1 face · read on this machine by {MODELS[model].title}" in html(page)
    assert all(html(page).count(f"<li><span>{emotion}</span>") == 1 for emotion in EMOTIONS)


def test_drawn_faces_need_no_photo(page):
    page.segmented_control[0].set_value("Drawn face").run()
    assert not page.exception and cards(page) == 1
    before = html(page)
    page.button[0].click().run()
    assert not page.exception and html(page) != before
    page.pills[0].set_value("all seven").run()
    assert not page.exception and cards(page) > 1


def test_the_camera_is_off_until_chosen(page):
    assert len(page.get("camera_input")) == 0
    page.segmented_control[0].set_value("Camera").run()
    assert not page.exception and len(page.get("camera_input")) == 1


def test_no_face_is_said(page):
    upload(page, "wall.png", png(Image.new("RGB", (320, 240), "teal")))
    assert cards(page) == 0
    assert "face" in page.info[0].value


@pytest.mark.parametrize(
    "content",
    [b"not a photo", b"", b"\xff", b"<svg onload=alert(1)>", png(Image.new("L", (64, 64)))[:40]],
    ids=["text", "empty", "one byte", "svg", "truncated"],
)
def test_the_page_survives_what_is_no_photo(page, content):
    upload(page, "**my** [photo](x).jpg", content)
    assert cards(page) == 0
    assert "**my**" not in page.warning[0].value  # the name of a file is text, not Markdown
    upload(page, "face.png", png(draw_face("happy", 1, size=480, zoom=0.6)))
    assert cards(page) == 1 and not page.warning


def test_without_a_model_the_page_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    page = AppTest.from_file(str(ROOT / "app.py")).run()
    assert not page.exception
    assert "fer-nb train" in page.error[0].value


def test_two_sessions_share_one_copy_of_a_model():
    from fer_nb.app_ui import recogniser

    name = shipped_models()[0]
    assert recogniser(name) is recogniser(name)


def test_settings_keep_everything_on_this_machine():
    settings = (ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    assert "\ngatherUsageStats = false " in settings
    assert '\naddress = "localhost" ' in settings
    assert "http" not in settings  # no font or theme from the net
