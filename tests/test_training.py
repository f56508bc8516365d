"""Training is stopped in every way it can be, and nothing is lost; several processes train as one."""

import dataclasses
import gc
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fer_nb.augmentation import DRAW
from fer_nb.cli import app
from fer_nb.core import EMOTIONS, ModelError, RecipeError, TrainingError, models_dir
from fer_nb.data.load import load_data
from fer_nb.data.synthetic import synthetic_dataset
from fer_nb.model_api import load_checkpoint, load_classifier, model_module
from fer_nb.recipe import RENAMED
from fer_nb.training.callbacks import ResumeCallback
from fer_nb.training.checkpoints import average_checkpoints, save_checkpoint
from fer_nb.training.distillation import make_bank
from fer_nb.training.learner import train
from fer_nb.training.reproduce import read_plan, ready_stages, reproduce, run_parallel
from fer_nb.training.runs import RUN_FIELDS, list_runs, load_runs, save_runs
from fer_nb.view_bank import ViewBank, load_bank

SETTINGS = dict(epochs=4, batch_size=16, size=24, progressive_size=0, ema_decay=0.9, mixup_alpha=0.2, cutmix_alpha=0.5)
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["fer_nb.training.learner"])


@pytest.fixture(autouse=True)
def nothing_to_import_again(monkeypatch):
    "A child imports the parent's main module; Streamlit's tests leave a page there."
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.setattr(ResumeCallback, "interval", 0)  # a state and a line of the log after each epoch


def run(out, settings):
    "One training in a process of its own; goes on where the one before it was killed."
    torch.set_num_threads(1)
    ResumeCallback.interval = 0
    train("custom_cnn", synthetic_dataset(350), out=out, resume=True, log=lambda _: None, **settings)


def weights(out):
    "What the best epoch and the last line of the log came to."
    log = (out / "custom_cnn_log.csv").read_text().splitlines()
    return load_checkpoint(out / "best_custom_cnn.pth")["model_state_dict"], [line.split(",")[:-1] for line in log]


@pytest.mark.parametrize("times", range(3 if os.environ.get("FUZZ") == "1" else 1))
@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
def test_killed_at_random_moments_it_ends_with_the_same_bits(schedule, times, tmp_path):
    settings = SETTINGS | dict(schedule=schedule, plateau_patience=1)
    chance, kills = random.Random(f"{schedule}{times or ''}"), 0
    nothing = server.Process(target=print)  # the server imports what the others need
    nothing.start(), nothing.join()
    start = time.monotonic()
    undisturbed = server.Process(target=run, args=(tmp_path / "whole", settings))
    undisturbed.start(), undisturbed.join()
    took = time.monotonic() - start
    assert undisturbed.exitcode == 0
    for _ in range(30):
        process = server.Process(target=run, args=(tmp_path / "killed", settings))
        process.start()
        process.join(chance.uniform(0.1, 0.6) * took if kills < 5 else None)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            for file in (tmp_path / "killed").glob("[!.]*.pth"):
                load_checkpoint(file)  # whatever lies there can be read
        else:
            assert process.exitcode == 0
            break
    print(f"killed {kills} times")
    assert kills >= 2
    assert not list((tmp_path / "killed").glob(".*"))
    (one, log), (other, log_again) = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert log == log_again


def full_disk(out):
    "The state grows past what this process may write, as on a full disk."
    torch.set_num_threads(1)
    ResumeCallback.interval = 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def after_two_epochs(line):
        if "epoch   2/" in line:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    try:
        train("custom_cnn", synthetic_dataset(350), out=out, log=after_two_epochs, **SETTINGS)
    except TrainingError as e:
        (out / "said").write_text(str(e))


