"""The command line: what it prints, what it leaves, how it ends."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fer_nb import __version__
from fer_nb.cli import app
from fer_nb.core import EMOTIONS, MODELS, models_dir, shipped_models
from fer_nb.data import draw_face

MAIN = "from fer_nb.cli import main; main()"


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
    for command in (
        "data", "train", "recipe", "bank", "reproduce", "runs", "average", "models", "evaluate", "export", "predict",
        "video", "app", "bench",
    ):
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
    def interrupted(*_, **__):
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


def test_data_with_maps(faces, tmp_path):
    for split in ("train", "held out"):
        shutil.copytree(faces / "happy", tmp_path / split / "glad")
    maps = "--label-map", "glad=happy"
    assert "--split-map held out=SPLIT" in one_line(fer_nb("data", tmp_path, *maps))
    result = fer_nb("data", tmp_path, *maps, "--split-map", "held out=test", "--json")
    found = json.loads(result.stdout)
    assert found["layout"] == "folders named after emotions" and found["counts"]["PrivateTest"]["happy"] == 30
    assert "NAME=VALUE" in one_line(fer_nb("data", tmp_path, "--split-map", "test"))


@pytest.mark.parametrize("command", ["data", "train", "evaluate"])
def test_maps_are_the_same_everywhere(command):
    text = fer_nb(command, "--help").stdout
    assert "--label-map NAME=EMOTION" in text and "--split-map NAME=SPLIT" in text


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


# models, recipe, bench


def test_models_are_listed_with_what_their_files_say():
    rows = json.loads(fer_nb("models", "--json").stdout)
    assert [r["model"] for r in rows] == shipped_models()
    assert all(0 < r["accuracy"] < 1 and r["ms_per_face"] > 0 and r["megabytes"] > 0 for r in rows)
    table = fer_nb("models").stdout
    assert all(model in table for model in MODELS)


def test_recipe_is_printed():
    settings = json.loads(fer_nb("recipe", "efficientnet_b0", "--json").stdout)
    assert settings["start"] == "imagenet" and settings["size"] == 240
    assert "Did you mean resnet18" in one_line(fer_nb("recipe", "resnet"))


def test_a_setting_changes_the_training_and_a_wrong_one_is_named(faces, tmp_path):
    quick = ["--data", faces, "--out", tmp_path, "--epochs", 1, "--batch-size", 16, "--size", 24]
    quick += ["--set", "small_size=0"]
    assert fer_nb("train", "custom_cnn", *quick, "--set", "lr=0.005").exit_code == 0
    from fer_nb.training import load_torch

    recipe = load_torch(tmp_path / "best_custom_cnn.pth")["recipe"]
    assert (recipe["lr"], recipe["size"], recipe["epochs"]) == (0.005, 24, 1)
    (row,) = json.loads(fer_nb("runs", tmp_path, "--json").stdout)
    assert row["changes"] == "epochs=1 batch_size=16 size=24 small_size=0 lr=0.005"
    assert row["accuracy"] == load_torch(tmp_path / "best_custom_cnn.pth")["best_test_acc"]
    assert f" {row['accuracy']:.1%} " in fer_nb("runs", tmp_path).stdout
    assert "Did you mean lr" in one_line(fer_nb("train", "custom_cnn", *quick, "--set", "lrr=1"))
    assert "NAME=VALUE" in one_line(fer_nb("train", "custom_cnn", *quick, "--set", "lr"))
    assert "cannot start from" in one_line(fer_nb("train", "custom_cnn", *quick, "--start", "imagenet"))


def test_imagenet_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    from urllib.error import URLError

    from torchvision.models import ResNet18_Weights

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    monkeypatch.delenv("FER2013", raising=False)
    result = fer_nb("train", "resnet18", "--out", tmp_path)
    assert result.exit_code == 2
    said = result.stderr
    assert "--start none" in said and "download.pytorch.org" in said


def test_bench_measures_three_loops():
    quick = ["--set", "size=32", "--set", "batch_size=8", "--json"]
    (row,) = json.loads(fer_nb("bench", "train", "mobilenet_v3", *quick).stdout)
    assert row["engine"] > 0 and row["by_hand"] > 0 and row["size"] == 32


# fer-nb predict on many files


def table(path):
    "The rows of a CSV."
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predict_takes_a_folder_and_patterns(photos, tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.PNG", "a.png", "below/c.png"):
        (tmp_path / name).write_bytes((photos / "wall.png").read_bytes())
    (tmp_path / "readme.txt").write_text("no picture, and not meant")
    said = json.loads(fer_nb("predict", tmp_path, "--json").stdout)
    assert [Path(one["path"]).name for one in said] == ["a.png", "b.PNG", "c.png"]
    said = json.loads(fer_nb("predict", tmp_path / "**" / "*.png", tmp_path / "a.png", "--json").stdout)
    assert sorted(Path(one["path"]).name for one in said) == ["a.png", "c.png"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fer_nb("predict", empty).exit_code == fer_nb("predict", tmp_path / "*.gif").exit_code == 1


def test_predict_reads_a_list_on_standard_input(photos):
    words = f"{photos / 'face.png'}\n\n{photos / 'wall.png'}\n"
    result = CliRunner().invoke(app, ["predict", "-", "--json"], input=words)
    assert [len(one["faces"]) for one in json.loads(result.stdout)] == [1, 0]
    assert CliRunner().invoke(app, ["predict", "-", "--json"], input="").stdout == "[]\n"


def test_predict_writes_a_row_for_each_face(photos, tmp_path):
    result = fer_nb("predict", photos, "--csv", tmp_path / "t.csv")
    rows = {Path(row["source"]).name: row for row in table(tmp_path / "t.csv")}
    assert result.exit_code == 1 and result.stdout == ""
    assert [*rows] == ["face.png", "notes.jpg", "wall.png"]
    assert rows["face.png"]["emotion"] in EMOTIONS and sum(float(rows["face.png"][e]) for e in EMOTIONS) > 0.999
    assert rows["wall.png"]["face"] == "0" and not rows["wall.png"]["error"] and rows["notes.jpg"]["error"]


def test_predict_goes_on_where_it_was_stopped(photos, tmp_path):
    file = tmp_path / "t.csv"
    fer_nb("predict", photos, "--csv", file)
    whole = file.read_text()
    assert "--resume" in one_line(fer_nb("predict", photos, "--csv", file)) and file.read_text() == whole
    lines = whole.splitlines(keepends=True)
    for kept in (lines[:1], lines[:2], [*lines[:2], lines[2][:9]], lines):
        file.write_text("".join(kept))
        fer_nb("predict", photos, "--csv", file, "--resume")
        assert file.read_text() == whole
    file.write_text("a,b\n1,2\n")
    assert "not a table" in one_line(fer_nb("predict", photos, "--csv", file, "--resume"))
    assert "--csv" in one_line(fer_nb("predict", photos, "--resume"))


def test_predict_draws_beside_and_never_over(photos, tmp_path):
    before = (photos / "face.png").read_bytes()
    fer_nb("predict", photos / "face.png", photos / "wall.png", "--annotate", photos)
    drawn = photos / "face_faces.png"
    assert (photos / "face.png").read_bytes() == before and Image.open(drawn).size == (480, 480)
    drawn.unlink()
    (photos / "wall_faces.png").unlink()


def test_drawings_of_one_name_stay_apart(photos, tmp_path):
    names = ["face.png", "face.tif", "face.bmp", "face.jpg", "face.JPG"]
    for name in names:
        Image.open(photos / "face.png").convert("RGB").save(tmp_path / name)
    assert fer_nb("predict", *(tmp_path / name for name in names), "--annotate", tmp_path / "out").exit_code == 0
    assert len(list((tmp_path / "out").iterdir())) == len({*tmp_path.iterdir()}) - 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_names_that_are_not_utf_8(photos, tmp_path):
    shutil.copy(photos / "face.png", os.fsencode(tmp_path) + b"/Bj\xf6rn.png")
    for words in (["--csv", tmp_path / "t.csv"], []):
        done = subprocess.run([sys.executable, "-c", MAIN, "predict", tmp_path, *words], capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"/Bj\xf6rn.png" in (done.stdout or (tmp_path / "t.csv").read_bytes())
    assert fer_nb("predict", tmp_path, "--csv", tmp_path / "t.csv", "--resume").exit_code == 0


def test_predict_with_several_models_and_a_threshold(photos):
    model = shipped_models()[0]
    result = fer_nb("predict", photos / "face.png", "--model", model, "--model", model, "--tta", "--threshold", 1)
    assert result.exit_code == 0 and "(not sure)" in result.stdout


# fer-nb video


def test_video_leaves_table_film_and_timeline(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 5, (240, 240))
    face = draw_face("happy", 4, 240, zoom=0.6).convert("RGB").tobytes()
    for _ in range(6):
        writer.write(np.frombuffer(face, np.uint8).reshape(240, 240, 3))
    writer.release()
    out = [tmp_path / name for name in ("t.csv", "film.avi", "line.png")]
    words = ("--csv", out[0], "--film", out[1], "--timeline", out[2], "--every", 2)
    said = json.loads(fer_nb("video", tmp_path / "a.avi", *words, "--json").stdout)
    assert (said["frames"], len(said["tracks"]), len(table(out[0]))) == (3, 1, 3)
    assert all(path.stat().st_size for path in out)
    assert "3 frames" in fer_nb("video", tmp_path / "a.avi", "--every", 2).stdout
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "the film is silent" in fer_nb("video", tmp_path / "a.avi", "--film", tmp_path / "silent.avi").stderr


def test_video_that_is_none(photos):
    for source, word in ((photos / "notes.jpg", "notes.jpg"), (photos / "none.mp4", "no file"), (97, "camera 97")):
        assert word in one_line(fer_nb("video", source))


# fer-nb export, fer-nb bench predict


def test_export_writes_the_model(tmp_path):
    pytest.importorskip("torch", reason="export needs the [train] extra")
    checkpoint = models_dir() / f"best_{shipped_models()[-1]}.pth"
    result = fer_nb("export", checkpoint, "--out", tmp_path)
    assert result.exit_code == 0 and Path(result.stdout.strip()).is_file()
    assert "does not exist" in one_line(fer_nb("export", tmp_path / "best_none.pth"))


def test_export_of_what_is_no_checkpoint(tmp_path):
    torch = pytest.importorskip("torch", reason="export needs the [train] extra")
    whole = (models_dir() / f"best_{shipped_models()[-1]}.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"model_state_dict": {}}, tmp_path / "others.pth")
    for name in ("cut", "text", "others"):
        assert f"{name}.pth" in one_line(fer_nb("export", tmp_path / f"{name}.pth"))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pth"] * 3


def test_bench_predict_measures():
    rows = json.loads(fer_nb("bench", "predict", shipped_models()[-1], "--json").stdout)
    assert len(rows) == 2  # all faces, and large ones
    assert all(row[step] > 0 for row in rows for step in ("find", "cut", "classify", "all", "photos_per_second"))
    said = fer_nb("bench", "predict", shipped_models()[-1]).stdout
    assert "photos/s" in said and "fer 25.10.3" in said


def test_bench_engine_compares_with_pytorch():
    pytest.importorskip("torch", reason="PyTorch comes with the [train] extra")
    (row,) = json.loads(fer_nb("bench", "engine", "custom_cnn", "--threads", 1, "--json").stdout)
    assert row["ratio"] == pytest.approx(row["torch"] / row["onnx"], rel=0.02) and 0 < row["share"] < 1.5
    assert sum(share["time"] for share in row["kinds"].values()) == pytest.approx(1, abs=0.02)
    assert "Did you mean" in one_line(fer_nb("bench", "engine", "custom_cn"))


def test_bench_variants_keeps_nothing_of_drawn_faces(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch comes with the [train] extra")
    monkeypatch.delenv("FER2013", raising=False)
    assert "drawn" in one_line(fer_nb("bench", "variants", "custom_cnn", "--write"))
