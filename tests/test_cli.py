"""The command line: what it prints, what it leaves, how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fer_nb import __version__
from fer_nb.cli import app
from fer_nb.core import EMOTIONS, MODELS, shipped_models
from fer_nb.data import draw_face


def fer_nb(*words):
    "Run the command with these words."
    return CliRunner().invoke(app, [str(w) for w in words])


def one_line(result, code=2):
    "The one line on stderr that a mistake is answered with."
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "A folder with a sub-folder of drawn faces for each emotion."
    folder = tmp_path_factory.mktemp("faces")
    for emotion in EMOTIONS:
        (folder / emotion).mkdir()
        for seed in range(30):
            draw_face(emotion, seed).save(folder / emotion / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "A face, a picture without one, and a text file with the name of a photo."
    folder = tmp_path_factory.mktemp("photos")
    draw_face("happy", 1, size=480, zoom=0.6).save(folder / "face.png")
    Image.new("RGB", (320, 240), "teal").save(folder / "wall.png")
    (folder / "notes.jpg").write_text("not a photo")
    return folder


# the command as a whole


def test_help_names_every_command():
    result = fer_nb("--help")
    assert result.exit_code == 0
    for command in ("data", "train", "predict", "app"):
        assert f" {command} " in result.output
        assert fer_nb(command, "--help").exit_code == 0


def test_version():
    assert fer_nb("--version").output == f"fer_nb {__version__}\n"


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("fer-nb")
    if not command.exists():
        pytest.skip("fer_nb is not installed into this environment")
    answer = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert answer.stdout == f"fer_nb {__version__}\n", answer.stderr


def test_help_needs_nothing_heavy():
    heavy = ("torch", "fastai", "matplotlib", "numpy", "PIL", "streamlit", "mediapipe", "onnxruntime")
    loaded = "import sys, fer_nb.cli; print(*[name for name in sys.argv[1:] if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", loaded, *heavy], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def test_ctrl_c_ends_quietly(monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("fer_nb.data.load_data", interrupted)
    result = fer_nb("data", "anything")
    assert (result.exit_code, result.output) == (130, "")


# fer-nb data


def test_data_counts(faces):
    result = fer_nb("data", faces)
    assert result.exit_code == 0, result.output
    assert all(emotion in result.stdout for emotion in EMOTIONS)


def test_data_json(faces):
    result = fer_nb("data", faces, "--json")
    counts = json.loads(result.stdout)["counts"]
    assert {e: sum(part[e] for part in counts.values()) for e in EMOTIONS} == dict.fromkeys(EMOTIONS, 30)


def test_data_that_is_not_there(tmp_path):
    assert "fer2013.zip" in one_line(fer_nb("data", tmp_path / "fer2013.zip"))


# fer-nb train


def test_train_leaves_a_model(faces, photos, tmp_path):
    pytest.importorskip("fastai", reason="training needs the [train] extra")
    result = fer_nb("train", "custom_cnn", "--data", faces, "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "best_custom_cnn.pth").is_file()
    assert "best_custom_cnn.pth" in result.stdout
    used = fer_nb("predict", photos / "face.png", "--model", tmp_path / "custom_cnn.onnx")
    assert used.exit_code == 0 and "  1. " in used.stdout, used.output


def test_train_settings_that_cannot_work(faces, tmp_path):
    pytest.importorskip("fastai", reason="training needs the [train] extra")
    base = ("train", "custom_cnn", "--data", faces, "--out", tmp_path)
    assert "epochs" in one_line(fer_nb(*base, "--epochs", 0))
    assert "batch" in one_line(fer_nb(*base, "--batch-size", 5000))
    assert not list(tmp_path.iterdir())


def test_train_of_an_unknown_model_suggests_one():
    assert "custom_cnn" in one_line(fer_nb("train", "custom_cn"))


def test_train_without_torch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [m for m in sys.modules if m.startswith("fer_nb.") and m not in ("fer_nb.core", "fer_nb.cli")]:
        monkeypatch.delitem(sys.modules, name)
    assert "pip install 'fer_nb[train]'" in one_line(fer_nb("train", "custom_cnn"))


# fer-nb predict


def test_predict_json_has_one_entry_for_each_photo(photos):
    result = fer_nb("predict", photos / "face.png", photos / "wall.png", "--json")
    assert result.exit_code == 0, result.output
    face, wall = json.loads(result.stdout)
    assert Path(face["path"]) == photos / "face.png" and len(face["faces"]) == 1
    found = face["faces"][0]
    assert set(found["probabilities"]) == set(EMOTIONS)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert found["emotion"] == max(found["probabilities"], key=found["probabilities"].get)
    assert wall["faces"] == [] and wall["message"]


def test_predict_prints_a_line_for_each_face(photos):
    result = fer_nb("predict", photos / "face.png")
    first, second = result.stdout.splitlines()
    assert first == str(photos / "face.png")
    assert second.startswith("  1. ") and second.split()[1] in EMOTIONS


def test_predict_says_that_there_is_no_face(photos):
    result = fer_nb("predict", photos / "wall.png")
    assert result.exit_code == 0
    assert "no face" in result.stdout.lower()


def test_predict_goes_on_after_a_bad_file(photos):
    words = ("predict", photos / "notes.jpg", photos / "missing.jpg", photos / "face.png")
    result = fer_nb(*words)
    assert result.exit_code == 1
    assert [line.startswith("error: ") for line in result.stderr.splitlines()] == [True, True]
    assert "  1. " in result.stdout
    bad, missing, good = json.loads(fer_nb(*words, "--json").stdout)
    assert "notes.jpg" in bad["error"] and "missing.jpg" in missing["error"] and len(good["faces"]) == 1


@pytest.mark.parametrize("model", shipped_models())
def test_predict_with_each_shipped_model(photos, model):
    result = fer_nb("predict", photos / "face.png", "--model", model, "--json")
    assert result.exit_code == 0, result.output


def test_predict_with_an_unknown_model(photos):
    assert any(name in one_line(fer_nb("predict", photos / "face.png", "--model", "custom_cn")) for name in MODELS)


def test_predict_without_any_model(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    assert str(tmp_path) in one_line(fer_nb("predict", photos / "face.png"))
