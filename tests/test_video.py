"""Films from the outside: drawn ones are followed, damaged ones end in one of our errors."""

import gc
import math
import os
import shutil
import struct
import subprocess
import sys
import weakref
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from PIL import Image

from fer_nb.core import EMOTIONS, FerError
from fer_nb.data import draw_face
from fer_nb.inference import EmotionRecognizer, FaceEmotion, Result
from fer_nb.video import (
    CODECS,
    Film,
    Frame,
    Moment,
    Timeline,
    Tracker,
    VideoError,
    annotate,
    film_writer,
    overlap,
    to_pandas,
    watch,
)  # fmt: skip

cv2 = pytest.importorskip("cv2")
with_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs FFmpeg to make such a film")


@pytest.fixture(scope="module")
def recognizer():
    return EmotionRecognizer(min_face=50)


@pytest.fixture(scope="module")
def pictures():
    "Someone on the left who moves and vanishes for two frames, and someone on the right from frame 6 on."
    left, right = (draw_face(e, 4, 200, zoom=0.7).convert("RGB") for e in ("happy", "sad"))
    frames = []
    for i in range(18):
        frame = Image.new("RGB", (480, 240), (200, 120, 60))
        if i not in (10, 11):
            frame.paste(left, (round(8 + 40 * math.sin(i / 6)) if i < 9 else 46, 20))
        if i >= 6:
            frame.paste(right, (270, 20))
        frames.append(np.asarray(frame))
    return frames


def write(path, pictures, fps=10):
    writer = None
    for picture in pictures:
        if writer is None:
            codec = cv2.VideoWriter_fourcc(*CODECS[path.suffix])
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, picture.shape[1::-1])
        writer.write(picture[..., ::-1].copy())
    writer.release()
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory, pictures):
    return write(tmp_path_factory.mktemp("film") / "two.mp4", pictures)


def ffmpeg(*words):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, words)], check=True)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CODECS)
def test_every_form_that_is_written_is_read(suffix, tmp_path, pictures):
    film = Film(write(tmp_path / f"film{suffix}", pictures))
    frames = list(film)
    assert film.size == (480, 240) and film.fps == pytest.approx(10, abs=0.1) and not film.warning
    assert [f.number for f in frames] == list(range(18))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(18)], abs=0.01)
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.image.astype(int) - picture).mean() < 8  # a compressed one, red is red


def test_every_nth_frame(film):
    frames = list(Film(film, every=5))
    assert [f.number for f in frames] == [0, 5, 10, 15]
    assert [f.time for f in frames] == pytest.approx([0, 0.5, 1, 1.5], abs=0.01)
    with pytest.raises(VideoError, match="every"):
        Film(film, every=0)


def test_a_film_can_be_seen_twice(film):
    once = Film(film)
    assert [f.number for f in once] == [f.number for f in once]
    next(iter(once))
    assert len(list(once)) == 18


def changed(content, names, change):
    "An MP4 with the box of these names, from the outermost in, changed."
    at = 0
    while content[at + 4 : at + 8] != names[0]:
        at += int.from_bytes(content[at : at + 4], "big")
    end = at + int.from_bytes(content[at : at + 4], "big")
    inside = content[at + 8 : end]
    inside = changed(inside, names[1:], change) if names[1:] else change(inside)
    return content[:at] + struct.pack(">I4s", len(inside) + 8, names[0]) + inside + content[end:]


def test_a_film_held_upright_comes_upright(film, tmp_path):
    "With the note that a phone leaves: a matrix which turns by 90°."
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 240 << 16, 0, 1 << 30)
    content = changed(film.read_bytes(), [b"moov", b"trak", b"tkhd"], lambda box: box[:40] + turn + box[76:])
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = Film(tmp_path / "turned.mp4")
    assert turned.size == (240, 480)
    before = next(iter(Film(film))).image
    assert np.abs(np.rot90(before, -1).astype(int) - next(iter(turned)).image).mean() < 1