def test_a_full_disk_keeps_the_last_good_state(tmp_path):
    process = server.Process(target=full_disk, args=(tmp_path,))
    process.start(), process.join()
    said = (tmp_path / "said").read_text()
    assert "Free some space" in said and "Epoch 2 is kept" in said
    assert load_checkpoint(tmp_path / "custom_cnn_state.pth")["epoch"] == 2
    assert not list(tmp_path.glob(".*"))
    lines = []
    result = train("custom_cnn", synthetic_dataset(350), out=tmp_path, resume=True, log=lines.append, **SETTINGS)
    assert "Going on after epoch 2 of 4." in lines and result.files[0].is_file()


def test_a_data_folder_that_is_lost_for_a_while(tmp_path):
    whole = synthetic_dataset(350)
    for name, part in whole.splits.items():
        for i, (pixels, label) in enumerate(zip(part.images, part.labels, strict=True)):
            folder = tmp_path / "data" / ("train" if name == "Training" else "test") / EMOTIONS[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{name}_{i}.png")
    train("custom_cnn", load_data(tmp_path / "data"), out=tmp_path / "whole", log=lambda _: None, **SETTINGS)

    def lose(line):
        if "epoch   2/" in line:
            os.rename(tmp_path / "data", tmp_path / "elsewhere")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("custom_cnn", load_data(tmp_path / "data"), out=tmp_path / "stopped", log=lose, **SETTINGS)
    command = ["train", "custom_cnn", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "stopped"), "--resume"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "data" in refused.stderr and refused.stderr.count("\n") == 1
    assert load_checkpoint(tmp_path / "stopped" / "custom_cnn_state.pth")["epoch"] == 2
    os.rename(tmp_path / "elsewhere", tmp_path / "data")
    again = dict(out=tmp_path / "stopped", resume=True, log=lambda _: None)
    train("custom_cnn", load_data(tmp_path / "data"), **again, **SETTINGS)
    (one, log), (other, log_again) = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[k], other[k]) for k in one) and log == log_again


