"""Images from outside: what takes too long is refused, one list says what is read, and wrapped text is read."""

import ast
import base64
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fer_nb
from fer_nb.core import ImageError
from fer_nb.images import (
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    RefusedImage,
    count_scans,
    decode_data_uri,
    load_image,
    open_image,
    parse_name_list,
)  # fmt: skip


def encoded(image, format="JPEG", **settings):
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


GRADIENT = Image.fromarray(np.indices((96, 128)).sum(0).astype(np.uint8)).convert("RGB")

# --- scans ----------------------------------------------------------------------------------------


def repeated(jpeg, n):
    "A JPEG with its last scan n times more."
    start, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + n * jpeg[start:end] + jpeg[end:]


@pytest.fixture(scope="module")
def bomb():
    "336 kB that would take a minute: 64 million pixels, 900 scans."
    content = repeated(encoded(Image.new("L", (8000, 8000), 128), progressive=True), 900)
    assert len(content) < 400_000
    return content


def opened(content):
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("form", [bytes, io.BytesIO, opened, "path"])
def test_a_jpeg_of_too_many_scans_is_refused_at_once(form, bomb, tmp_path):
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    source = tmp_path / "bomb.jpg" if form == "path" else form(bomb)
    start = time.process_time()
    with pytest.raises(ImageError, match=r"JPEG of 906 scans.*plain JPEG"):
        load_image(source)
    assert time.process_time() - start < 1


def test_a_data_set_does_not_decode_it_either(bomb):
    with pytest.raises(RefusedImage, match="scans"):
        open_image(io.BytesIO(bomb))


def test_scans_of_one_component_each_count_too():
    "A JPEG that is not progressive may repeat scans as well; these are counted whatever the kind."
    jpeg = encoded(Image.new("L", (4000, 4000), 128))
    assert count_scans(repeated(jpeg, 300)) == 301
    with pytest.raises(ImageError, match="301 scans"):
        load_image(repeated(jpeg, 300))


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"quality": 100}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_real_files_are_read_as_before(settings, mode):
    content = encoded(GRADIENT.convert(mode), **settings)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(load_image(content), expected) and 1 <= count_scans(content) <= 20
    assert np.array_equal(load_image(Image.open(io.BytesIO(content))), expected)


def test_a_film_behind_the_photo_does_not_count():
    "As in the motion photos of phones."
    film = np.random.default_rng(0).integers(0, 256, 10**6, dtype=np.uint8).tobytes() + b"\xff\xda" * 10**6
    content = encoded(GRADIENT.resize((2000, 1500)), progressive=True)
    assert count_scans(content + film) == count_scans(content) and load_image(content + film).shape == (1500, 2000, 3)


def test_few_pixels_may_have_many_scans():
    assert load_image(repeated(encoded(GRADIENT, progressive=True), 200)).shape == (96, 128, 3)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff\xda", b"\xff\xe0\0\0\xff\xd9", b"\xff" * 99])
def test_scans_of_rubbish_can_be_counted(content):
    assert count_scans(content) <= 1


# --- one list -------------------------------------------------------------------------------------

#: what may name suffixes of images itself: the formats in which results are written
WRITERS = {"annotated_path", "drawing_file"}


def suffixes_named(tree):
    "Collections of five or more suffixes of images, with the function they are in."
    for function in [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Module))]:
        name = getattr(function, "name", "")
        for node in ast.walk(function):
            if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                words = [n.value for n in node.elts if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                if sum(word.lower() in IMAGE_SUFFIXES for word in words) >= 5:
                    yield name, node.lineno


def test_no_other_module_lists_the_suffixes_of_images():
    found = []
    for path in Path(fer_nb.__file__).parent.rglob("*.py"):
        if path.name != "images.py":
            named = list(suffixes_named(ast.parse(path.read_text(encoding="utf-8"))))
            allowed = {line for name, line in named if name in WRITERS}
            found += [f"{path.name}:{line}" for _, line in named if line not in allowed]
    assert not found, f"take fer_nb.images.IMAGE_SUFFIXES instead: {found}"


def test_the_list_is_a_set_that_waits_for_its_first_use():
    code = """
from PIL import Image
from fer_nb.images import IMAGE_SUFFIXES, load_image
assert Image._initialized < 2, "Pillow's plug-ins are imported"
assert ".jpg" in IMAGE_SUFFIXES and Image._initialized == 2
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
    assert set(HEIC_SUFFIXES) < IMAGE_SUFFIXES and len(IMAGE_SUFFIXES) == len(set(IMAGE_SUFFIXES)) > 40
    assert isinstance(IMAGE_SUFFIXES - {".jpg"}, frozenset) and ".jpg" not in IMAGE_SUFFIXES - {".jpg"}
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)


# --- text -----------------------------------------------------------------------------------------

PNG = encoded(GRADIENT, "PNG")
TEXT = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{TEXT}"


def wrapped(width, end, text=TEXT):
    return end.join(text[i : i + width] for i in range(0, len(text), width))


@pytest.mark.parametrize("width", [60, 64, 76, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n  "])
def test_a_wrapped_text_is_one_image(width, end, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = wrapped(width, end)
    for text in (f"data:;base64,{lines}", f"data:image/png;base64,{end}{lines}{end}", lines, f"\n{URI}\n"):
        assert np.array_equal(load_image(text), np.asarray(GRADIENT))
        (name,) = parse_name_list(text.encode())
        assert decode_data_uri(name) == PNG


def test_wrapped_images_and_names_in_one_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "portrait").touch()  # a name that could be base64
    unpadded = URI.rstrip("=")
    lines = [f"data:image/png;base64,{wrapped(76, chr(10))}", "a.jpg", unpadded, "portrait", "b c.png", URI, "d"]
    assert parse_name_list("\n".join(lines).encode()) == [URI, "a.jpg", unpadded, "portrait", "b c.png", URI, "d"]