def test_a_varying_rate_keeps_its_times(film, tmp_path):
    "The second half at a third of the speed."

    def slower(box):
        (step,) = struct.unpack(">I", box[12:16])
        return box[:4] + struct.pack(">5I", 2, 9, step, 9, 3 * step)

    content = changed(film.read_bytes(), [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"], slower)
    (tmp_path / "vfr.mp4").write_bytes(content.replace(b"edts", b"free"))
    frames = list(Film(tmp_path / "vfr.mp4"))
    wanted = [i / 10 if i < 9 else (9 + 3 * (i - 9)) / 10 for i in range(18)]
    assert [f.time for f in frames] == pytest.approx(wanted, abs=0.02)


BAD = {
    "text.mp4": b"hello " * 200,
    "empty.mp4": b"",
    "nulls.avi": bytes(10_000),
    "page.webm": b"<!doctype html><html></html>",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_film_is_said_so(name, tmp_path, capfd):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(VideoError, match=name) as error:
        Film(tmp_path / name)
    assert "\n" not in str(error.value) and isinstance(error.value, FerError)
    assert capfd.readouterr().err == ""


def test_a_film_that_is_not_there(tmp_path):
    wrong = (tmp_path / "none.mp4", "no file"), (tmp_path, "not a file"), ("http://0.0.0.0/a.mp4", "no file")
    for source, word in (*wrong, ("a\0b", "no file"), (98, "no camera 98")):
        with pytest.raises(VideoError, match=word):
            Film(source)


def test_a_film_without_frames(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "none.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    writer.release()
    with pytest.raises(VideoError, match=r"none\.avi"):
        Film(tmp_path / "none.avi")


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_cut_off_mp4_is_refused(share, film, tmp_path):
    content = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(share * len(content))])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        Film(tmp_path / "cut.mp4")


def test_of_a_cut_off_avi_the_rest_is_read_and_it_is_said(tmp_path, pictures):
    content = write(tmp_path / "whole.avi", pictures).read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    film = Film(tmp_path / "cut.avi")
    frames = list(film)
    assert 5 < len(frames) < 12
    if film.length == 18:  # the header still says how many there were
        assert "cut off" in film.warning


def test_a_film_with_damage_in_the_middle_is_read_past_it(film, tmp_path):
    content = bytearray(film.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    (tmp_path / "hurt.mp4").write_bytes(content)
    code = "import sys; from fer_nb.video import Film; print(*[f.time for f in Film(sys.argv[1])])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "hurt.mp4"], capture_output=True, text=True)
    times = [float(word) for word in done.stdout.split()]
    assert 9 <= len(times) <= 18 and times == sorted(times) and done.stderr == ""


@with_ffmpeg
def test_a_film_of_sound_alone_is_none(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "song.mp4")
    with pytest.raises(VideoError, match=r"song\.mp4"):
        Film(tmp_path / "song.mp4")


def test_a_vast_film_is_refused_by_its_header(film, monkeypatch):
    monkeypatch.setattr("fer_nb.video.MAX_PIXELS", 480 * 240 - 1)
    with pytest.raises(VideoError, match="480×240"):
        Film(film)


# --- following ------------------------------------------------------------------------------------


def test_faces_keep_their_numbers(film, recognizer):
    moments = list(watch(Film(film), recognizer))
    assert [m.tracks for m in moments] == [[1]] * 6 + [[1, 2]] * 4 + [[2]] * 2 + [[1, 2]] * 6
    for m in moments:
        for n, face in zip(m.tracks, m.faces, strict=True):
            assert (face.box[0] < 240) == (n == 1)


def test_who_was_away_for_long_is_someone_new(film, recognizer):
    moments = list(watch(Film(film), recognizer, patience=0.15))
    assert {n for m in moments[:10] for n in m.tracks} == {1, 2} and moments[-1].tracks == [3, 2]


def test_few_looks_do_not_make_new_people(film, recognizer):
    assert [m.tracks for m in watch(Film(film, every=6), recognizer, patience=0.3)] == [[1], [1, 2], [1, 2]]


def test_overlap():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 0, 10, 10)) == overlap((0, 0, 10, 10), (50, 50, 1, 1)) == 0


def test_two_faces_never_share_a_number():
    rng, tracker = np.random.default_rng(0), Tracker()
    for i in range(200):
        boxes = [(*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 40, 2).tolist()) for _ in range(rng.integers(6))]
        numbers = tracker(boxes, i / 10)
        assert len(set(numbers)) == len(boxes) and len(tracker.last) < 80


