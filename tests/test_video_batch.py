"""Many videos: one table, whatever the number of processes, and whatever was killed on the way."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import fer_nb, tiny_model
from PIL import Image

from fer_nb.core import FerError, models_dir
from fer_nb.data.synthetic import draw_face

pytest.importorskip("av")

from fer_nb.video.batch import (
    VideoSettings,
    annotated_paths,
    batch_columns,
    find_videos,
    load_finished,
    part_path,
    process_videos,
)  # fmt: skip
from fer_nb.video.containers import VideoError, write_images
from fer_nb.video.reader import VideoReader

SETTINGS = VideoSettings("custom_cnn", min_face=60)
RUN = """
import sys
from fer_nb.video.batch import VideoSettings, process_videos
folder, table, workers, resume = sys.argv[1:]
process_videos([folder], table, VideoSettings("custom_cnn", min_face=60), int(workers), resume == "True")
"""


def run(*words):
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, words)], start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    "Six short videos, each of someone else, in two folders; one is damaged, and one has a name that is not UTF-8."
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    for i in range(6):
        frame = Image.new("RGB", (320, 240), (30 * i, 90, 120))
        frame.paste(draw_face("happy" if i % 2 else "angry", i, 200, zoom=0.7), (60, 20))
        name = os.fsdecode(b"caf\xe9.mp4") if i == 5 else f"{'more/' * (i % 2)}{i}.mp4"
        write_images(folder / name, [np.asarray(frame)] * (4 + 2 * i))
    (folder / "more" / "broken.mkv").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def rows(videos, tmp_path_factory):
    "What one process writes."
    table = tmp_path_factory.mktemp("one") / "rows.jsonl"
    summaries = process_videos([videos], table, SETTINGS)
    assert [bool(s.error) for s in summaries] == [s.source.endswith("broken.mkv") for s in summaries]
    return table.read_bytes()


def test_there_is_a_row_for_each_face_and_frame(rows, videos):
    table = [json.loads(line) for line in rows.splitlines()]
    assert all([*row] == [*batch_columns()] for row in table)
    sources = list(dict.fromkeys(row["source"] for row in table))
    assert sources == find_videos([videos]) and len(sources) == 7
    for source in sources:
        own = [row for row in table if row["source"] == source]
        if source.endswith("broken.mkv"):
            assert len(own) == 1 and "not a video" in own[0]["error"] and own[0]["frame"] is None
        else:
            assert [row["frame"] for row in own] == list(range(len(list(VideoReader(source)))))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_rows_do_not_depend_on_the_number_of_processes(workers, videos, rows, tmp_path):
    done = run(videos, tmp_path / "rows.jsonl", workers, False)
    assert done.wait(300) == 0, done.stderr.read()
    assert (tmp_path / "rows.jsonl").read_bytes() == rows


@pytest.mark.parametrize("line", ["5", "[]", "{}", "null", '{"summary": {"older": 1}}', '{"summary": 5}', "", "{"])
def test_a_part_of_an_older_version_is_made_again(line, tmp_path):
    (tmp_path / "v.mp4").touch()
    part_path(tmp_path, str(tmp_path / "v.mp4")).write_text(line + "\n")
    assert load_finished(tmp_path, str(tmp_path / "v.mp4"), SETTINGS) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_killed_goes_on(workers, videos, rows, tmp_path):
    table, parts = tmp_path / "rows.jsonl", tmp_path / ".rows.jsonl.parts"
    first = run(videos, table, workers, False)
    for _ in range(3000):
        if len(list(parts.glob("*.jsonl"))) >= 2:
            break
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("[!.]*.jsonl")}
    assert kept and not table.exists()
    with pytest.raises(VideoError, match="--resume"):
        process_videos([videos], table, SETTINGS)
    process_videos([videos], table, SETTINGS, resume=True)
    assert table.read_bytes() == rows
    bad = {path for path in kept if '"error": ""' not in path.read_text(errors="replace").splitlines()[0]}
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items() if path not in bad)


def test_a_worker_that_is_killed_is_a_sentence(videos, tmp_path):
    process = run(videos, tmp_path / "rows.jsonl", 2, False)
    for _ in range(3000):
        if list(tmp_path.glob(".rows.jsonl.parts/*.rows")):
            break
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    assert process.wait(120) == 1 and b"Go on with --resume" in process.stderr.read()


def test_what_has_changed_is_looked_at_again(videos, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes((videos / "0.mp4").read_bytes())
    looked, table = [], tmp_path / "t.csv"
    again = dict(resume=True, on_done=lambda summary, done, total: looked.append(Path(summary.source).name))
    process_videos([folder], table, SETTINGS)
    process_videos([folder], table, SETTINGS, **again)
    assert looked == []
    (folder / "b.mp4").write_bytes((videos / "2.mp4").read_bytes())
    (folder / "c.mp4").write_bytes((videos / "0.mp4").read_bytes())
    process_videos([folder], table, SETTINGS, **again)
    assert looked == ["b.mp4", "c.mp4"]
    process_videos([folder], table, replace(SETTINGS, stride=2), **again)
    assert looked[2:] == ["a.mp4", "b.mp4", "c.mp4"]


def test_every_table_holds_the_same(videos, rows, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    process_videos([videos], tmp_path / "t.csv", SETTINGS)
    process_videos([videos], tmp_path / "t.parquet", SETTINGS)
    wanted = [json.loads(line) for line in rows.splitlines()]
    with open(tmp_path / "t.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in wanted] == table
    said = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row | {"source": ""} for row in said] == [row | {"source": ""} for row in wanted]
    assert sum("\ufffd" in row["source"] for row in said) == 14  # Parquet holds no name that is not UTF-8


def test_videos_with_boxes_keep_their_folders(videos, tmp_path):
    process_videos([videos / "0.mp4", videos / "more"], tmp_path / "t.csv", SETTINGS, annotate=tmp_path / "boxes")
    made = sorted(str(path.relative_to(tmp_path / "boxes")) for path in (tmp_path / "boxes").rglob("*.mp4"))
    assert made == ["0_faces.mp4", "more/1_faces.mp4", "more/3_faces.mp4"]
    twins = annotated_paths("o", ["/v/a.mp4", "/v/a.mkv"])
    assert [str(path) for path in twins] == ["o/a.mp4_faces.mp4", "o/a.mkv_faces.mp4"]


def test_an_original_is_not_drawn_over_and_a_drawing_is_no_original(videos, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("a.mp4", "a_faces.mp4"):
        (folder / name).write_bytes((videos / "0.mp4").read_bytes())
    with pytest.raises(VideoError, match=r"a_faces\.mp4 is there already"):
        process_videos([folder], tmp_path / "t.jsonl", SETTINGS, annotate=folder)
    for resume in (False, True):  # True where nothing was begun is as good as False
        with pytest.raises(VideoError, match=r"a_faces\.mp4 is there already"):  # a video that was not named
            process_videos([folder / "a.mp4"], tmp_path / "t.jsonl", SETTINGS, annotate=folder, resume=resume)
    assert (folder / "a_faces.mp4").read_bytes() == (videos / "0.mp4").read_bytes()
    (folder / "a_faces.mp4").unlink()
    (folder / ".a_faces.mp4.7.part.mp4").write_text("of a run that was killed")
    for resume in (False, True, True):
        done = process_videos([folder], tmp_path / "t.jsonl", SETTINGS, annotate=folder, resume=resume)
        assert [os.path.basename(summary.source) for summary in done] == ["a.mp4"]
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == ["a.mp4", "a_faces.mp4"]


def test_a_drawing_is_no_original_wherever_its_folder_lies(videos, tmp_path):
    (tmp_path / "films" / "sub").mkdir(parents=True)
    (tmp_path / "films" / "sub" / "a.mp4").write_bytes((videos / "0.mp4").read_bytes())
    looked, out = [], tmp_path / "films" / "out"
    how = dict(annotate=out, on_done=lambda summary, *_: looked.append(summary.source))
    for resume in (False, True):
        process_videos([tmp_path / "films"], tmp_path / "t.jsonl", SETTINGS, resume=resume, **how)
    assert [os.path.basename(source) for source in looked] == ["a.mp4"]
    assert [path.name for path in out.iterdir()] == ["a_faces.mp4"]


def test_the_parts_of_another_model_are_made_again(videos, tmp_path):
    looked, model = [], tmp_path / "mine.onnx"
    settings, how = replace(SETTINGS, model=str(model)), dict(on_done=lambda summary, *_: looked.append(summary))
    for name in ("custom_cnn", "custom_cnn", "mobilenet_v3"):
        shutil.copy(models_dir() / f"{name}.onnx", model)
        process_videos([videos / "0.mp4"], tmp_path / "t.csv", settings, resume=True, **how)
    assert len(looked) == 2
    shutil.copy(models_dir() / "custom_cnn.onnx", model)
    with pytest.raises(VideoError, match="another model"):
        process_videos([videos / "2.mp4"], tmp_path / "t.csv", settings, resume=True)


def test_what_a_killed_process_left_is_no_part(videos, tmp_path):
    table = tmp_path / "t.jsonl"
    process_videos([videos / "0.mp4"], table, SETTINGS)
    before = table.read_bytes()
    for i, content in enumerate(("", '{"summary": {}}\n{"emo')):
        (tmp_path / ".t.jsonl.parts" / f".{i}.jsonl.7.part.jsonl").write_text(content)
    process_videos([videos / "0.mp4"], table, SETTINGS, resume=True)
    assert table.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that gives an input/output error")
def test_a_file_that_the_disk_does_not_give_is_an_error_of_its_own(videos, tmp_path):
    (tmp_path / "bad.mp4").symlink_to("/proc/self/mem")
    (tmp_path / "good.mp4").write_bytes((videos / "0.mp4").read_bytes())
    bad, good = process_videos([tmp_path], tmp_path / "t.csv", SETTINGS)
    assert "bad.mp4 cannot be read (Input/output error)" in bad.error and good.frames == 4 and not good.error


def test_a_table_keeps_the_videos_that_are_not_named_again(videos, tmp_path):
    table, first, second = tmp_path / "t.jsonl", videos / "0.mp4", videos / "2.mp4"
    process_videos([first], table, SETTINGS)
    before = table.read_bytes()
    process_videos([second], table, SETTINGS, resume=True)
    process_videos([second], tmp_path / "second.jsonl", SETTINGS)
    assert table.read_bytes() == before + (tmp_path / "second.jsonl").read_bytes()
    with pytest.raises(VideoError, match="other settings"):
        process_videos([second], table, replace(SETTINGS, stride=2), resume=True)
    (tmp_path / "mine.csv").write_text("id,note\n1,mine\n")
    with pytest.raises(VideoError, match="cannot be continued"):
        process_videos([first], tmp_path / "mine.csv", SETTINGS, resume=True)
    for path in (table, tmp_path / "mine.csv"):
        kept = path.read_bytes()
        assert "there already" in fer_nb("video", first, "--model", "custom_cnn", "--out", path).stderr
        assert path.read_bytes() == kept


def test_a_pattern_in_quotes_is_many_videos(videos, tmp_path):
    table = tmp_path / "t.jsonl"
    done = fer_nb("video", videos / "[0-4].mp4", "--model", "custom_cnn", "--stride", 4, "--out", table)
    assert done.exit_code == 0, done.output
    sources = dict.fromkeys(json.loads(line)["source"] for line in table.read_text().splitlines())
    assert [*sources] == [str(videos / f"{i}.mp4") for i in (0, 2, 4)]


def test_that_a_video_is_cut_off_is_said_where_it_is_so(tmp_path):
    film, cut = tmp_path / "whole.avi", tmp_path / "films" / "cut.avi"
    cut.parent.mkdir()
    write_images(film, [np.full((120, 160, 3), i // 2, np.uint8) for i in range(500)])
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    runs = [(path, *end) for path in (film, cut, cut.parent) for end in ((0.2, 1), (100, 25))]
    for i, (path, seconds, stride) in enumerate(runs):
        settings = "--model", "custom_cnn", "--stride", stride, "--out", tmp_path / f"{i}.csv"
        done = fer_nb("video", path, "--seconds", seconds, *settings)
        said = "warning: cut.avi ends after" in done.stderr
        assert done.exit_code == 0 and said == (path != film and seconds == 100), (path, seconds, done.output)


@pytest.mark.parametrize("annotate", [(), ("--annotate", "boxes")])
def test_what_is_secret_in_an_address_is_kept_nowhere(annotate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address, table = "http://me:secret@127.0.0.1:9/film.mp4?token=hidden", tmp_path / "t.jsonl"
    done = fer_nb("video", address, "none.mp4", "--model", "custom_cnn", "--out", table, "--json", *annotate)
    kept = [path.read_text().replace(str(tmp_path), "") for path in tmp_path.rglob("*") if path.is_file()]
    assert done.exit_code == 1 and "http://127.0.0.1:9/film.mp4" in kept[0] + kept[-1]
    kept += [str(path) for path in annotated_paths("boxes", [address, "none.mp4"])]
    assert not any(word in text for word in ("secret", "hidden") for text in [done.output, *kept])
    with pytest.raises(VideoError, match="drawn to one file"):
        annotated_paths("boxes", [address, address.replace("hidden", "other")])


def test_what_cannot_be_done_is_said_at_once(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    for sources, table, options, message in (
        ([videos], "t.xls", {}, r"\.jsonl"), ([videos], "t.csv", {"workers": 0}, "workers has to be 1"),
        ([tmp_path / "empty"], "t.csv", {}, "no video in"),
        ([videos], f"{videos}/0.mp4/t.csv", {}, "cannot be written"),
    ):  # fmt: skip
        with pytest.raises(FerError, match=message):
            process_videos(sources, tmp_path / table, SETTINGS, **options)
    with pytest.raises(FerError, match="no model 'none'"):
        process_videos([videos], tmp_path / "t.csv", replace(SETTINGS, model="none"))
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    process_videos(["none.mp4"], tmp_path / "t.jsonl", SETTINGS)
    assert "no file" in json.loads((tmp_path / "t.jsonl").read_text())["error"]
    assert process_videos([], tmp_path / "nothing.jsonl", SETTINGS) == []


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_has_the_columns_of_the_model_file(ending, videos, tmp_path):
    model = tiny_model(tmp_path / "three.onnx", {"emotions": "sad,happy,content"}, n=3)
    folder = tmp_path / "films"
    folder.mkdir()
    write_images(folder / "a.mp4", [np.zeros((240, 320, 3), np.uint8)] * 3)
    write_images(folder / "b.mp4", [np.asarray(draw_face("happy", 1, 240, zoom=0.6).convert("RGB"))] * 3)
    for source in (folder / "b.mp4", folder):
        table = tmp_path / f"{source.name}.{ending}"
        assert fer_nb("video", source, "--model", model, "--out", table).exit_code == 0
        assert b"content" in table.read_bytes() and b"angry" not in table.read_bytes()


def test_resuming_draws_over_nothing_that_is_another_source_s(videos, tmp_path):
    film, how = (videos / "0.mp4").read_bytes(), dict(settings=SETTINGS, annotate=tmp_path / "out")
    for name in ("x/a.mp4", "y/a.mp4", "z/a.mp4", "z/b.mp4", "z/b_faces.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(film)
    process_videos([tmp_path / "x"], tmp_path / "t.jsonl", **how)
    drawn = (tmp_path / "out/a_faces.mp4").read_bytes()
    for source in ("x", "y", "x"):
        if source == "y":  # its drawing would have the same name
            with pytest.raises(VideoError, match=r"a_faces\.mp4 is there already"):
                process_videos([tmp_path / source], tmp_path / "t.jsonl", resume=True, **how)
        else:
            process_videos([tmp_path / source], tmp_path / "t.jsonl", resume=True, **how)
        assert (tmp_path / "out/a_faces.mp4").read_bytes() == drawn
    how = dict(settings=SETTINGS, annotate=tmp_path / "z")
    process_videos([tmp_path / "z/a.mp4"], tmp_path / "u.jsonl", **how)
    drawn = (tmp_path / "z/a_faces.mp4").read_bytes()
    with pytest.raises(VideoError, match=r"b_faces\.mp4 is there already"):
        process_videos([tmp_path / "z"], tmp_path / "u.jsonl", resume=True, **how)
    assert (tmp_path / "z/b_faces.mp4").read_bytes() == film
    # other settings draw anew what this table has drawn
    process_videos([tmp_path / "z/a.mp4"], tmp_path / "u.jsonl", replace(SETTINGS, stride=2), 1, True, tmp_path / "z")
    assert (tmp_path / "z/a_faces.mp4").read_bytes() != drawn
    assert len(set(map(str, annotated_paths("o", ["/v/A.mp4", "/v/a.mkv"])))) == 2
    assert {str(path).casefold() for path in annotated_paths("o", ["/v/A.mp4", "/v/a.mkv"])} == {
        "o/a.mp4_faces.mp4", "o/a.mkv_faces.mp4"}  # fmt: skip


def test_a_drawing_that_cannot_be_written_is_one_line(videos, tmp_path):
    film, long = (videos / "0.mp4").read_bytes(), "\u00e9" * 125 + ".mp4"  # the drawing's name would be too long
    for name in ("good.mp4", long):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / name).write_bytes(film)
    done = process_videos([tmp_path / "own"], tmp_path / "t.jsonl", SETTINGS, annotate=tmp_path / "out")
    assert [bool(summary.error) for summary in done] == [False, True] and "name too long" in done[1].error
    assert (tmp_path / "t.jsonl").exists() and (tmp_path / "out/good_faces.mp4").exists()
    (tmp_path / "own" / long).rename(tmp_path / "own" / ("\u00e9" * 110 + ".mp4"))  # now only its passing name would
    done = process_videos([tmp_path / "own"], tmp_path / "t2.jsonl", SETTINGS, annotate=tmp_path / "out2")
    assert [summary.error for summary in done] == ["", ""]


def test_a_video_is_one_however_it_is_spelled(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    Path("x/a.mp4").write_bytes((videos / "0.mp4").read_bytes())
    given = ["x/a.mp4", "./x/a.mp4", os.path.abspath("x"), "rtsp://b/a", "rtsp://b/a"]
    assert find_videos(given) == ["x/a.mp4", "rtsp://b/a"]
    process_videos(["x"], "r.jsonl", SETTINGS)
    rows = Path("r.jsonl").read_text().splitlines()
    process_videos([os.path.abspath("x")], "r.jsonl", SETTINGS, resume=True)
    assert len(Path("r.jsonl").read_text().splitlines()) == len(rows)


def test_numbered_pictures_that_have_grown_are_read_again(tmp_path):
    picture = Image.fromarray(np.asarray(draw_face("happy", 1, 200, zoom=0.7)))
    for count in (2, 5):
        for i in range(count):
            picture.save(tmp_path / f"f_{i}.png")
        (summary,) = process_videos([str(tmp_path / "f_%d.png")], tmp_path / "t.jsonl", SETTINGS, resume=count > 2)
        assert summary.frames == count
