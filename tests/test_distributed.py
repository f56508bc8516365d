"""Past one process: the same predictions, whatever is lost on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import tiny_model
from PIL import Image

from fer_nb.core import EMOTIONS, FerError, models_dir
from fer_nb.data.synthetic import draw_face

pytest.importorskip("ray")
import pyarrow as pa
import ray
from pyarrow import parquet
from ray.cluster_utils import Cluster

from fer_nb.distributed import predict_dataset, result_row, result_schema
from fer_nb.inference import EmotionRecognizer

NAMES = 100_000 if os.environ.get("FUZZ") else 800
HOW = dict(crop="whole") if os.environ.get("FUZZ") else dict(min_face=40)  # looking for faces would take an hour


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "`NAMES` names of forty drawn photos, and two files that are no images."
    folder = tmp_path_factory.mktemp("photos")
    for i in range(40):
        photo = Image.new("RGB", (160, 120), (120, 130, 140))
        photo.paste(draw_face(EMOTIONS[i % 7], i, 110, zoom=0.6), (25, 5))
        photo.save(folder / f"{i:06}.jpg")
    for i in range(40, NAMES):
        os.link(folder / f"{i % 40:06}.jpg", folder / f"{i:06}.jpg")
    (folder / "broken.jpg").write_text("no picture")
    (folder / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def alone(photos):
    "What one process predicts, by the image's content."
    names = [str(photos / name) for name in (*(f"{i:06}.jpg" for i in range(40)), "broken.jpg", "empty.png")]
    with EmotionRecognizer("custom_cnn", threads=2, **HOW) as recognizer:
        return {Path(r.source).name: result_row("", r) | {"model": "custom_cnn"} for r in recognizer.stream(names)}


def check(out, photos, alone):
    "Each image has one row, and it says what one process predicts."
    rows = parquet.read_table(out / "predictions").to_pylist()
    counts = Counter(row["source"] for row in rows)
    assert set(counts.values()) == {1} and len(counts) == len(os.listdir(photos))
    for row in rows:
        name = Path(row["source"]).name
        assert row | {"source": ""} == alone[f"{int(name[:6]) % 40:06}.jpg" if name[0].isdigit() else name]


def begun(out):
    "Wait until the first predictions are there."
    for _ in range(1200):
        if list(out.glob("predictions/*.parquet")):
            return
        time.sleep(0.1)
    raise AssertionError("no predictions after two minutes")


def test_a_machine_that_is_lost_in_the_middle_loses_nothing(photos, alone, tmp_path):
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        _, other = (machines.add_node(num_cpus=1) for _ in range(2))
        machines.wait_for_nodes()
        ray.init(address=machines.address, log_to_driver=False)
        summaries = []
        run = threading.Thread(target=lambda: summaries.append(
            predict_dataset(photos, tmp_path, model="custom_cnn", **HOW)))
        run.start()
        begun(tmp_path)
        assert run.is_alive()
        machines.remove_node(other, allow_graceful=False)
        run.join(240 + NAMES / 20)
        assert not run.is_alive() and ray.cluster_resources()["CPU"] == 1
        assert summaries[0].photos == NAMES + 2 and summaries[0].errors == 2
    finally:
        ray.shutdown()
        machines.shutdown()
    check(tmp_path, photos, alone)


def test_a_run_that_is_killed_goes_on(photos, alone, tmp_path):
    command = [sys.executable, "-c", "from fer_nb.cli import main; main()", "predict", photos, "--engine", "ray"]
    command += ["--out", tmp_path, "--model", "custom_cnn"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in HOW.items()]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    begun(tmp_path)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = len(list(tmp_path.glob("predictions/*.parquet")))
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert again.returncode == 1, again.stderr  # two files are no pictures
    assert again.stdout.startswith(f"{NAMES + 2:,} pictures, {NAMES:,} faces, 2 unreadable: ") and not again.stderr
    assert len(list(tmp_path.glob("predictions/*.parquet"))) > before
    check(tmp_path, photos, alone)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--resume" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(("source", "message"), [
    ("nothing.parquet", "is not a Parquet table"),
    ("nowhere://photos", "cannot be reached"),
    (["photos", "more.parquet"], "do not go together"),
    ([], "There is no picture in the list"),
])
def test_an_input_that_cannot_be_read_is_one_sentence(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FerError, match=message):
        predict_dataset(source, "out", model="custom_cnn")
    assert not os.listdir(tmp_path)


def test_a_folder_of_an_older_version_is_refused(photos, tmp_path):
    (tmp_path / "answers").mkdir()
    with pytest.raises(FerError, match="older version"):
        predict_dataset(photos, tmp_path, model="custom_cnn", resume=True)


def test_predictions_have_the_columns_of_the_models_emotions(tmp_path):
    three = tiny_model(tmp_path / "three.onnx", {"emotions": "calm,tense,happy"}, n=3)
    photo = draw_face("happy", 1)
    photo.save(tmp_path / "face.png")
    how = dict(crop="whole", device="cpu")
    predict_dataset(tmp_path / "face.png", tmp_path / "out", model=three, **how)
    (row,) = parquet.read_table(tmp_path / "out" / "predictions").to_pylist()
    (face,) = row["faces"]
    assert [face[emotion] for emotion in ("calm", "tense", "happy")] == pytest.approx([1 / 3] * 3)
    assert predict_dataset(tmp_path / "face.png", tmp_path / "out", model=three, resume=True, **how).faces == 1
    with pytest.raises(FerError, match="other emotions"):
        predict_dataset(tmp_path / "face.png", tmp_path / "out", model="custom_cnn", resume=True, **how)


def test_a_folder_is_not_continued_with_another_model(tmp_path, monkeypatch):
    def one_row(tables, names, settings, out):
        (out / "predictions").mkdir(exist_ok=True)
        row = dict(source=names[0], width=1, height=1, faces=[], error="", model="custom_cnn")
        parquet.write_table(pa.Table.from_pylist([row], result_schema()), out / "predictions" / "1.parquet")

    monkeypatch.setattr("fer_nb.distributed.run_pipeline", one_row)
    monkeypatch.setattr("fer_nb.distributed.ray_session", nullcontext)
    mine, out = tmp_path / "mine.onnx", tmp_path / "out"
    mine.write_bytes((models_dir() / "custom_cnn.onnx").read_bytes())
    draw_face("happy", 1).save(tmp_path / "face.png")

    def go_on(resume=True, **how):
        return predict_dataset(tmp_path / "face.png", out, resume=resume, **{"model": mine, "device": "cpu"} | how)

    assert go_on(resume=False).photos == go_on().photos == 1
    for change, message in (
        (dict(model="custom_cnn"), "model mine.onnx .*, not custom_cnn.onnx "), (dict(tta=True), "tta False, not True"),
        (dict(threshold=0.99), "threshold .*, not 0.99"), (dict(min_face=40), "min_face"), (dict(crop="whole"), "crop"),
    ):  # fmt: skip
        with pytest.raises(FerError, match=f"was begun with another model or other settings: {message}"):
            go_on(**change)
    assert len(parquet.read_table(out)) == 1  # readers pass over the settings
    mine.write_bytes((models_dir() / "resnet18.onnx").read_bytes())
    with pytest.raises(FerError, match=r"mine.onnx .*, not mine.onnx "):
        go_on()
    (out / "_settings.json").unlink()  # as an earlier version left it
    assert go_on().photos == 1


def test_the_workers_use_the_device_that_is_asked_for(photos, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("fer_nb.distributed.run_pipeline", lambda tables, names, settings, out: made.append(settings))
    monkeypatch.setattr("fer_nb.distributed.summarize_output", lambda out: None)
    predict_dataset(photos, tmp_path, model="custom_cnn", device="cpu")
    assert made[0]["device"] == "cpu"
    with pytest.raises(FerError, match="device"):
        predict_dataset(photos, tmp_path, model="custom_cnn", device="none_such")


def test_bench_scale_counts_and_weighs():
    command = [sys.executable, "-c", "from fer_nb.cli import main; main()", "bench", "scale", "20", "40"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) == {"one process", "1 worker", "2 workers"}