def test_a_state_of_an_earlier_version_goes_on_with_the_same_bits(tmp_path):
    def stop(line):
        if "epoch   2/" in line:
            raise KeyboardInterrupt

    train("custom_cnn", synthetic := synthetic_dataset(280), out=tmp_path / "whole", log=lambda _: None, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        train("custom_cnn", synthetic, out=tmp_path / "old", log=stop, **SETTINGS)
    file, earlier = tmp_path / "old" / "custom_cnn_state.pth", {new: old for old, new in RENAMED.items()}
    state = load_checkpoint(file)
    state["header"]["recipe"] = {earlier.get(k, k): v for k, v in state["header"]["recipe"].items()} | {"soup": ()}
    torch.save(state, file)
    (row,) = list_runs(tmp_path / "old")
    assert "progressive_size=0" in row["changes"] and " small_size" not in row["changes"]
    train("custom_cnn", synthetic, out=tmp_path / "old", resume=True, log=lambda _: None, **SETTINGS)
    (one, log), (other, log_again) = weights(tmp_path / "whole"), weights(tmp_path / "old")
    assert all(torch.equal(one[k], other[k]) for k in one) and log == log_again


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    lines = []
    with pytest.raises(TrainingError, match=r"^Cannot write"):
        train("custom_cnn", synthetic_dataset(70), out=tmp_path / "file", log=lines.append, **SETTINGS)
    assert not any("epoch" in line for line in lines)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "fer_nb.cli", "train", "custom_cnn", "--out", tmp_path, "--epochs", "300",
               "--batch-size", "16", "--size", "24", "--set", "progressive_size=0"]
    # a shell's background commands ignore it
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    main = f"{heard}; sys.argv[0] = 'fer-nb'; from fer_nb.cli import main; main()"
    command[1:3] = ["-c", main]
    environment = {k: v for k, v in os.environ.items() if k != "FER2013"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (tmp_path / "custom_cnn_log.csv").exists() or len(
            (tmp_path / "custom_cnn_log.csv").read_text().splitlines()) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped." in out and "go on with --resume" in out
    assert "Traceback" not in out + err
    assert load_checkpoint(tmp_path / "custom_cnn_state.pth")["epoch"] >= 1


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"model_state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="would run code"):
        train("resnet18", synthetic_dataset(70), out=tmp_path, init=str(tmp_path / "evil.pth"), log=lambda _: None)
    assert not (tmp_path / "run").exists()


# accelerate says multi_gpu for several processes of its own, GPUs or not
LAUNCH_TWO = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip

COUNTS_EPOCHS = """
import os, time, torch
from fer_nb.data.synthetic import synthetic_dataset
from fer_nb.model_api import model_recipe
from fer_nb.training.learner import epochs_for_time
from fer_nb.training.parallel import distributed_context
torch.set_num_threads(1)
recipe = model_recipe("custom_cnn", batch_size=20)
with distributed_context(recipe) as first:
    start = time.monotonic() - (0 if first else 3000)
    epochs = epochs_for_time(3600, "custom_cnn", synthetic_dataset(1400), recipe, start)
    os.write(1, b"%d\\n" % epochs)  # whole, as print is not
"""


def test_two_processes_count_the_same_epochs(tmp_path):
    (script := tmp_path / "script.py").write_text(COUNTS_EPOCHS)
    answer = subprocess.run([*LAUNCH_TWO, script], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    first, other = map(int, answer.stdout.split())
    assert first == other


ONE_OF_TWO = """
import json, sys, torch
from fer_nb.data.synthetic import synthetic_dataset
from fer_nb.training.checkpoints import average_checkpoints
from fer_nb.training.distillation import make_bank
from fer_nb.training.learner import train
torch.set_num_threads(1)
result = train("resnet18", synthetic_dataset(140), out=sys.argv[1], init="none", size=32, channels=1, epochs=2,
               batch_size=20, lr=1e-5, log=lambda _: None)  # at higher rates AdamW's first steps enlarge rounding
print("first" if result else "other")
"""


@pytest.mark.parametrize(("bf16", "rel"), [(False, 1e-4), (True, 1e-2)])
def test_two_processes_train_as_one(bf16, rel, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import fer_nb.training.cpu as cpu\ncpu.has_bf16 = lambda device: {bf16}\n{ONE_OF_TWO}")
    plain = [sys.executable, str(script)]
    logs = []
    for folder, command in (("one", plain), ("two", [*LAUNCH_TWO, str(script)])):
        answer = subprocess.run([*command, tmp_path / folder], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        logs.append([[float(v) for v in line.split(",")[:-1]]
                     for line in (tmp_path / folder / "resnet18_log.csv").read_text().splitlines()[1:]])
    assert sorted(answer.stdout.split()) == ["first", "other"]
    names = (tmp_path / "one" / "resnet18_log.csv").read_text().splitlines()[0].split(",")
    for one, two in zip(*logs, strict=True):
        row = dict(zip(names, zip(one, two, strict=True), strict=False))
        assert row["train_loss"][0] == pytest.approx(row["train_loss"][1], rel=rel), json.dumps(row)


def test_a_view_bank_knows_its_settings_and_its_draws(tmp_path):
    part = synthetic_dataset(70)["Training"]
    with pytest.raises(RecipeError, match="has no lr, erase_prob"):
        make_bank([], synthetic_dataset(70), lr=0.1, erase_prob=0.3, max_zoom=0.1)
    how = dict(views=1, seed=0, faces=ViewBank.hash(part), augmentation={}, teachers=[], emotions=part.emotions)
    codes = torch.zeros(1, len(part), 7, dtype=torch.uint8)
    for more in ({}, {"draw": list(DRAW)}):
        ViewBank(codes, how | more).save(tmp_path / "bank.npz")
        assert load_bank(tmp_path / "bank.npz").metadata["views"] == 1
    ViewBank(codes, how | {"draw": [*DRAW, "gamma"]}).save(tmp_path / "bank.npz")
    with pytest.raises(ModelError, match="drawn from other numbers"):
        load_bank(tmp_path / "bank.npz")


def test_a_bank_that_meets_a_full_disk_says_so_once(tmp_path, monkeypatch):
    ignored, how = [], dict(views=1, seed=0, faces="", augmentation={}, teachers=[], emotions=EMOTIONS)
    bank = ViewBank(torch.randint(256, (1, 500, 7), dtype=torch.uint8), how)
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)  # what a finalizer raises
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            bank.save(tmp_path / "bank.npz")
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not ignored and not os.listdir(tmp_path)


def test_a_run_is_recorded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    run = dict(zip(RUN_FIELDS, ("custom_cnn", "a note", "epochs=2", 2, 2, 24, 0.1, 1 / 3, 0.25, None), strict=True))
    assert load_runs() == []  # a folder of one's own begins without a record
    save_runs([run])
    save_runs([*load_runs(), run, run | dict(note="another")])
    assert [row["note"] for row in load_runs()] == ["a note", "another"]
    record = tmp_path / "runs.csv"
    good = record.read_bytes()
    header, first, second = good.splitlines(keepends=True)
    for damaged in (header + first[:30], header + first + second.replace(b"2,2,24", b"2,two,24"), first + second,
                    header + first.replace(b"a note", b"a, note"), header + b"\xff" + first, header + b'"' + first):
        record.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"line \d needs the columns model, note, .* move the file away"):
            load_runs()
    record.write_bytes(good)
    assert len(load_runs()) == 2


@pytest.mark.parametrize(("name", "content"), [
    ("best_x.pth", {"weights": torch.zeros(2)}), ("best_x.pth", [1]), ("x_state.pth", {"state_dict": {}}),
    ("best_x.pth", {"model": "custom_cnn", "size": 24, "recipe": {}}),
])
def test_a_checkpoint_of_somebody_else_is_no_run(name, content, tmp_path):
    torch.save(content, tmp_path / name)
    torch.save({}, tmp_path / "x_metrics.pth")
    with pytest.raises(TrainingError, match=f"{name} is no training of this library. Move it away"):
        list_runs(tmp_path)


TEACHER = "[t]\nmodel = custom_cnn\n"


@pytest.mark.parametrize(("text", "message"), [
    ("[a]\nmodel = custom_cnn\nteachers = efficientnet_b0", "needs efficientnet_b0, which is no stage"),
    (TEACHER + "[a]\nmembers = t, resnet18", "needs resnet18, which is no stage"),
    ("[a]\nmodel = custom_cnn\ninit = imagenet", "needs imagenet, which is no stage"),
    (TEACHER + "[a]\nviews = many\nteachers = t", "whole number from 1, not 'many'"),
    (TEACHER + "[a]\nviews = 0\nteachers = t", "whole number from 1, not '0'"),
    (TEACHER + "[a]\nviews = 2\nseed = x\nteachers = t", "whole number from 0, not 'x'"),
    (TEACHER + "[a]\nviews = 2\nmax_zoom = far\nteachers = t", "max_zoom"),
    ("[a]\nviews = 2", "names no stage in teachers"),
    ("[a]\nmembers =", "names no stage in members"),
    (TEACHER + "share = 2", "number of 0–1, not 2"),
    (TEACHER + "share = nan", "number of 0–1, not nan"),
])
def test_a_plan_that_cannot_work_is_refused_before_it_runs(text, message, tmp_path):
    (tmp_path / "plan.ini").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_plan(tmp_path / "plan.ini")


def test_the_shares_of_the_plan_that_ships_are_no_more_than_the_whole():
    left, total = dict(read_plan()), 0.0
    while left:  # on a GPU the stages of one round run side by side
        ready = ready_stages(left)
        total += max(stage.share for stage in ready)
        left = {name: stage for name, stage in left.items() if stage not in ready}
    assert 0.9 <= total <= 1


def test_a_plan_may_use_any_initial_weights_of_its_model(tmp_path, monkeypatch):
    monkeypatch.setitem(model_module("custom_cnn").INIT_WEIGHTS, "vggface", dict)
    (tmp_path / "plan.ini").write_text(TEACHER + "init = vggface\n[a]\nmodel = custom_cnn\ninit = t")
    plan = read_plan(tmp_path / "plan.ini")
    assert [(stage.name, stage.needs) for stage in plan.values()] == [("t", ()), ("a", ("t",))]


@pytest.mark.parametrize(("named", "names"), [
    ("", ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-8a1f,GPU-c0de,9", ["GPU-8a1f", "GPU-c0de"]),
])
def test_stages_side_by_side_use_the_gpus_that_were_granted(named, names, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    used = []

    class Process:
        stdout, returncode = (), 0

        def __init__(self, command, env, **how):
            used.append((command[command.index("--only") + 1], env["CUDA_VISIBLE_DEVICES"]))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run_parallel([*read_plan().values()][:3], [], print) == []
    assert sorted(used) == sorted(zip([*read_plan()][:3], [*names, names[0]], strict=True))


def test_minutes_or_epochs(tmp_path, monkeypatch):
    faces = synthetic_dataset(70)
    with pytest.raises(RecipeError, match="Give it, or epochs"):
        train("custom_cnn", faces, out=tmp_path, minutes=1, **SETTINGS)
    assert not os.listdir(tmp_path)
    given = []
    monkeypatch.setitem(reproduce.__globals__, "train", lambda *args, **how: given.append(how))
    (tmp_path / "plan.ini").write_text(TEACHER + "epochs = 3\nshare = 0.5\n[a]\nmodel = custom_cnn\nepochs = 4")
    for minutes in (0, 2):
        reproduce(faces, tmp_path, minutes=minutes, plan=tmp_path / "plan.ini")
    assert [(how["minutes"], how.get("epochs")) for how in given] == [(0, "3"), (0, "4"), (1, None), (0, "4")]


PLAN = "[t]\nmodel = custom_cnn\n[t2]\nmodel = custom_cnn\n[b]\nviews = 1\nteachers = t\n[e]\nmembers = t, t2\n"


@pytest.fixture
def done(tmp_path):
    "A function that runs bank and ensemble of a plan; they are done for `PLAN`."
    saved = load_checkpoint(models_dir() / "best_custom_cnn.pth")
    for epoch, name in enumerate(("t", "t2")):
        save_checkpoint(tmp_path / name / "best_custom_cnn.pth", saved | {"best_epoch": epoch})

    faces = [synthetic_dataset(70, seed=seed) for seed in range(2)]

    def run(plan=PLAN, seed=0, only=("b", "e")):
        (tmp_path / "plan.ini").write_text(plan)
        lines = []
        reproduce(faces[seed], tmp_path, only, plan=tmp_path / "plan.ini", log=lines.append)
        return [line for line in lines if "is there" in line]

    assert not run()
    return run


def test_what_another_plan_made_is_refused(done):
    assert len(done()) == 2
    for old, new, message in (
        ("views = 1", "views = 2", "views 1, not 2"),
        ("views = 1", "views = 1\nseed = 3", "seed 0, not 3"),
        ("views = 1", "views = 1\nmax_zoom = 0.1", "max_zoom 0.0, not 0.1"),
        ("teachers = t", "teachers = t2", "teacher 1 "),
        ("teachers = t", "teachers = t, t2", "teachers 1, not 2"),
        ("members = t, t2", "members = t2", "members t, t2, not t2"),
    ):
        with pytest.raises(TrainingError, match=f"is not what the plan says: it has {message}.* Delete it"):
            done(PLAN.replace(old, new))


def test_what_other_files_or_faces_made_is_refused(done, tmp_path):
    for stage in "be":
        with pytest.raises(TrainingError, match="it has faces"):
            done(seed=1, only=[stage])
    teacher, ensemble = tmp_path / "t" / "best_custom_cnn.pth", tmp_path / "e" / "ensemble.json"
    save_checkpoint(teacher, load_checkpoint(teacher) | {"best_epoch": 9})
    for stage, message in (("b", "teacher 1"), ("e", "checkpoint of t ")):
        with pytest.raises(TrainingError, match=f"it has {message}"):
            done(only=[stage])
    teacher.unlink()
    assert len(done()) == 2  # made by teachers that are not here
    found = json.loads(ensemble.read_text())
    ensemble.write_text(json.dumps({key: found[key] for key in ("weights", "checkpoints", "n", "accuracy")}))
    assert done(seed=1, only=["e"])  # of an earlier version, which did not say
    ensemble.write_text("{")
    with pytest.raises(TrainingError, match="damaged"):
        done(only=["e"])


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match="cannot be shared by 3 processes"):
        train("custom_cnn", synthetic_dataset(70), out=tmp_path, log=lambda _: None, **SETTINGS)


# what a data set may lack or have


QUICK = dict(epochs=2, batch_size=16, size=24, progressive_size=0, ema_decay=0.9)


def subset(data, emotions):
    "The faces of some emotions, as a label set of their own."
    def of(split):
        split = split[np.isin(split.labels, [split.emotions.index(e) for e in emotions])]
        labels = np.array([emotions.index(split.emotions[label]) for label in split.labels])
        return dataclasses.replace(split, labels=labels, emotions=emotions)

    return dataclasses.replace(data, splits={name: of(split) for name, split in data.splits.items()})


def test_an_absent_emotion_gets_no_weight_and_this_is_said(tmp_path):
    data, lines = synthetic_dataset(350), []
    seen = {name: split[split.labels != EMOTIONS.index("neutral")] for name, split in data.splits.items()}
    result = train("custom_cnn", dataclasses.replace(data, splits=seen), out=tmp_path, log=lines.append, **QUICK)
    saved = load_checkpoint(result.files[0])
    assert [e for e, w in zip(EMOTIONS, saved["class_weights"], strict=True) if not w] == ["neutral"]
    assert any("No image of Training shows neutral" in line for line in lines)
    assert all(v.isfinite().all() for v in saved["model_state_dict"].values())


def test_leakage_is_said_before_a_training_starts(tmp_path):
    data, lines = synthetic_dataset(350), []
    train("custom_cnn", data, out=tmp_path / "clean", log=lines.append, **QUICK)
    assert not any("Leakage" in line for line in lines)
    train_split, public = data["Training"], data["PublicTest"]
    copied = dataclasses.replace(public, images=np.concatenate([train_split.images[:3], public.images[3:]]))
    leaky = {"Training": train_split, "PublicTest": copied, "PrivateTest": train_split[:5]}

    def first_lines(line):
        lines.append(line)
        if "epoch" in line.lower():
            raise KeyboardInterrupt

    lines.clear()
    with pytest.raises(KeyboardInterrupt):
        train("custom_cnn", dataclasses.replace(data, splits=leaky), out=tmp_path, log=first_lines, **QUICK)
    said = [line for line in lines if "Leakage" in line]
    assert set(said) <= set(lines[:-1])  # the last is the first epoch's
    assert [line.partition(" as well")[0] for line in said] == [
        "Leakage: 3 of 70 PublicTest images (4.3%) are in Training",
        "Leakage: 5 of 5 PrivateTest images (100.0%) are in Training",
        "Leakage: 3 of 5 PrivateTest images (60.0%) are in PublicTest",
    ]


def test_the_log_says_why_its_last_figures_and_the_summary_differ(tmp_path):
    lines = []
    result = train("custom_cnn", synthetic_dataset(350), out=tmp_path, log=lines.append, **QUICK)
    last = load_checkpoint(result.files[1])["history"][-1]
    assert f"acc {last['valid_acc']:.1%} macro F1 {last['valid_macro_f1']:.3f}" in lines[-2]
    assert "Batch norms re-estimated" in lines[-1] and "calibrated" in lines[-1]
    assert f"accuracy {last['valid_acc']:.1%} → {result.best_val_acc:.1%}" in lines[-1]
    assert f"macro F1 {last['valid_macro_f1']:.3f} → {result.macro_f1:.3f}" in lines[-1]


@pytest.mark.parametrize("emotions", [("sad", "happy"), (*EMOTIONS, "contempt")])
def test_another_label_set_makes_a_checkpoint_that_carries_it(emotions, tmp_path):
    data = synthetic_dataset(350)
    if len(emotions) > len(EMOTIONS):
        eight = {name: dataclasses.replace(split, emotions=emotions, labels=np.where(
            np.arange(len(split)) % 9 == 0, 7, split.labels)) for name, split in data.splits.items()}
        data = dataclasses.replace(data, splits=eight)
    else:
        data = subset(data, emotions)
    stopped = dict(out=tmp_path, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train("custom_cnn", data, log=interrupt, **stopped)
    train("custom_cnn", data, resume=True, log=lambda _: None, **stopped)
    saved, clf = load_checkpoint(tmp_path / "best_custom_cnn.pth"), load_classifier(tmp_path / "best_custom_cnn.pth")
    assert saved["emotions"] == list(emotions) and clf.emotions == emotions
    assert clf.logits(data["PublicTest"].images).shape[1] == len(emotions)
    assert list(load_checkpoint(tmp_path / "custom_cnn_metrics.pth")["validation"]["per_class"]) == list(emotions)
    mean = average_checkpoints([tmp_path / "best_custom_cnn.pth"] * 2, data, tmp_path / "mean")
    assert load_classifier(mean.files[0]).emotions == emotions
    list_runs(tmp_path)
    # its teaching and its initial weights do not mix with other label sets
    other = dict(log=lambda _: None, **QUICK)
    with pytest.raises(RecipeError, match="other emotions"):
        train("custom_cnn", synthetic_dataset(350), out=tmp_path / "t", teachers=str(mean.files[0]), **other)
    with pytest.raises(RecipeError, match="other emotions"):
        make_bank([mean.files[0]], synthetic_dataset(350), views=1)
    with pytest.raises(ModelError, match="tells apart"):
        average_checkpoints([mean.files[0]], synthetic_dataset(350), tmp_path / "m")
    train("custom_cnn", synthetic_dataset(350), out=tmp_path / "i", init=str(mean.files[0]), **other)
    assert load_classifier(tmp_path / "i" / "best_custom_cnn.pth").emotions == EMOTIONS


def interrupt(line):
    "Ctrl-C after the first epoch."
    if "epoch   1/" in line:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("error", "words"), [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"), ("not enough memory", "batch")),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you"), ("not enough",)),
    (RuntimeError("CUDA error: unspecified launch failure\nmore"), ("The GPU failed", "CUDA_VISIBLE_DEVICES")),
])
def test_a_device_that_fails_keeps_what_was_reached(error, words, tmp_path):
    def fail(line):
        if "epoch   2/" in line:
            raise error

    with pytest.raises(TrainingError) as failed:
        train("custom_cnn", synthetic_dataset(280), out=tmp_path, log=fail, **SETTINGS)
    message = str(failed.value)
    assert "Epoch 2 is kept" in message and "--resume" in message and len(message) <= 300
    assert all(word in message for word in words)
    lines = []
    train("custom_cnn", synthetic_dataset(280), out=tmp_path, resume=True, log=lines.append, **SETTINGS)
    assert "Going on after epoch 2 of 4." in lines
