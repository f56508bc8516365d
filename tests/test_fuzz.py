"""Files and command lines bent at random: each ends in a result or in one of our errors, soon, and in little memory.

A child process takes the cases one after the other, so that a crash is seen as well. `make fuzz` runs all of them,
`make test` a fiftieth. A case is its number: `python tests/test_fuzz.py pictures 4711 4712` repeats one.
"""

import csv
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARE = float(os.environ.get("FUZZ", 0.02))  # of the cases
CASES = {"pictures": 10_000, "data": 1_000, "models": 500, "films": 200, "commands": 2_000}
SECONDS, MEGABYTES = 5, 1000  # that one case may take, and all of them on top of the first


def picture(format, mode="RGB", side=120, **how):
    "A synthetic face as the bytes of an image file."
    from fer_nb.data.synthetic import draw_face

    file = io.BytesIO()
    draw_face("happy", 4, side, zoom=0.6).convert(mode).save(file, format, **how)
    return file.getvalue()


def pictures():
    "Image files of every kind that people give."
    kinds = "PNG RGB,PNG RGBA,PNG P,PNG I,JPEG RGB,JPEG L,GIF P,WEBP RGB,BMP RGB,TIFF RGB,TIFF L,ICO RGBA,PPM RGB"
    return {kind.replace(" ", "."): picture(*kind.split()) for kind in kinds.split(",")}


def data():
    "Small data sets in every form."
    from fer_nb.core import EMOTIONS
    from fer_nb.data.synthetic import synthetic_faces

    split = synthetic_faces(14)
    members = {}
    for i, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        members[f"train/{EMOTIONS[label]}/Training_{i}.jpg"] = file.getvalue()
        members[f"test/{EMOTIONS[label]}/PublicTest_{i}.jpg"] = file.getvalue()
    out = {}
    for name, packing in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", packing) as z:
            for member, content in members.items():
                z.writestr(member, content)
        out[name] = file.getvalue()
    for name, mode in (("plain.tar", "w"), ("packed.tar.gz", "w:gz")):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as t:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                t.addfile(info, io.BytesIO(content))
        out[name] = file.getvalue()
    rows = [f"{label},{' '.join(map(str, pixels.ravel()))},{usage}"
            for usage in ("Training", "PublicTest") for pixels, label in zip(split.images, split.labels, strict=True)]
    out["fer2013.csv"] = "\n".join(["emotion,pixels,Usage", *rows]).encode()
    return out


def models():
    "A checkpoint and an exported model."
    import torch

    from fer_nb.core import EMOTIONS, models_dir
    from fer_nb.custom_cnn import build

    file = io.BytesIO()
    torch.save(dict(model="custom_cnn", model_state_dict=build(width=2).state_dict(), classes=list(EMOTIONS), size=48,
                    channels=1, calibration=torch.ones(2, 7)), file)  # fmt: skip
    exported = min(models_dir().glob("[!f]*.onnx"), key=lambda p: p.stat().st_size)
    return {"best_custom_cnn.pth": file.getvalue(), "custom_cnn.onnx": exported.read_bytes()}


def films():
    "Short videos of a synthetic face."
    import cv2

    from fer_nb.data.synthetic import draw_face

    frames = [np.asarray(draw_face("happy", 4, 160, zoom=0.6 + i / 100)) for i in range(8)]
    out = {}
    for name, code in (("film.avi", "MJPG"), ("film.mp4", "mp4v")):
        writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*code), 10, (160, 160))
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        out[name] = Path(name).read_bytes()
        Path(name).unlink()
    return out


def bent(content, rng):
    "The same bytes with a few accidents."
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, n = rng.randrange(len(out) or 1), rng.choice((1, 2, 4, 16, 256))
        match rng.randrange(7):
            case 0: out[at : at + n] = rng.randbytes(n)
            case 1: out[at : at + n] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * n
            case 2: del out[at : at + n]
            case 3: out[at:at] = rng.randbytes(n)
            case 4: out[at:at] = out[at : at + n]
            case 5: del out[at:]
            case 6 if at < len(out): out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


@cache
def recognizer():
    "The smallest model, on one thread."
    from fer_nb.core import models_dir
    from fer_nb.inference import EmotionRecognizer

    return EmotionRecognizer(min(models_dir().glob("[!f]*.onnx"), key=lambda p: p.stat().st_size), threads=1)


def read_picture(path):
    recognizer()(path)


def read_data(path):
    from fer_nb.data.load import load_data
    from fer_nb.data.quality import dataset_report

    dataset_report(load_data(path, cache=False, progress=False))


def read_model(path):
    if path.suffix == ".pth":
        from fer_nb.model_api import load_classifier

        load_classifier(path)
    else:
        from fer_nb.inference import EmotionRecognizer

        EmotionRecognizer(path, threads=1).classify(np.zeros((1, 48, 48), np.uint8))


def read_film(path):
    from fer_nb.video.reader import VideoReader
    from fer_nb.video.tracking import track_video

    for _ in track_video(VideoReader(path), recognizer()):
        pass


@cache
def files(kind):
    "The whole files of a kind: name → bytes."
    return {"pictures": pictures, "data": data, "models": models, "films": films}[kind]()


READ = {"pictures": read_picture, "data": read_data, "models": read_model, "films": read_film}

COMMANDS = "predict video data train evaluate export recipe models runs average bank".split()
WORDS = [*COMMANDS, *"""--json --tta --data --set --size --epochs --model --init --resume --split --out --help
--version --min-face --threshold --annotate custom_cnn resnet18 efficientnet_b0 face.png none.png lr=0.1 lr=nan lr=1e999
epochs=-1 epochs=1.5 mixup_alpha=x size=0
= a=b=c 0 -1 1e9 nan test PublicTest out . - * [ ä 📷 ../..""".split(), "", "\0",
         "x" * 300]


