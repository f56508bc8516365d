"Many photos: one table of three kinds, whatever the number of processes, and whatever was killed on the way."

import json
import ntpath
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FER_NB, fer_nb, one_line
from PIL import Image

from fer_nb import batch
from fer_nb.batch import TABLE_WRITERS, read_partial_table, read_rows, rows_path, table_writer
from fer_nb.core import EMOTIONS, FerError
from fer_nb.data.synthetic import draw_face

OPTIONS = ["--model", "custom_cnn", "--min-face", 60]
PHOTOS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Photos of drawn people; one is no photo, one has no face, and one has a name that is not UTF-8."
    folder = tmp_path_factory.mktemp("many")
    for i in range(PHOTOS - 2):
        photo = Image.new("RGB", (320, 240), (3 * i, 120, 130))
        photo.paste(draw_face(EMOTIONS[i % 7], i, 200, zoom=0.6), (60, 20))
        photo.save(folder / (os.fsdecode(b"caf\xe9.jpg") if i == 30 else f"{i:02}.jpg"))
    (folder / "broken.jpg").write_text("no photo")
    Image.new("RGB", (320, 240), "teal").save(folder / "wall.png")
    return folder


def predict(folder, table, *words):
    return [*FER_NB, *map(str, ("predict", folder, "--out", table, *OPTIONS, *words))]