class Flicker(EmotionRecognizer):
    "Says happy and sad in turn, of one face that does not move."

    def __init__(self):
        super().__init__()
        self.turn = 0

    def stream(self, sources):
        for image in sources:
            self.turn += 1
            sure = dict.fromkeys(EMOTIONS, 0.0) | {"happy": float(self.turn % 2), "sad": float(self.turn % 2 == 0)}
            yield Result(image, [FaceEmotion((10, 10, 50, 50), sure)])


def test_smoothing_is_an_exponential_mean_over_time(film):
    moments = list(watch(Film(film), Flicker(), smooth=0.2))
    expected, past = 1.0, math.exp(-0.1 / 0.2)
    for i, moment in enumerate(moments):
        expected = past * expected + (1 - past) * (i % 2 == 0) if i else 1.0
        assert moment.faces[0].probabilities["happy"] == pytest.approx(expected, abs=0.01)
        assert sum(moment.faces[0].probabilities.values()) == pytest.approx(1)
    raw = list(watch(Film(film), Flicker(), smooth=0))
    assert [m.faces[0].emotion for m in raw] == ["happy", "sad"] * 9


def test_memory_holds_a_few_frames_however_long_the_film():
    alive = []

    class Endless:
        live, every, fps = False, 1, 25

        def __iter__(self):
            for i in range(600):
                frame = Frame(i, i / 25, np.zeros((8, 8, 3), np.uint8))
                alive.append(weakref.ref(frame))
                yield frame

    timeline, most = Timeline(), 0
    for moment in watch(Endless(), Flicker()):
        timeline.add(moment)
        most = max(most, sum(ref() is not None for ref in alive[-100:]))
    del moment
    gc.collect()
    assert timeline.frames == 600 and most < 5 and sum(ref() is not None for ref in alive) == 0


def test_an_hour_takes_no_more_memory_and_time_than_a_minute(tmp_path):
    "A short share of it: of ten equal pieces of a film, the later ones cost what the earlier ones did."
    face = np.asarray(draw_face("happy", 4, 240, zoom=0.6).convert("RGB"))
    film = Film(write(tmp_path / "long.mp4", (np.roll(face, i % 20 - 10, 1) for i in range(2000))), every=5)
    timeline, costs, clock = Timeline(), [], process_time()
    for i, seen in enumerate(watch(film, EmotionRecognizer(min_face=60, threads=1)), 1):
        timeline.add(seen)
        if i % 40 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            costs.append((resident, process_time() - clock))
            clock = process_time()
    assert timeline.frames == 400 and len(timeline.sums) == 1 and len(costs) == 10
    assert costs[-1][0] - costs[2][0] < 20e6  # the frames between them take 48 MB
    assert np.median([c for _, c in costs[6:]]) < 1.5 * np.median([c for _, c in costs[1:5]])


def test_the_table(film, recognizer):
    pytest.importorskip("pandas")
    table = to_pandas(watch(Film(film, every=3), recognizer))
    assert table.frame.tolist() == [0, 3, 6, 6, 9, 9, 12, 12, 15, 15]
    assert table.track.tolist() == [1, 1] + [1, 2] * 4
    assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(np.ones(10), abs=1e-4)


# --- summing up -----------------------------------------------------------------------------------


def moment(time, *faces):
    image = np.zeros((8, 8, 3), np.uint8)
    certain = [FaceEmotion((0, 0, 9, 9), dict.fromkeys(EMOTIONS, 0.0) | {e: 1.0}) for _, e in faces]
    return Moment(Frame(0, time, image), certain, [n for n, _ in faces])


def test_a_summary_of_known_moments():
    timeline = Timeline()
    for i in range(100):
        timeline.add(moment(i / 10, (1, "sad" if i < 70 else "happy"), *([(2, "fear")] if 30 <= i < 50 else [])))
    one, two = timeline.summary()
    assert (one["track"], one["frames"], one["emotion"], one["sad"], one["happy"]) == (1, 100, "sad", 0.7, 0.3)
    assert (two["frames"], two["emotion"], two["fear"]) == (20, "fear", 1.0)
    assert (two["start"], two["end"]) == (pytest.approx(3, abs=0.06), pytest.approx(4.95, abs=0.06))
    strip = np.asarray(timeline.draw(960))[34:118, 60:944]  # of face 1
    sad, happy = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in ("#0072B2", "#E69F00"))
    assert (strip[40, 100] == sad).all() and (strip[40, 800] == happy).all()
    below = np.asarray(timeline.draw(960))[34 + 96 + 40, 60:944]  # of face 2
    assert (below[100] == 255).all() and not (below[350] == 255).all() and (below[800] == 255).all()


