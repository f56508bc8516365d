"""The examples in docstrings run as they stand, in a folder with the files that they name."""

import doctest
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fer_nb
from fer_nb.data.convert import convert
from fer_nb.data.synthetic import draw_face, synthetic_dataset
from fer_nb.video.containers import write_images

PACKAGE = Path(fer_nb.__file__).parent
#: modules with an example, as "data.load"
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if "    >>> " in file.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "photo.jpg, holiday/happy/photo.jpg, talk.mp4 (a second) and fer2013.zip, all of synthetic faces."
    folder = tmp_path_factory.mktemp("examples")
    face = draw_face("happy", 1, size=480, zoom=0.6).convert("RGB")
    face.save(folder / "photo.jpg")
    (folder / "holiday" / "happy").mkdir(parents=True)
    face.save(folder / "holiday" / "happy" / "photo.jpg")
    write_images(folder / "talk.mp4", [np.asarray(face)] * 10, fps=10)
    convert(synthetic_dataset(140), folder / "faces", to="folder")
    shutil.make_archive(folder / "fer2013", "zip", folder / "faces")
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    failed, tried = doctest.testmod(import_module(f"fer_nb.{name}"), optionflags=doctest.ELLIPSIS)
    assert tried and not failed, capsys.readouterr().out


def test_what_people_come_for_has_an_example():
    names = [name for name in fer_nb.__all__ if name not in ("EMOTIONS", "FerError")]
    assert not [name for name in names if ">>> " not in getattr(fer_nb, name).__doc__]
