"""The command line: what it prints, what it leaves, how it ends."""

import base64
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import FER_NB, fer_nb, one_line
from PIL import Image

from fer_nb import __version__
from fer_nb.core import EMOTIONS, MODELS, available_models, load_peers, load_results, models_dir
from fer_nb.data.synthetic import draw_face

# the command as a whole


def test_help_names_every_command():
    result = fer_nb("--help")
    assert result.exit_code == 0
    from fer_nb.cli import app

    commands = typer.main.get_command(app).commands
    assert {"data", "train", "evaluate", "predict", "video", "app"} < set(commands)
    for command in commands:
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

    monkeypatch.setattr("fer_nb.data.load.load_data", interrupted)
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


def test_data_is_written_in_another_layout(faces, tmp_path):
    out = tmp_path / "clean"
    assert fer_nb("data", faces, out, "--to", "csv", "--drop", "duplicates").exit_code == 0
    assert json.loads(fer_nb("data", out / "fer2013.csv", "--json").stdout)["layout"]
    assert "--to" in one_line(fer_nb("data", faces, "--to", "csv"))
    assert "--to" in one_line(fer_nb("data", faces, "--drop", "blank"))
    assert "not empty" in one_line(fer_nb("data", faces, out, "--to", "folder"))


def test_photos_are_cropped(tmp_path):
    for emotion in ("happy", "sad"):
        (tmp_path / "photos" / emotion).mkdir(parents=True)
        wall = Image.new("RGB", (400, 300), "teal")
        wall.save(tmp_path / "photos" / emotion / "wall.png")
        wall.paste(draw_face(emotion, 4, 200, zoom=0.6).convert("RGB"), (150, 60))
        wall.save(tmp_path / "photos" / emotion / "person.png")
    photos, out = tmp_path / "photos", tmp_path / "out"
    result = fer_nb("data", photos, "--crop", out)
    assert result.exit_code == 0, result.output
    assert "happy: 1 crop\n" in result.stdout and "left out, no face found: 2" in result.stdout
    counts = json.loads(fer_nb("data", out, "--json").stdout)["counts"]["Training"]
    assert {e: n for e, n in counts.items() if n} == {"happy": 1, "sad": 1}
    report = json.loads(fer_nb("data", photos, "--detect", "--json").stdout)
    assert [Path(name).name for name in report["non_faces"]] == ["wall.png"] * 2
    assert json.loads(fer_nb("data", photos, "--json").stdout)["non_faces"] is None
    for wrong in (("--crop",), (tmp_path / "new",), (tmp_path / "new", "--crop", "--to", "csv")):
        assert "need a folder" in one_line(fer_nb("data", photos, *wrong))
    assert "leave no report" in one_line(fer_nb("data", photos, tmp_path / "new", "--crop", "--detect"))


def test_data_as_a_page(faces, tmp_path):
    assert fer_nb("data", faces, "--html", tmp_path / "report.html").exit_code == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")


def test_a_label_set_of_fewer_emotions(faces):
    counts = json.loads(fer_nb("data", faces, "--emotions", "happy,sad", "--json").stdout)["counts"]
    assert {emotion for split in counts.values() for emotion in split} == {"happy", "sad"}


# fer-nb train