def run_command(rng):
    "A command line of words that mean something elsewhere; what would take long is not done, only prepared."
    from typer.testing import CliRunner

    import fer_nb.cli
    import fer_nb.data.load
    import fer_nb.evaluation.evaluate
    import fer_nb.evaluation.results
    import fer_nb.model_api
    import fer_nb.training.learner

    fer_nb.data.load.load_data = few_faces
    fer_nb.training.learner.train = lambda model, data, out, resume, log, note, minutes, **changes: (
        fer_nb.model_api.model_recipe(model, **changes) and None)
    fer_nb.evaluation.evaluate.evaluate = nothing_to_say
    fer_nb.evaluation.results.write_results = fer_nb.evaluation.results.evaluate_all = nothing_to_say
    if not Path("face.png").exists():
        Path("face.png").write_bytes(picture("PNG"))
    words = [rng.choice(COMMANDS), *rng.choices(WORDS, k=rng.randrange(6))]
    if words[0] in ("evaluate", "data") and not any(w.startswith("-") for w in words[1:2]):
        words[1:1] = ["none.zip"] if words[0] == "data" else []
    done = CliRunner().invoke(fer_nb.cli.app, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise RuntimeError(f"fer-nb {words}") from done.exception
    return {0: "result"}.get(done.exit_code, "refused")


def few_faces(path=None, *_, **__):
    from fer_nb.data.load import read_source
    from fer_nb.data.synthetic import synthetic_dataset

    return read_source(Path(path)) if path and Path(path).exists() else synthetic_dataset(70)


def nothing_to_say(*_, **__):
    from fer_nb.core import DatasetError

    raise DatasetError("not measured here")


def too_slow(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def one(kind, number):
    "Run a case: `result` or `refused`; whatever else happens is raised."
    from fer_nb.core import FerError

    rng = random.Random(f"{kind} {number}")
    if kind == "commands":
        return run_command(rng)
    name = rng.choice(list(files(kind)))
    path = Path(name)
    path.write_bytes(bent(files(kind)[name], rng))
    try:
        READ[kind](path)
        return "result"
    except FerError as e:
        assert str(e)[-1] in ".?!", f"no sentence: {e}"
        return "refused"
    finally:
        path.unlink()


def run(kind, first, last):
    "In the child: the cases from `first` to below `last`; prints what came, or the case that broke."
    signal.signal(signal.SIGALRM, too_slow)
    one(kind, -1), one(kind, -2)  # imports take time and memory, once
    base, came, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Counter(), 0.0
    for number in range(first, last):
        print(number, file=sys.stderr, flush=True)
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            came[one(kind, number)] += 1
        except Exception:
            traceback.print_exc()
            sys.exit(f"case {kind} {number}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    print(json.dumps(dict(kind=kind, cases=last - first, **came, slowest_s=round(slowest, 2), grown_mb=round(grown))))


@pytest.mark.parametrize("kind", CASES)
def test_bent_input(kind, tmp_path, capsys):
    n = max(20, round(CASES[kind] * SHARE))
    inside = tmp_path / "inside"
    inside.mkdir()
    root = Path(__file__).parent.parent
    env = os.environ | {"PYTHONPATH": str(root), "HOME": str(inside), "PYTHONWARNINGS": "ignore"}
    env.pop("FER2013", None)
    done = subprocess.run([sys.executable, __file__, kind, "0", str(n)], cwd=inside, env=env, capture_output=True,
                          text=True, timeout=60 + n * SECONDS)  # fmt: skip
    assert done.returncode == 0, f"{kind}: exit {done.returncode}\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{done.stdout.splitlines()[-1]}")
    assert told.get("result", 0) + told.get("refused", 0) == n
    assert told["grown_mb"] < MEGABYTES
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]  # nothing climbed out


def rows_of(file):
    "The rows of a table that may be cut off."
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def test_a_batch_killed_again_and_again_has_one_row_for_each_file(tmp_path):
    n, kills, chance = round(50_000 * SHARE), 10 if SHARE == 1 else 2, random.Random(0)
    photos, file = tmp_path / "photos", tmp_path / "faces.csv"
    photos.mkdir()
    for i in range(40):
        (photos / f"{i:05}.png").write_bytes(picture("PNG", side=200))
    for i in range(40, n):
        if i % 100 == 99:
            (photos / f"{i:05}.png").write_bytes(b"no picture")
        else:
            os.link(photos / f"{i % 40:05}.png", photos / f"{i:05}.png")
    command = [sys.executable, "-c", "from fer_nb.cli import main; main()", "predict", photos, "--min-face", "80"]
    command += ["--out", file, "--resume"]
    for _ in range(kills):
        before = len(rows_of(file))
        enough = before + chance.randrange(1, n // kills - 64)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(rows_of(file)) < enough and process.poll() is None:
            time.sleep(chance.uniform(0.01, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL and before < len(rows_of(file)) < n
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-3000:]  # some are no pictures
    rows = rows_of(file)
    assert [row["source"] for row in rows] == [str(photos / f"{i:05}.png") for i in range(n)]
    assert sum(bool(row["error"]) for row in rows) == n // 100 and {row["face"] for row in rows} == {"0", "1"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["faces.csv", "photos"]


if __name__ == "__main__":
    run(sys.argv[1], *map(int, sys.argv[2:4]))