@pytest.fixture(scope="module")
def rows(folder, tmp_path_factory):
    "What one process writes, by suffix."
    tables = {suffix: tmp_path_factory.mktemp("one") / f"t{suffix}" for suffix in TABLE_WRITERS}
    for table in tables.values():
        done = subprocess.run(predict(folder, table), capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("error: ") == 1 and not done.stdout  # broken.jpg
        assert [path.name for path in table.parent.iterdir()] == [table.name]
    return {suffix: table.read_bytes() for suffix, table in tables.items()} | {"all": [*read_rows(tables[".jsonl"])]}


def test_files_on_two_drives_have_no_common_folder(monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(batch.os, "path", ntpath)
        with pytest.raises(FerError, match="several drives"):
            batch.common_folder([r"C:\a.jpg", r"D:\b.jpg"])
        assert batch.common_folder([r"C:\a\1.jpg", r"C:\a\b\2.jpg"]) == r"C:\a"


def test_each_table_holds_the_same(rows, folder, tmp_path):
    for suffix in TABLE_WRITERS:
        (tmp_path / f"t{suffix}").write_bytes(rows[suffix])
    names = [os.path.basename(row["source"]) for row in rows["all"]]
    assert sorted(names) == sorted(os.listdir(folder)) and len(names) == PHOTOS
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows["all"]]
    assert [*read_rows(tmp_path / "t.csv")] == as_text
    typed = [*read_rows(tmp_path / "t.parquet")]
    clean = [row | {"source": os.fsencode(row["source"]).decode(errors="replace")} for row in rows["all"]]
    assert typed == clean and any("\ufffd" in row["source"] for row in typed)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_rows_do_not_depend_on_the_number_of_processes(workers, rows, folder, tmp_path):
    done = subprocess.run(predict(folder, tmp_path / "t.jsonl", "--workers", workers), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "t.jsonl").read_bytes() == rows[".jsonl"]


def test_what_is_printed_and_drawn_does_not_either(folder, tmp_path):
    told = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        words = ["--jsonl", "--annotate", out, "--workers", workers, *OPTIONS]
        done = subprocess.run([*FER_NB, *map(str, ["predict", folder, *words])], capture_output=True)
        told.append((done.stdout, {path.name: path.read_bytes() for path in out.iterdir()}))
    assert told[0] == told[1] and len(told[0][1]) == PHOTOS - 1 and told[0][0].count(b"\n") == PHOTOS


def begin_and_kill(command, table, least=1):
    "Start a run in a session of its own, wait for so many of its rows, and kill it; its workers have to follow."
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (rows_path(table).exists() and rows_path(table).read_bytes().count(b"\n") > least):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert not (table.suffix == ".parquet" and table.exists())
    while session_of(run.pid):
        assert time.monotonic() < deadline, "workers outlive the run that started them"
        time.sleep(0.1)


def session_of(leader):
    "The processes of a session that are not dead."
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(("suffix", "workers"), [(".csv", 1), (".jsonl", 2), (".parquet", 2)])
def test_a_run_that_is_killed_goes_on(suffix, workers, rows, folder, tmp_path):
    table = tmp_path / f"t{suffix}"
    command = predict(folder, table, "--workers", workers)
    begin_and_kill(command, table)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    if suffix == ".parquet":
        (tmp_path / "whole.parquet").write_bytes(rows[suffix])
        assert [*read_rows(table)] == [*read_rows(tmp_path / "whole.parquet")]
    else:
        assert table.read_bytes() == rows[suffix]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("content", ['5\n', '"text"\n5\n', "[1]\n", '{"source": "a.jpg"}\n', "null\n", "GOOD5\n", "a"])
def test_a_table_of_something_else_is_not_continued(content, tmp_path):
    columns = "source", "face"
    good = '{"source": "a.jpg", "face": 1}\n'
    (tmp_path / "t.jsonl").write_text(content.replace("GOOD", good))
    with pytest.raises(FerError, match="is not a table of fer-nb predict"):
        read_partial_table(tmp_path / "t.jsonl", columns, ())


GOOD = '{"source": "a.jpg", "face": 1}\n'


@pytest.mark.parametrize(("suffix", "content"), [
    (".csv", "source,face\na.jpg\nb.jpg,1\n"), (".csv", "my,own,header\n"), (".csv", "source,face,more\n"),
    (".csv", "a note"), (".jsonl", '[\n {"id": 1},\n {"id": 2}\n]\n'), (".jsonl", f"{GOOD}spoiled\n{GOOD}")])
def test_a_table_with_a_damaged_row_before_its_end_keeps_its_rows(suffix, content, tmp_path):  # fmt: skip
    file = tmp_path / f"t{suffix}"
    file.write_text(content)
    with pytest.raises(FerError, match=r"cannot be continued|is not a table"):
        read_partial_table(file, ("source", "face"), ())
    assert file.read_text() == content


def test_a_table_that_an_editor_wrote_again_is_continued(tmp_path):
    columns = "source", "face"
    (tmp_path / "t.jsonl").write_text(f"{GOOD}\n{GOOD}{GOOD[:9]}", encoding="utf-8-sig")
    assert read_partial_table(tmp_path / "t.jsonl", columns, ()) == [{"source": "a.jpg", "face": 1}] * 2
    (tmp_path / "t.csv").write_text("source,face\na.jpg,1\n", encoding="utf-8-sig")
    assert read_partial_table(tmp_path / "t.csv", columns, ()) == [{"source": "a.jpg", "face": "1"}]
    for suffix, begun in [(".jsonl", GOOD[:9]), (".jsonl", ""), (".csv", "source,face\na."), (".csv", "source,fa")]:
        (tmp_path / f"begun{suffix}").write_text(begun)
        assert read_partial_table(tmp_path / f"begun{suffix}", columns, ()) == []


def test_a_parquet_table_of_something_else_without_rows_is_not_continued(tmp_path):
    for name, columns in [("own", ("source", "face")), ("other", ("id", "text"))]:
        with table_writer(tmp_path / f"{name}.parquet", columns) as add:
            add([])
    assert read_partial_table(tmp_path / "own.parquet", ("source", "face"), ()) == []
    with pytest.raises(FerError, match="is not a table"):
        read_partial_table(tmp_path / "other.parquet", ("source", "face"), ())


@pytest.mark.parametrize("suffix", TABLE_WRITERS)
def test_a_table_is_continued_under_the_names_of_the_photos(suffix, tmp_path):
    columns, odd = ("source", "error"), os.fsdecode(b"caf\xe9.jpg")
    with table_writer(tmp_path / f"t{suffix}", columns) as add:
        add([{"source": source, "error": ""} for source in (odd, "a.jpg")])
    rows = read_partial_table(tmp_path / f"t{suffix}", columns, [odd, "b.jpg"])
    assert [row["source"] for row in rows] == [odd, "a.jpg"]
    rows = read_partial_table(tmp_path / f"t{suffix}", columns, [odd, "a.jpg"])  # whose last one is read again
    assert [row["source"] for row in rows] == [odd]


def test_a_finished_table_takes_more_photos(rows, folder, tmp_path):
    table = tmp_path / "t.parquet"
    some = sorted(path for path in folder.iterdir() if path.name[:2].isdigit())[:20]
    assert fer_nb("predict", *some[:10], "--out", table, *OPTIONS).exit_code == 0
    assert fer_nb("predict", *some, "--out", table, *OPTIONS, "--resume").exit_code == 0
    assert [row["source"] for row in read_rows(table)] == [str(path) for path in some]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_keeps_photos_that_are_not_given_again(suffix, folder, tmp_path):
    table, photos = tmp_path / f"t{suffix}", [folder / "00.jpg", folder / "01.jpg", folder / "02.jpg"]
    assert fer_nb("predict", *photos[:2], "--out", table, *OPTIONS).exit_code == 0
    assert fer_nb("predict", photos[2], "--out", table, *OPTIONS, "--resume").exit_code == 0
    assert [row["source"] for row in read_rows(table)] == [*map(str, photos)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("change", [["--model", "resnet18"], ["--threshold", 0], ["--crop", "whole"]])
def test_a_table_is_not_continued_with_another_model(suffix, change, folder, tmp_path):
    table, photos = tmp_path / f"t{suffix}", [folder / "00.jpg", folder / "01.jpg", folder / "02.jpg"]
    assert fer_nb("predict", *photos[:2], "--out", table).exit_code == 0
    whole = table.read_bytes()
    another = "another threshold" if "--threshold" in change else "another model"
    assert another in one_line(fer_nb("predict", *photos, "--out", table, "--resume", *change))
    assert table.read_bytes() == whole
    photos[0].rename(folder / "moved.jpg")  # nothing to compare with
    assert fer_nb("predict", *photos[1:], "--out", table, "--resume").exit_code == 0
    (folder / "moved.jpg").rename(photos[0])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_another_threshold_are_not_continued(suffix, folder, tmp_path):
    table, photos = tmp_path / f"t{suffix}", [folder / f"0{i}.jpg" for i in range(3)]
    assert fer_nb("predict", *photos, "--out", table, "--threshold", 0).exit_code == 0
    assert fer_nb("predict", *photos, "--out", table, "--threshold", 0, "--resume").exit_code == 0
    first, *others = read_rows(table)
    first["is_confident"] = False
    with table_writer(table, [*first]) as add:
        add([first, *others])
    again = fer_nb("predict", *photos, "--out", table, "--threshold", 0, "--resume")
    assert "another threshold" in one_line(again) and len([*read_rows(table)]) == 1 + len(others)


def test_a_worker_that_is_killed_is_a_sentence(rows, folder, tmp_path):
    table = tmp_path / "t.jsonl"
    command = predict(folder, table, "--workers", 2)
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (table.exists() and table.stat().st_size):
        assert run.poll() is None
        time.sleep(0.005)
    line = lambda pid: Path(f"/proc/{pid}/cmdline").read_bytes()  # noqa: E731
    os.kill(int(next(pid for pid in session_of(run.pid) if b"spawn_main" in line(pid))), signal.SIGKILL)
    assert run.wait(120) == 2 and run.stderr.read().count(b"Go on with --resume") == 1
    subprocess.run([*command, "--resume"], capture_output=True)
    assert table.read_bytes() == rows[".jsonl"]


def test_what_cannot_be_done_is_said_at_once(folder, tmp_path, monkeypatch):
    words = ["predict", folder, "--out"]
    assert ".parquet" in one_line(fer_nb(*words, tmp_path / "t.xls"))
    assert "--workers" in one_line(fer_nb(*words, tmp_path / "t.csv", "--prior", "em", "--workers", 2))
    assert "--resume" in one_line(fer_nb(*words, tmp_path / "t.csv", "--prior", "em", "--resume"))
    assert "--out DIR" in one_line(fer_nb(*words[:2], "--engine", "ray"))
    for suffix in (".jsonl", ".parquet"):
        (tmp_path / f"bad{suffix}").write_text(json.dumps({"a": 1}) + "\n")
        one_line(fer_nb(*words, tmp_path / f"bad{suffix}", "--resume"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for command in ("predict", "video"):
        said = one_line(fer_nb(command, folder / "wall.png", folder / "00.jpg", "--out", tmp_path / "t.parquet"))
        assert "pip install pyarrow" in said
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("bad")]


def test_one_video_may_be_parquet(tmp_path):
    pytest.importorskip("av")
    from fer_nb.video.containers import write_images

    frame = np.asarray(draw_face("happy", 1, 240, zoom=0.6).convert("RGB"))
    write_images(tmp_path / "a.mp4", [frame] * 4)
    for suffix in TABLE_WRITERS:
        assert fer_nb("video", tmp_path / "a.mp4", "--out", tmp_path / f"t{suffix}", *OPTIONS).exit_code == 0
    counts = [len([*read_rows(tmp_path / f"t{suffix}")]) for suffix in TABLE_WRITERS]
    assert counts == [4, 4, 4] and [*read_rows(tmp_path / "t.jsonl")] == [*read_rows(tmp_path / "t.parquet")]


def test_photos_that_could_not_be_read_are_read_again_once_all_others_are_done(folder, tmp_path):
    late, table = tmp_path / "late.jpg", tmp_path / "t.jsonl"
    photos = [folder / "00.jpg", late, folder / "01.jpg"]
    assert fer_nb("predict", *photos, "--out", table).exit_code == 1
    more = [*photos, folder / "02.jpg", folder / "03.jpg"]
    done = fer_nb("predict", *more, "--out", table, "--resume")  # goes on first
    assert done.exit_code == 1 and "not read before: 1 photos" in done.stderr
    again = fer_nb("predict", *more, "--out", table, "--resume")
    assert again.exit_code == 1 and "There is no file" in again.stderr
    late.write_bytes((folder / "00.jpg").read_bytes())
    assert fer_nb("predict", *more, "--out", table, "--resume").exit_code == 0
    rows = [*read_rows(table)]
    assert {row["source"] for row in rows} == {*map(str, more)} and not any(row["error"] for row in rows)
    assert len(rows) == len({(row["source"], row["face"]) for row in rows})