def test_train_leaves_a_model(faces, photos, tmp_path):
    pytest.importorskip("fastai", reason="training needs the [train] extra")
    result = fer_nb("train", "custom_cnn", "--data", faces, "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "best_custom_cnn.pth").is_file()
    assert "best_custom_cnn.pth" in result.stdout
    used = fer_nb("predict", photos / "face.png", "--model", tmp_path / "custom_cnn.onnx")
    assert used.exit_code == 0 and "  1. " in used.stdout, used.output


@pytest.mark.parametrize("emotions", ["sad,happy", "surprise,sad,neutral,happy,fear,disgust,contempt,angry"])
def test_a_model_carries_its_label_set_to_every_command(faces, photos, tmp_path, emotions, monkeypatch):
    pytest.importorskip("fastai", reason="training needs the [train] extra")
    names = emotions.split(",")
    data = shutil.copytree(faces, tmp_path / "data")
    shutil.copytree(faces / "neutral", data / "contempt")
    for file in (data / "contempt").iterdir():
        Image.open(file).rotate(180).save(file)
    quick = "--epochs", 1, "--batch-size", 8, "--size", 24, "--set", "progressive_size=0"
    trained = fer_nb("train", "custom_cnn", "--data", data, "--emotions", emotions, "--out", tmp_path, *quick)
    assert trained.exit_code == 0, trained.output
    checkpoint, model = tmp_path / "best_custom_cnn.pth", tmp_path / "custom_cnn.onnx"
    model.rename(tmp_path / "of_training.onnx")
    exported = fer_nb("export", checkpoint, "--data", data)
    assert exported.exit_code == 0 and model.is_file(), exported.output
    found = [json.loads(fer_nb("evaluate", m, "--data", data, "--split", "all", "--json").stdout)
             for m in (checkpoint, model, tmp_path / "of_training.onnx")]  # fmt: skip
    for one in found:
        assert list(one["per_class"]) == names and one["n"] == 30 * len(names)
        assert {row["support"] for row in one["per_class"].values()} == {30}
        assert one["accuracy"] == pytest.approx(found[0]["accuracy"], abs=0.02)
    (photo,) = json.loads(fer_nb("predict", photos / "face.png", "--model", model, "--json").stdout)
    (face,) = photo["faces"]
    assert list(face["probabilities"]) == names and face["emotion"] in names
    assert "different emotions" in one_line(fer_nb("evaluate", model, "custom_cnn", "--data", data))
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    shutil.copytree(data, tmp_path / "splits" / "PublicTest")
    measured = fer_nb("evaluate", "--all", "--data", tmp_path / "splits", "--write")
    assert measured.exit_code == 0, measured.output
    results, card = json.loads((tmp_path / "results.json").read_text()), (tmp_path / "custom_cnn.md").read_text()
    assert [*results["rows"][0]["one_vs_rest_auc"]] == names
    assert f"| {names[-1]} |" in card and sum(f"{name}, of whose images" in card for name in names) == 2


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
    here = ("fer_nb.core", "fer_nb.cli", "fer_nb.commands")
    for name in [m for m in sys.modules if m.startswith("fer_nb.") and not m.startswith(here)]:
        monkeypatch.delitem(sys.modules, name)
    assert "pip install 'fer_nb[train]'" in one_line(fer_nb("train", "custom_cnn"))


def test_a_short_import_without_torch_says_what_to_install(monkeypatch):
    import fer_nb

    for name in ("train", "evaluate"):
        monkeypatch.delitem(vars(fer_nb), name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [m for m in sys.modules if m.startswith("fer_nb.") and not m.startswith("fer_nb.core")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("train", "evaluate"):
        with pytest.raises(ModuleNotFoundError, match=rf"fer_nb\.{name} needs torch: pip install 'fer_nb\[train\]'"):
            getattr(fer_nb, name)


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


@pytest.mark.parametrize("model", available_models())
def test_predict_with_each_shipped_model(photos, model):
    result = fer_nb("predict", photos / "face.png", "--model", model, "--json")
    assert result.exit_code == 0, result.output


def test_predict_with_an_unknown_model(photos):
    assert any(name in one_line(fer_nb("predict", photos / "face.png", "--model", "custom_cn")) for name in MODELS)


def test_predict_without_any_model(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    assert str(tmp_path) in one_line(fer_nb("predict", photos / "face.png"))


@pytest.mark.parametrize("command", [("evaluate", "--all"), ("evaluate",), ("serve", "--port", "0")])
def test_what_needs_a_model_says_that_there_is_none(command, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    assert str(tmp_path) in one_line(fer_nb(*command))


def test_predict_prints_a_line_of_json_for_each_photo(photos):
    assert "Give one of them" in one_line(fer_nb("predict", photos / "face.png", "--json", "--jsonl"))
    result = fer_nb("predict", photos / "face.png", photos / "wall.png", "--jsonl")
    first, second = map(json.loads, result.stdout.splitlines())
    assert len(first["faces"]) == 1 and second["faces"] == []


def test_predict_takes_the_whole_image_for_a_face(faces):
    (face,) = json.loads(fer_nb("predict", faces / "happy" / "1.png", "--crop", "whole", "--json").stdout)[0]["faces"]
    assert face["box"] == [0, 0, 48, 48]
    assert "whole" in one_line(fer_nb("predict", faces / "happy" / "1.png", "--crop", "half"))


def test_predict_with_a_prior(photos):
    sure = ",".join(f"{emotion}={int(emotion == 'sad')}" for emotion in EMOTIONS)
    assert "sad 100%" in fer_nb("predict", photos / "face.png", "--prior", sure).stdout
    assert "prior" in one_line(fer_nb("predict", photos / "face.png", "--prior", "sad=1"))
    assert "numbers" in one_line(fer_nb("predict", photos / "face.png", "--prior", "sad=much"))


# models, recipe, bench


def test_models_are_listed_with_the_accuracy_that_was_evaluated():
    rows = json.loads(fer_nb("models", "--json").stdout)
    assert [r["model"] for r in rows] == available_models()
    assert all(r["ms_per_face"] > 0 and r["megabytes"] > 0 for r in rows)
    one_view = [r for r in load_results()["rows"] if r["split"] == "PublicTest" and not r["tta"]]
    assert {r["model"]: r["accuracy"] for r in rows}.items() <= {r["model"]: r["accuracy"] for r in one_view}.items()
    table = fer_nb("models").stdout
    assert all(model in table for model in MODELS)


def test_runs_are_written_from_folders():
    assert "fer-nb runs DIR --write" in one_line(fer_nb("runs", "--write"))


def test_recipe_is_printed():
    settings = json.loads(fer_nb("recipe", "efficientnet_b0", "--json").stdout)
    assert settings["init"] == "imagenet" and settings["size"] == 240
    assert "Did you mean resnet18" in one_line(fer_nb("recipe", "resnet"))


def test_a_setting_changes_the_training_and_a_wrong_one_is_named(faces, tmp_path):
    quick = ["--data", faces, "--out", tmp_path, "--epochs", 1, "--batch-size", 16, "--size", 24]
    quick += ["--set", "progressive_size=0"]
    assert fer_nb("train", "custom_cnn", *quick, "--set", "lr=0.005").exit_code == 0
    from fer_nb.model_api import load_checkpoint

    recipe = load_checkpoint(tmp_path / "best_custom_cnn.pth")["recipe"]
    assert (recipe["lr"], recipe["size"], recipe["epochs"]) == (0.005, 24, 1)
    (row,) = json.loads(fer_nb("runs", tmp_path, "--json").stdout)
    assert row["changes"] == "epochs=1 batch_size=16 size=24 progressive_size=0 lr=0.005"
    assert row["accuracy"] == load_checkpoint(tmp_path / "best_custom_cnn.pth")["best_test_acc"]
    assert f" {row['accuracy']:.1%} " in fer_nb("runs", tmp_path).stdout
    assert "Did you mean lr" in one_line(fer_nb("train", "custom_cnn", *quick, "--set", "lrr=1"))
    assert "NAME=VALUE" in one_line(fer_nb("train", "custom_cnn", *quick, "--set", "lr"))
    assert "cannot start from" in one_line(fer_nb("train", "custom_cnn", *quick, "--init", "imagenet"))


@pytest.mark.parametrize(("words", "message"), [
    (["--set", "base=1"], "no setting 'base'"),
    (["--set", "name=1"], "no setting 'name'"),
    (["--minutes", 0.6, "--set", "epochs=1"], "Give it, or --epochs"),
    (["--epochs", 1, "--set", "epochs=2"], "epochs is given twice"),
    (["--seed", 0, "--set", "seed=2"], "seed is given twice"),
    (["--set", "teachers=a", "--set", "teachers=b"], "teachers is given twice"),
    (["--label-map", "joy=happy", "--label-map", "joy=sad"], "joy is given twice"),
])
def test_a_setting_is_known_and_given_once(words, message, tmp_path):
    assert message in one_line(fer_nb("train", "custom_cnn", "--data", "nowhere", "--out", tmp_path, *words))


@pytest.mark.parametrize(("setting", "message"), [
    *((f"{name}=3", "seed, max_rotation") for name in ("views", "data", "teachers", "log", "flip_prob")),
    ("seed=abc", "has to be a number"), ("seed=-1", "has to lie between 0"), ("max_zoom=2", "has to lie between"),
])
def test_a_setting_of_a_bank_is_checked_first(setting, message, tmp_path):
    words = "bank", models_dir() / "best_custom_cnn.pth", "--data", "nowhere", "--out", tmp_path / "bank.npz"
    assert message in one_line(fer_nb(*words, "--set", setting))


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
    assert "--init none" in said and "download.pytorch.org" in said


def test_bench_measures_three_loops():
    quick = ["--set", "size=32", "--set", "batch_size=8", "--json"]
    (row,) = json.loads(fer_nb("bench", "train", "mobilenet_v3", *quick).stdout)
    assert row["engine"] > 0 and row["baseline"] > 0 and row["size"] == 32


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
    result = fer_nb("predict", "-", "--json", input=words)
    assert [len(one["faces"]) for one in json.loads(result.stdout)] == [1, 0]
    assert fer_nb("predict", "-", "--json", input="").stdout == "[]\n"


def test_predict_writes_a_row_for_each_face(photos, tmp_path):
    result = fer_nb("predict", photos, "--out", tmp_path / "t.csv")
    rows = {Path(row["source"]).name: row for row in table(tmp_path / "t.csv")}
    assert result.exit_code == 1 and result.stdout == ""
    assert [*rows] == ["face.png", "notes.jpg", "wall.png"]
    assert rows["face.png"]["emotion"] in EMOTIONS and sum(float(rows["face.png"][e]) for e in EMOTIONS) > 0.999
    assert rows["wall.png"]["face"] == "0" and not rows["wall.png"]["error"] and rows["notes.jpg"]["error"]


def test_predict_goes_on_where_it_was_stopped(photos, tmp_path):
    file = tmp_path / "t.csv"
    fer_nb("predict", photos, "--out", file)
    whole = file.read_text()
    assert "--resume" in one_line(fer_nb("predict", photos, "--out", file)) and file.read_text() == whole
    lines = whole.splitlines(keepends=True)
    for kept in (lines[:1], lines[:2], [*lines[:2], lines[2][:9]], lines):
        file.write_text("".join(kept))
        fer_nb("predict", photos, "--out", file, "--resume")
        assert file.read_text() == whole
    file.write_text("a,b\n1,2\n")
    assert "not a table" in one_line(fer_nb("predict", photos, "--out", file, "--resume"))
    assert "--out" in one_line(fer_nb("predict", photos, "--resume"))


def test_predict_draws_beside_and_never_over(photos, tmp_path):
    before = (photos / "face.png").read_bytes()
    fer_nb("predict", photos / "face.png", photos / "wall.png", "--annotate", photos)
    annotated = photos / "face_faces.png"
    assert (photos / "face.png").read_bytes() == before and Image.open(annotated).size == (480, 480)
    again = fer_nb("predict", photos / "face.png", annotated, "--annotate", photos)
    assert again.exit_code == 0 and "left out" in again.stderr and not (photos / "face_faces_faces.png").exists()
    shutil.copy(photos / "face.png", annotated)  # a photo of one's own
    done = fer_nb("predict", photos / "face.png", annotated, "--annotate", photos)
    assert done.exit_code == 1 and "face_faces.png is there already" in one_line(done, 1)
    assert annotated.read_bytes() == before and (photos / "face_faces_faces.png").exists()
    for name in ("face_faces.png", "face_faces_faces.png", "wall_faces.png"):
        (photos / name).unlink()


def test_drawings_are_no_originals_wherever_their_folder_lies(photos, tmp_path):
    (tmp_path / "sub").mkdir()
    shutil.copy(photos / "face.png", tmp_path / "sub")
    for _ in range(2):
        done = fer_nb("predict", tmp_path / "**" / "*.png", "--annotate", tmp_path / "out")
    assert done.exit_code == 0 and "left out" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["face_faces.png"]


def test_drawings_of_one_name_stay_apart(photos, tmp_path):
    names = ["face.png", "face.tif", "face.bmp", "face.jpg", "face.JPG"]
    for name in names:
        Image.open(photos / "face.png").convert("RGB").save(tmp_path / name)
    assert fer_nb("predict", *(tmp_path / name for name in names), "--annotate", tmp_path / "out").exit_code == 0
    assert len(list((tmp_path / "out").iterdir())) == len({*tmp_path.iterdir()}) - 1


def test_a_full_disk_leaves_a_table_of_whole_photos(photos, tmp_path):
    "The table may hold so many bytes and no more; what is there then is complete, and is continued."
    for i in range(3):
        shutil.copy(photos / "face.png", tmp_path / f"{i}.png")
    whole, few = tmp_path / "whole.csv", tmp_path / "few.csv"
    assert fer_nb("predict", tmp_path, "--out", whole).exit_code == 0
    header, *rows = whole.read_bytes().splitlines(keepends=True)
    room = len(header) + len(rows[0]) + len(rows[1]) // 2
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); {FER_NB[2]}"
    command = [sys.executable, "-c", limit, "predict", tmp_path, "--out", few]
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True)
    assert done.returncode == 2 and "--resume" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1 and few.read_bytes() == header + rows[0]
    assert fer_nb("predict", tmp_path, "--out", few, "--resume").exit_code == 0
    assert few.read_bytes() == whole.read_bytes()


def test_a_table_that_cannot_be_begun_is_one_line(photos, tmp_path):
    (tmp_path / "file").touch()
    words = ("predict", photos / "face.png", "--out", tmp_path / "file" / "t.csv")
    assert "cannot be used" in one_line(fer_nb(*words))


def test_a_wrapped_data_uri_on_standard_input(photos):
    picture = base64.encodebytes((photos / "face.png").read_bytes()).decode()  # lines of 76 characters
    assert picture.count("\n") > 10
    for text in (picture, f"data:image/png;base64,{picture}", f"data:image/png;base64,\n{picture}"):
        (answer,) = json.loads(fer_nb("predict", "-", "--json", input=text).stdout)
        assert len(answer["faces"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_names_that_are_not_utf_8(photos, tmp_path):
    shutil.copy(photos / "face.png", os.fsencode(tmp_path) + b"/Bj\xf6rn.png")
    for words in (["--out", tmp_path / "t.csv"], []):
        done = subprocess.run([*FER_NB, "predict", tmp_path, *words], capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"/Bj\xf6rn.png" in (done.stdout or (tmp_path / "t.csv").read_bytes())
    assert fer_nb("predict", tmp_path, "--out", tmp_path / "t.csv", "--resume").exit_code == 0


def test_predict_with_several_models_and_a_threshold(photos):
    model = available_models()[0]
    result = fer_nb("predict", photos / "face.png", "--model", model, "--model", model, "--tta", "--threshold", 1)
    assert result.exit_code == 0 and "(not sure)" in result.stdout


# fer-nb video


def test_video_leaves_table_video_and_timeline(tmp_path):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 5, (240, 240))
    face = draw_face("happy", 4, 240, zoom=0.6).convert("RGB").tobytes()
    for _ in range(6):
        writer.write(np.frombuffer(face, np.uint8).reshape(240, 240, 3))
    writer.release()
    out = [tmp_path / name for name in ("t.csv", "out.avi", "line.png")]
    words = ("--out", out[0], "--video-out", out[1], "--timeline", out[2], "--stride", 2)
    said = json.loads(fer_nb("video", tmp_path / "a.avi", *words, "--json").stdout)
    assert (said["frames"], len(said["tracks"]), len(table(out[0]))) == (3, 1, 3)
    assert all(path.stat().st_size for path in out)
    assert "3 frames" in fer_nb("video", tmp_path / "a.avi", "--stride", 2).stdout


def test_videos_are_smoothed_as_in_python():
    from fer_nb.video.tracking import SMOOTH

    assert f"[default: {SMOOTH}" in fer_nb("video", "--help").stdout


def test_outputs_of_a_video_are_checked_before_it_is_read(tmp_path):
    from fer_nb.video.containers import write_images

    film = write_images(tmp_path / "a.mp4", [np.zeros((240, 320, 3), np.uint8)] * 3)
    for words in (("--timeline", tmp_path / "plot.txt"), ("--out", tmp_path / "t.xls"), ("--video-out", film)):
        one_line(fer_nb("video", film, "--out", tmp_path / "t.csv", *words))
        assert os.listdir(tmp_path) == ["a.mp4"]


def test_many_videos_leave_one_table(photos, tmp_path):
    pytest.importorskip("av")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    result = fer_nb("video", tmp_path, "--out", tmp_path / "t.csv")
    assert result.exit_code == 1 and result.stderr.count("error: ") == 2 and len(table(tmp_path / "t.csv")) == 2
    assert "--out" in one_line(fer_nb("video", tmp_path))


def test_the_card_of_a_model(tmp_path):
    assert fer_nb("card", "resnet18").stdout.startswith("# ResNet18")
    assert "model.safetensors" in fer_nb("card", "custom_cnn", "--out", tmp_path / "hub").stdout
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["image_size"] == 48
    assert "Did you mean" in one_line(fer_nb("card", "resnet"))


def test_video_that_is_none(photos):
    for source, word in ((photos / "notes.jpg", "notes.jpg"), (photos / "none.mp4", "no file"), (97, "camera 97")):
        assert word in one_line(fer_nb("video", source))


# fer-nb export, fer-nb bench predict


def test_export_writes_the_model(tmp_path):
    pytest.importorskip("torch", reason="export needs the [train] extra")
    checkpoint = models_dir() / f"best_{available_models()[-1]}.pth"
    result = fer_nb("export", checkpoint, "--out", tmp_path)
    assert result.exit_code == 0 and Path(result.stdout.strip()).is_file()
    assert "does not exist" in one_line(fer_nb("export", tmp_path / "best_none.pth"))


def test_export_does_not_write_one_file_twice(tmp_path):
    checkpoint = models_dir() / "best_custom_cnn.pth"
    other = tmp_path / "other" / "best_custom_cnn.pth"
    other.parent.mkdir()
    shutil.copy(checkpoint, other)
    shutil.copy(checkpoint, other.with_name("again.pth"))
    out = tmp_path / "exp"
    for words in ((checkpoint, other, "--out", out), (other, other.with_name("again.pth"))):
        assert "2 of these checkpoints would be" in one_line(fer_nb("export", *words))
    assert not out.exists() and not list(tmp_path.rglob("*.onnx"))


def test_export_of_what_is_no_checkpoint(tmp_path):
    torch = pytest.importorskip("torch", reason="export needs the [train] extra")
    whole = (models_dir() / f"best_{available_models()[-1]}.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"model_state_dict": {}}, tmp_path / "others.pth")
    for name in ("cut", "text", "others"):
        assert f"{name}.pth" in one_line(fer_nb("export", tmp_path / f"{name}.pth"))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pth"] * 3


def test_bench_predict_measures():
    rows = json.loads(fer_nb("bench", "predict", available_models()[-1], "--json").stdout)
    assert len(rows) == 2  # fast and thorough
    steps = "whole_view", "find", "cut", "classify", "all", "photos_per_second"
    assert all(row[step] > 0 for row in rows for step in steps)
    assert rows[0]["find_ratio"] < rows[1]["find_ratio"]  # in whole views
    said = fer_nb("bench", "predict", available_models()[-1]).stdout
    assert "photos/s" in said and load_peers()
    assert all(row["PublicTest"]["library"] in said for row in load_peers().values())


def test_bench_onnx_compares_with_pytorch():
    pytest.importorskip("torch", reason="PyTorch comes with the [train] extra")
    (row,) = json.loads(fer_nb("bench", "onnx", "custom_cnn", "--threads", 1, "--json").stdout)
    assert row["ratio"] == pytest.approx(row["torch"] / row["onnx"], rel=0.02) and 0 < row["fraction"] < 1.5
    assert sum(part["time"] for part in row["ops"].values()) == pytest.approx(1, abs=0.02)
    assert "Did you mean" in one_line(fer_nb("bench", "onnx", "custom_cn"))


def test_bench_sweep_keeps_nothing_of_synthetic_faces(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch comes with the [train] extra")
    monkeypatch.delenv("FER2013", raising=False)
    assert "synthetic" in one_line(fer_nb("bench", "sweep", "custom_cnn", "--write"))


# what is there is not lost, and a wrong word costs no waiting


def test_a_report_or_a_bank_is_not_written_over_its_source(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("fer_nb.data.load.load_data", lambda *a, **k: pytest.fail("has read the data"))
    file = tmp_path / "f.csv"
    file.write_text("mine")
    (tmp_path / "folder.html").mkdir()
    for name in ("f.csv", "", "folder.html", "a.png"):
        assert "ends in .html" in one_line(fer_nb("data", faces, "--html", str(tmp_path / name) if name else ""))
    pytest.importorskip("torch")
    teacher = tmp_path / "best_custom_cnn.pth"
    teacher.write_bytes(b"mine")
    for name in (teacher, tmp_path):
        assert "ends in .npz" in one_line(fer_nb("bank", teacher, "--data", faces, "--out", name))
    assert (file.read_text(), teacher.read_bytes()) == ("mine", b"mine")


def test_a_video_is_not_written_over_another(tmp_path):
    from fer_nb.video.containers import write_images

    film = write_images(tmp_path / "a.mp4", [np.zeros((240, 320, 3), np.uint8)] * 11)
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(film.read_bytes())
    (tmp_path / "mine.png").write_bytes(b"mine")
    for word, name in (("--video-out", "mine.mp4"), ("--timeline", "mine.png")):
        assert "is there already" in one_line(fer_nb("video", film, word, tmp_path / name))
    assert mine.read_bytes() == film.read_bytes() and (tmp_path / "mine.png").read_bytes() == b"mine"
    for stride in (4, 5):  # its own drawing is drawn anew
        assert fer_nb("video", film, "--video-out", tmp_path / "drawn.mp4", "--stride", stride).exit_code == 0


def test_a_url_for_results_stays_one(monkeypatch):
    distributed = pytest.importorskip("fer_nb.distributed")
    asked = []
    monkeypatch.setattr(distributed, "predict_dataset", lambda names, out, **how: asked.append(out) or 1 / 0)
    fer_nb("predict", "s3://photos/2024", "--engine", "ray", "--out", "s3://bucket/results")
    assert asked == ["s3://bucket/results"]


def test_a_data_set_is_not_written_into_itself(faces):
    before = sorted(faces.rglob("*"))
    for words in (["--to", "folder"], ["--crop"]):
        assert "would be read as a part of it" in one_line(fer_nb("data", faces, faces / "new", *words))
    assert sorted(faces.rglob("*")) == before


def test_settings_of_a_benchmark_are_checked_first():
    pytest.importorskip("torch")
    for word, says in (("steps=5", "no setting 'steps'"), ("model=x", "no setting 'model'"), ("lr=x", "lr")):
        result = fer_nb("bench", "train", "custom_cnn", "--set", word)
        assert says in one_line(result) and not result.stdout
    assert "There is no model" in one_line(fer_nb("bench", "sweep", "nomodel", "--data", "nowhere.zip"))


@pytest.mark.parametrize("command", [["train", "custom_cnn"], ["reproduce"]])
def test_endless_minutes_are_refused(command):
    result = fer_nb(*command, "--minutes", "inf")
    assert result.exit_code == 2 and "'--minutes'" in result.stderr and "less than" in result.stderr


def test_the_help_of_serve_is_its_own():
    assert "may be asked for" in " ".join(fer_nb("serve", "--help").stdout.split())