def test_a_day_takes_no_more_than_a_minute():
    timeline = Timeline()
    for second in range(0, 86400, 20):
        timeline.add(moment(float(second), (1, "happy")))
    assert len(timeline.sums[1]) <= timeline.spans and timeline.summary()[0]["frames"] == 4320


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.01]])
def test_a_timeline_of_nearly_nothing_can_be_drawn(times):
    timeline = Timeline()
    for time in times:
        timeline.add(moment(time, (1, "happy")))
    assert timeline.draw().size[0] == 960


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CODECS)
def test_an_annotated_film_takes_as_long_as_the_original(suffix, film, recognizer, tmp_path):
    annotate(film, tmp_path / f"out{suffix}", recognizer, every=6)
    out = Film(tmp_path / f"out{suffix}")
    frames = list(out)
    assert out.size == (480, 240) and len(frames) == 13  # frames 0, 6 and 12: held for 6, for 6, and shown once
    assert np.abs(frames[2].image.astype(int) - next(iter(Film(film))).image).mean() > 1  # a box is drawn
    assert [p.name for p in tmp_path.iterdir()] == [f"out{suffix}"]


@with_ffmpeg
def test_the_sound_is_kept(film, recognizer, tmp_path):
    ffmpeg("-i", film, "-f", "lavfi", "-i", "sine=d=1.8", "-c:v", "copy", tmp_path / "loud.mp4")
    for name in ("out.mp4", "out.webm"):
        annotate(tmp_path / "loud.mp4", tmp_path / name, recognizer, every=9)
        show = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_type", "-of", "csv=p=0", tmp_path / name]
        assert subprocess.run(show, capture_output=True, text=True).stdout.split() == ["video", "audio"]


@with_ffmpeg
def test_the_sound_ends_with_the_picture(film, tmp_path):
    ffmpeg("-i", film, "-f", "lavfi", "-i", "sine=d=9", "-c:v", "copy", tmp_path / "loud.mp4")
    with film_writer(tmp_path / "out.mp4", Film(tmp_path / "loud.mp4")) as add:
        for frame in Film(film):
            add(Moment(frame, [], []))
    show = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", tmp_path / "out.mp4"]
    assert 1.6 < float(subprocess.run(show, capture_output=True, text=True).stdout) < 2.0


def test_without_ffmpeg_the_film_is_silent(film, recognizer, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    annotate(film, tmp_path / "out.mp4", recognizer, every=9)
    assert len(list(Film(tmp_path / "out.mp4"))) == 10


class FullDisk:
    "A writer for whom there is room for five frames, and who does not say so."

    def __init__(self, writer):
        self.writer, self.room = writer, 5

    def write(self, image):
        self.room -= 1
        if self.room >= 0:
            self.writer.write(image)

    def __getattr__(self, name):
        return getattr(self.writer, name)


def test_a_film_that_was_not_written_whole_is_an_error(film, tmp_path, monkeypatch):
    (tmp_path / "out.mp4").write_bytes(b"an older one")
    monkeypatch.setattr("cv2.VideoWriter", lambda *words, real=cv2.VideoWriter: FullDisk(real(*words)))
    with pytest.raises(VideoError, match="Free some space"), film_writer(tmp_path / "out.mp4", Film(film)) as add:
        for frame in Film(film):
            add(Moment(frame, [], []))
    assert (tmp_path / "out.mp4").read_bytes() == b"an older one"


def test_nothing_half_written_is_left(film, recognizer, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"an older one")
    with pytest.raises(RuntimeError, match="stop"), film_writer(tmp_path / "out.mp4", Film(film)) as add:
        for m in watch(Film(film), recognizer):
            add(m)
            if m.frame.number == 5:
                raise RuntimeError("stop")
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"an older one"


def test_a_film_that_cannot_be_written(film, recognizer, tmp_path):
    for out, word in ((tmp_path / "out.gif", r"\.webm"), (film, "film itself")):
        with pytest.raises(VideoError, match=word):
            annotate(film, out, recognizer)
    assert len(list(Film(film))) == 18
