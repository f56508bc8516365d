"""What people give: every picture is read in every form, and what is none gets one short line that says what to do."""

import asyncio
import base64
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from typer.testing import CliRunner

from fer_nb.cli import app
from fer_nb.core import EMOTIONS, FerError, ImageError
from fer_nb.data.load import load_data
from fer_nb.data.synthetic import draw_face
from fer_nb.images import (
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    NON_IMAGE_FORMATS,
    find_images,
    load_image,
    register_heif,
    source_name,
)
from fer_nb.inference import EmotionRecognizer

FACE = draw_face("happy", 4, 320, zoom=0.6).convert("RGB")
HEIC_START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def encoded(image, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


PNG = encoded(FACE.resize((96, 96)))


@pytest.fixture(scope="module")
def recognizer():
    return EmotionRecognizer("custom_cnn", threads=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty folder, and we are in it."
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fer_nb(*words, **how):
    "Run the command with these words."
    return CliRunner().invoke(app, [str(w) for w in words], **how)


def short_line(error):
    "An error in one short sentence."
    said = str(error)
    assert len(said) <= 310 and said.isprintable() and said[-1] in ".?", said
    return said


# one list of pictures

KINDS = {
    "JPEG": "jfif", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "ICO": "ico",
    "TGA": "tga", "PPM": "ppm", "PCX": "pcx", "SGI": "sgi", "DDS": "dds", "AVIF": "avif", "JPEG2000": "jp2",
}  # fmt: skip
if not features.check("avif"):
    del KINDS["AVIF"]


def test_the_list_is_pillow_s():
    known = Image.registered_extensions()
    assert IMAGE_SUFFIXES - set(HEIC_SUFFIXES) == {end for end, kind in known.items() if kind in Image.OPEN} - {
        end for end, kind in known.items() if kind in NON_IMAGE_FORMATS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_everywhere(kind, folder, recognizer):
    name, picture = f"face.{KINDS[kind]}", FACE.resize((256, 256))  # as large as an icon may be
    (folder / "happy").mkdir()
    (folder / "happy" / name).write_bytes(encoded(picture, kind))
    assert find_images(["."]) == [f"./happy/{name}"]
    assert len(recognizer(f"happy/{name}").faces) == 1 and len(recognizer(encoded(picture, kind)).faces) == 1
    assert sum(len(part) for part in load_data(folder, cache=False, progress=False).splits.values()) == 1
    pytest.importorskip("streamlit")
    from fer_nb.app.photos import PHOTO_TYPES

    assert f".{KINDS[kind]}" in PHOTO_TYPES


def test_storage_lists_the_same(folder):
    pytest.importorskip("ray")
    from fer_nb.distributed import list_images

    for name in ("a.jp2", "b.AVIF", "c.txt", "d.tga"):
        (folder / name).touch()
    assert [Path(name).name for name in list_images(f"file://{folder}")] == ["a.jp2", "b.AVIF", "d.tga"]


@pytest.mark.skipif(register_heif(), reason="pillow-heif is installed")
def test_heic_is_named_as_such(folder):
    (folder / "IMG_1.HEIC").write_bytes(HEIC_START)
    for source in ("IMG_1.HEIC", HEIC_START, io.BytesIO(HEIC_START)):
        with pytest.raises(ImageError, match=r"is HEIC.*pip install pillow-heif"):
            load_image(source)
    (folder / "happy").mkdir()
    shutil.move("IMG_1.HEIC", "happy")
    with pytest.raises(FerError, match="is HEIC"):
        load_data(folder, cache=False, progress=False)
    assert find_images([str(folder)]) == [f"{folder}/happy/IMG_1.HEIC"]


# forms


class Upload:
    "As a web framework gives a file."

    async def read(self, size=-1):
        return PNG


class Tensor:
    "As much of a tensor as is looked at."

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype

    def __dlpack__(self):
        raise AssertionError

    def __iter__(self):
        raise AssertionError("a tensor is not a list of pictures")


def torch_like(shape, dtype="torch.float32"):
    tensor = Tensor(shape, dtype)
    tensor.permute = None
    return tensor


FORMS = {
    "tensor": (torch_like((3, 9, 9)), "(255 * image).byte().permute(1, 2, 0).cpu().numpy()"),
    "bytes tensor": (torch_like((9, 9, 3), "torch.uint8"), ": image.cpu().numpy()"),
    "batch tensor": (torch_like((2, 3, 9, 9)), ".permute(1, 2, 0).cpu().numpy() for image in images]"),
    "other tensor": (Tensor((9, 9, 3), "float32"), "numpy.asarray(image)"),
    "list of lists": ([[0, 1], [2, 3]], "numpy.array(rows, dtype='uint8')"),
    "rows of colours": ([[(0, 0, 0)]], "numpy.array(rows, dtype='uint8')"),
    "4-D array": (np.zeros((2, 9, 9, 3), np.uint8), "list(images)"),
    "text file": (io.StringIO("x"), "open(name, 'rb')"),
    "async file": (Upload(), "await file.read()"),
    "no form": (object(), "Give a path, a file"),
}


@pytest.mark.parametrize("name", FORMS)
def test_another_form_is_told_how_it_becomes_a_picture(name, recognizer):
    source, word = FORMS[name]
    with pytest.raises(ImageError) as error:
        recognizer(source)
    assert word in short_line(error.value)


def test_what_is_said_of_tensors_works(recognizer):
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(np.asarray(FACE).copy()).permute(2, 0, 1) / 255
    with pytest.raises(ImageError) as error:
        recognizer(image)
    again = eval(str(error.value).split(": ")[1][:-1], {}, {"image": image})
    assert (again == np.asarray(FACE)).all() and len(recognizer(again).faces) == 1


def test_what_is_said_of_awaited_files_works():
    assert (load_image(asyncio.run(Upload().read())) == np.asarray(FACE.resize((96, 96)))).all()


def test_pandas_columns_are_many_pictures(recognizer, folder):
    pandas = pytest.importorskip("pandas")
    FACE.save("face.png")
    assert [len(result.faces) for result in recognizer(pandas.Series(["face.png"] * 2))] == [1, 1]


TEXT = base64.b64encode(PNG).decode()
WRITTEN = {
    "data": f"data:image/png;base64,{TEXT}",
    "parameters": f"data:image/png;name=a.png;base64,{TEXT}",
    "upper": f"DATA:image/png;BASE64,{TEXT}",
    "percent": "data:image/png," + urllib.parse.quote_from_bytes(PNG),
    "quoted": "data:image/png;base64," + urllib.parse.quote(TEXT),
    "base64": TEXT,
    "lines": base64.encodebytes(PNG).decode(),
    "for addresses": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_picture_that_is_written_out(name, recognizer, folder):
    assert (load_image(WRITTEN[name]) == np.asarray(FACE.resize((96, 96)))).all()
    (one,) = json.loads(fer_nb("predict", "-", "--json", input=WRITTEN[name]).stdout)
    assert one["width"] == 96 and len(one["path"]) < 20


def test_pictures_that_are_written_out_keep_apart_in_a_table(folder):
    other = "data:;base64," + base64.b64encode(encoded(FACE)).decode()
    lines = "\n".join([WRITTEN["data"], other])
    for words in ([], ["--resume"]):
        done = fer_nb("predict", "-", "--out", "t.csv", "--annotate", "out", *words, input=lines)
        assert done.exit_code == 0, done.output
    with open("t.csv", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [source_name(WRITTEN["data"]), source_name(other)]
    assert len(os.listdir("out")) == 2


NO_TEXT = ["data:", "data:image/png;base64,", "data:image/png;base64,!", "data:,x", "A" * 100, "a/b" * 40]


@pytest.mark.parametrize("text", NO_TEXT)
def test_text_that_is_no_picture(text):
    with pytest.raises(ImageError, match=r"not a picture|There is no file"):
        load_image(text)


@pytest.mark.parametrize("address", ["https://example.org/a%20b/photo.jpg?x=1&y=2", "http://example.org/model.onnx"])
def test_an_address_is_unharmed_and_not_fetched(address, folder, recognizer):
    said = [fer_nb("predict", address), fer_nb("data", address), fer_nb("predict", "a.png", "--model", address)]
    for done in said:
        assert f"error: {address} is an address, and nothing is fetched" in done.stderr and done.exit_code in (1, 2)
    with pytest.raises(ImageError, match="nothing is fetched"):
        recognizer(address)
    pytest.importorskip("ray")
    assert address in fer_nb("predict", address, "--engine", "ray", "--out", "out").stderr


LONG = ["x" * 100_000, "x/" * 5000 + "a.jpg", "https://" + "a" * 9999, "data:;base64," + "A" * 9999, "\n" * 999, "\x1b"]


@pytest.mark.parametrize("text", LONG)
def test_no_message_is_long_whatever_was_given(text, folder, recognizer):
    for what in (recognizer, load_data, lambda model: EmotionRecognizer(model)):
        with pytest.raises(FerError) as error:
            what(text)
        short_line(error.value)
    options = [["predict", "a", option, text] for option in ("--model", "--out", "--threshold", "--engine")]
    for words in (["predict", text], ["data", text], [text], ["train", text], ["data", "a", "--map", text], *options):
        said = fer_nb(*words)
        assert all(len(line) < 330 for line in said.stderr.splitlines()), words[:3]
        assert not said.exception or isinstance(said.exception, SystemExit), words[:3]


# folders


def test_what_a_folder_holds_besides_is_counted(folder):
    FACE.save("face.png")
    for name in ("a.txt", "b.TXT", "c.mp4", "LICENSE"):
        Path(name).touch()
    done = fer_nb("predict", ".", "--out", "t.csv")
    assert done.exit_code == 0
    assert done.stderr == "left out in ., as no picture: 2 .txt, 1 .mp4, 1 without an ending\n"


def test_linked_folders_are_followed_once(folder):
    (folder / "far").mkdir()
    (folder / "near").mkdir()
    FACE.save("far/face.png")
    for place in ("near/link", "near/again"):
        os.symlink(folder / "far", place)
    os.symlink(folder / "near", "far/back")
    assert find_images(["near"]) == ["near/again/face.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
def test_a_folder_that_may_not_be_read_is_an_error(folder):
    (folder / "in" / "locked").mkdir(parents=True)
    FACE.save("in/face.png")
    Path("in/locked").chmod(0)
    if os.access("in/locked", os.R_OK):  # as the superuser: without his rights
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
        if not shutil.which("setpriv") or subprocess.call([*drop, "ls", "in/locked"], stderr=subprocess.DEVNULL) == 0:
            pytest.skip("everything may be read here")
    else:
        drop = []
    env = os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent))
    command = [*drop, sys.executable, "-m", "fer_nb", "predict", "in"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    Path("in/locked").chmod(0o755)
    assert done.returncode == 1 and "in/face.png\n  1. " in done.stdout
    assert done.stderr == "error: in/locked is a folder that may not be read. Check its permissions.\n"


# batches


def test_an_empty_list_is_nothing_to_do(folder):
    for words in ([], ["--json"], ["--out", "t.csv"], ["--annotate", "out"], ["--engine", "ray", "--out", "p"]):
        done = fer_nb("predict", "-", *words, input="\n")
        assert (done.exit_code, done.stderr) == (0, ""), words
    assert not Path("p").exists()


def test_a_drawing_that_cannot_be_written_is_that_photo_s_error(folder):
    name = "x" * 248 + ".png"
    for one in (name, "face.png"):
        FACE.save(one)
    done = fer_nb("predict", name, "face.png", "--annotate", "out", "--out", "t.csv")
    assert done.exit_code == 1 and "cannot be used" in short_line(done.stderr.removesuffix("\n"))
    assert os.listdir("out") == ["face_faces.png"]
    with open("t.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["emotion"] in EMOTIONS and "cannot be used" in first["error"] and not second["error"]


@pytest.mark.parametrize("out", ["photos/out", "photos"])
def test_drawings_are_not_read_as_photos(out, folder):
    (folder / "photos" / "trip").mkdir(parents=True)
    for name in ("face.png", "trip/face.png"):
        FACE.save(f"photos/{name}")
    for _ in range(3):
        said = json.loads(fer_nb("predict", "photos", "--annotate", out, "--json").stdout)
        assert [one["path"] for one in said] == ["photos/face.png", "photos/trip/face.png"]


LISTS = {
    "mark": b"\xef\xbb\xbfface.png\n",
    "two bytes": "face.png\r\n".encode("utf-16"),
    "quotes": b"\"face.png\"\n",
    "single quotes": b"'face.png'",
    "windows": b"face.png\r\n\r\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_from_elsewhere_is_read(name, folder):
    FACE.save("face.png")
    (one,) = json.loads(fer_nb("predict", "-", "--json", input=LISTS[name]).stdout)
    assert one["path"] == "face.png" and len(one["faces"]) == 1


def test_a_picture_instead_of_a_list_is_refused(folder):
    done = fer_nb("predict", "-", input=PNG)
    assert done.exit_code == 2 and "binary" in short_line(done.stderr.removesuffix("\n"))


def test_a_checkpoint_is_told_to_be_exported(folder):
    for name in ("best_custom_cnn.pth", "a.pt"):
        done = fer_nb("predict", "a.png", "--model", name)
        assert done.exit_code == 2 and f"fer-nb export {name}" in done.stderr
