"""Films from the outside: drawn ones are followed, damaged ones end in one of our errors."""

import gc
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from PIL import Image

from fer_nb.core import EMOTIONS, FerError
from fer_nb.data.synthetic import draw_face
from fer_nb.inference import EmotionRecognizer, FaceEmotion, Result

av = pytest.importorskip("av")

from fer_nb.video import containers
from fer_nb.video.containers import CODECS, Codec, Unnamed, VideoError, display_name, find_camera, write_images
from fer_nb.video.output import Timeline, annotate_video, check_outputs, to_pandas, video_writer
from fer_nb.video.reader import Frame, VideoReader, count_frames
from fer_nb.video.tracking import FrameResult, IoUTracker, iou, track_video, video_columns


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


#: H.264 whose frames are stored in the order of their times
IN_ORDER = Codec("mp4", "libx264", {"bf": "0", "crf": "18"}, "aac", ("aac",))


@pytest.fixture(scope="module")
def film(tmp_path_factory, pictures):
    return write_images(tmp_path_factory.mktemp("film") / "two.mp4", pictures, codec=IN_ORDER)


def with_sound(silent, path, seconds, beep=0.0, codec="aac", rate=44100, start=0.0):
    "The video with sound from `start` on and a tone from `beep` on, seconds."
    with av.open(str(silent)) as source, av.open(str(path), "w") as container:
        pictures = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream(codec, rate)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                container.mux(packet)
        for at in range(round(start * rate), round(seconds * rate), 1024):
            clock = np.arange(at, at + 1024) / rate
            wave = (0.5 * np.sin(clock * 2 * np.pi * 440) * (clock >= beep)).astype(np.float32)
            piece = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = rate, at, Fraction(1, rate)
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def beep_start(path):
    "When a tone is heard first, seconds."
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray().astype(float)).reshape(-1)
            loud = wave > 0.1 * (32767 if "s16" in frame.format.name else 1)
            if loud.any():
                return frame.time + loud.argmax() / len(loud) * frame.samples / frame.sample_rate


def kinds(path):
    "The kinds of streams in a file."
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CODECS)
def test_every_form_that_is_written_is_read(suffix, tmp_path, pictures):
    film = VideoReader(write_images(tmp_path / f"film{suffix}", pictures))
    frames = list(film)
    assert film.size == (480, 240) and film.fps == pytest.approx(10, abs=0.1) and not film.warning
    assert [f.number for f in frames] == list(range(18))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(18)], abs=0.01)
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.image.astype(int) - picture).mean() < 8  # a compressed one, red is red


def test_every_nth_frame(film):
    frames = list(VideoReader(film, stride=5))
    assert [f.number for f in frames] == [0, 5, 10, 15]
    assert [f.time for f in frames] == pytest.approx([0, 0.5, 1, 1.5], abs=0.01)
    with pytest.raises(VideoError, match="stride"):
        VideoReader(film, stride=0)


def test_a_film_can_be_seen_twice(film):
    once = VideoReader(film)
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


TURNS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("turn", TURNS)
def test_a_film_held_upright_or_mirrored_comes_as_it_was_seen(turn, film, tmp_path):
    "With the note that a phone leaves: a matrix that takes x, y to ax + cy, bx + dy."
    a, b, c, d = turn
    matrix = struct.pack(">9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    content = changed(film.read_bytes(), [b"moov", b"trak", b"tkhd"], lambda box: box[:40] + matrix + box[76:])
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = VideoReader(tmp_path / "turned.mp4")
    before = next(iter(VideoReader(film))).image.astype(int)
    wanted = before[::d, ::a] if a else before.swapaxes(0, 1)[::b, ::c]
    assert turned.size == wanted.shape[1::-1]
    assert np.abs(wanted - next(iter(turned)).image).mean() < 1


def test_a_varying_rate_keeps_its_times(film, tmp_path):
    "The second half at a third of the speed."

    def slower(box):
        (step,) = struct.unpack(">I", box[12:16])
        return box[:4] + struct.pack(">5I", 2, 9, step, 9, 3 * step)

    content = changed(film.read_bytes(), [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"], slower)
    (tmp_path / "vfr.mp4").write_bytes(content.replace(b"edts", b"free"))
    frames = list(VideoReader(tmp_path / "vfr.mp4"))
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
        VideoReader(tmp_path / name)
    assert "\n" not in str(error.value) and isinstance(error.value, FerError)
    assert capfd.readouterr().err == ""


def test_a_film_that_is_not_there(tmp_path):
    wrong = (tmp_path / "none.mp4", "no file"), (tmp_path, "not a file"), ("http://0.0.0.0/a.mp4", "cannot be reached")
    for source, word in (*wrong, ("a\0b", "no file"), (98, "no camera 98")):
        with pytest.raises(VideoError, match=word):
            VideoReader(source)


def test_a_film_without_frames(tmp_path):
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mjpeg", 10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=r"none\.avi"):
        VideoReader(tmp_path / "none.avi")


@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_a_cut_off_mp4_is_refused(fraction, film, tmp_path):
    content = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        VideoReader(tmp_path / "cut.mp4")


def test_of_a_cut_off_avi_the_rest_is_read_and_it_is_said(tmp_path, pictures):
    content = write_images(tmp_path / "whole.avi", pictures).read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    film = VideoReader(tmp_path / "cut.avi")
    frames = list(film)
    assert 5 < len(frames) < 12
    if film.frame_count == 18:  # the header still says how many there were
        assert "cut off" in film.warning


def test_frames_that_are_passed_over_are_no_sign_of_a_cut(tmp_path, pictures):
    "An AVI counts the frames that were dropped when it was recorded."
    times = [i / 10 if i < 6 else 1 + i / 10 for i in range(18)]
    film = VideoReader(write_images(tmp_path / "dropped.avi", pictures, times=times), stride=12)
    assert [f.number for f in film] == [0, 12] and film.frame_count == 28 and not film.warning


def test_frames_are_counted_within_the_edit_list_of_a_trimmed_mp4(film, tmp_path):
    "It still holds all 18, and shows those of the last 0.6 seconds."

    def last(box):
        (scale,) = struct.unpack(">I", clock[12:16])
        return box[:8] + struct.pack(">IiI", 600, round(1.2 * scale), 1 << 16)

    content = film.read_bytes()
    clock = content[content.index(b"mdhd") + 4 :]
    content = changed(content, [b"moov", b"trak", b"edts", b"elst"], last)
    (tmp_path / "trimmed.mp4").write_bytes(content)
    video = VideoReader(tmp_path / "trimmed.mp4")
    assert len(list(video)) == count_frames(video, 10) == 6 and count_frames(video, 0.3) == 3


def test_a_film_with_damage_in_the_middle_is_read_past_it(film, tmp_path):
    content = bytearray(film.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    (tmp_path / "hurt.mp4").write_bytes(content)
    code = "import sys; from fer_nb.video.reader import VideoReader; print(*[f.time for f in VideoReader(sys.argv[1])])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "hurt.mp4"], capture_output=True, text=True)
    times = [float(word) for word in done.stdout.split()]
    assert 9 <= len(times) <= 18 and times == sorted(times) and done.stderr == ""


def song(path, cover=None):
    "A second of sound, and a picture of the cover."
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", 44100)
        if cover is not None:
            image = container.add_stream("mjpeg", 1)
            image.width, image.height, image.pix_fmt = 480, 240, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic
            container.start_encoding()
            frame = av.VideoFrame.from_ndarray(cover, "rgb24")
            frame.pts = 0
            container.mux(image.encode(frame))
            container.mux(image.encode())
        for at in range(0, 44100, 1024):
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 44100, at, Fraction(1, 44100)
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize("cover", [False, True])
def test_a_film_of_sound_alone_is_none(cover, tmp_path, pictures):
    path = song(tmp_path / "song.mp4", pictures[0] if cover else None)
    assert ("video" in kinds(path)) == cover
    with pytest.raises(VideoError, match=r"song\.mp4 has only sound"):
        VideoReader(path)


def test_a_vast_film_is_refused_by_its_header(film, monkeypatch):
    monkeypatch.setattr("fer_nb.video.reader.MAX_PIXELS", 480 * 240 - 1)
    with pytest.raises(VideoError, match="480×240"):
        VideoReader(film)


H264 = CODECS[".mp4"]
FOREIGN = {
    "AV1": ("av1.mp4", replace(H264, video="libsvtav1", options={"preset": "12", "crf": "30"})),
    "HEVC": ("hevc.mov", replace(H264, video="libx265", options={"preset": "fast", "x265-params": "log-level=none"})),
    "ProRes": ("prores.mov", replace(CODECS[".mov"], video="prores_ks", options={}, pix_fmt="yuv422p10le")),
    "VP9": ("vp9.webm", CODECS[".webm"]),
    "MPEG-4": ("mpeg4.avi", Codec("avi", "mpeg4", {"qmin": "2", "qmax": "4"}, "mp3", ())),
    "FFV1": ("ffv1.mkv", Codec("matroska", "ffv1", {}, "flac", ())),
    "GIF": ("small.gif", Codec("gif", "gif", {}, "", (), "rgb8")),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_films_of_other_makers_are_read(kind, tmp_path, pictures):
    name, codec = FOREIGN[kind]
    video = VideoReader(write_images(tmp_path / name, pictures, codec=codec))
    frames = list(video)
    assert video.size == (480, 240) and len(frames) == 18 and not video.warning
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(18)], abs=0.01)
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.image.astype(int) - picture).mean() < (25 if kind == "GIF" else 8)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
def test_time_stamps_are_exact(suffix, tmp_path, pictures):
    times = [0, 0.1, 0.2, 0.233, 0.25, 1, 4, 4.04, 4.08, 7.5]
    video = VideoReader(write_images(tmp_path / f"vfr{suffix}", pictures[:10], times=times))
    assert [f.time for f in video] == pytest.approx(times, abs=0.0011) and not video.warning


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_a_clock_that_does_not_begin_at_0(name, tmp_path, pictures):
    codec = {".mp4": H264, ".mkv": CODECS[".mkv"], ".ts": replace(H264, container="mpegts")}[Path(name).suffix]
    times = [2 + i / 10 for i in range(18)]
    video = VideoReader(write_images(tmp_path / name, pictures, times=times, codec=codec))
    assert [f.time for f in video] == pytest.approx([i / 10 for i in range(18)], abs=0.01)
    assert video.start_time >= 2 and not video.warning


def test_pixels_that_are_not_square(tmp_path, pictures):
    codec = replace(H264, options=H264.options | {"aspect": "4:3"})  # of a pixel
    video = VideoReader(write_images(tmp_path / "wide.mp4", pictures, codec=codec))
    assert video.size == (640, 240) and next(iter(video)).image.shape == (240, 640, 3)


def test_a_stream_that_changes_its_size_keeps_the_first(tmp_path, pictures):
    codec = replace(H264, container="mpegts")
    parts = [write_images(tmp_path / "a.ts", pictures[:9], codec=codec),
             write_images(tmp_path / "b.ts", (p[:120, :240] for p in pictures[9:]), codec=codec)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(VideoReader(tmp_path / "both.ts"))
    assert len(frames) > 12 and {f.image.shape for f in frames} == {(240, 480, 3)}


def test_an_animated_webp(tmp_path, pictures):
    pictures = [picture.copy() for picture in pictures]
    for i, picture in enumerate(pictures):
        picture[:8, : 20 * i] = 0  # Pillow writes equal ones once
    first, *others = map(Image.fromarray, pictures)
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=[100] * 9 + [300] * 9)
    video = VideoReader(tmp_path / "a.webp")
    frames = list(video)
    wanted = [i / 10 if i < 9 else 0.9 + 0.3 * (i - 9) for i in range(18)]
    assert [f.time for f in frames] == pytest.approx(wanted) and video.frame_count == 18
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.image.astype(int) - picture).mean() < 8
    (tmp_path / "cut.webp").write_bytes((tmp_path / "a.webp").read_bytes()[:60])
    with pytest.raises(VideoError, match=r"cut\.webp"):
        VideoReader(tmp_path / "cut.webp")
    content = bytearray((tmp_path / "a.webp").read_bytes())
    at = [i for i in range(len(content)) if content[i : i + 4] == b"ANMF"][9]
    content[at + 32 : at + 92] = bytes(60)  # the pixels of the tenth frame
    (tmp_path / "damaged.webp").write_bytes(content)
    damaged = VideoReader(tmp_path / "damaged.webp")
    assert len(list(damaged)) == 9 and "ends after 9 of 18 frames" in damaged.warning


def test_images_become_a_whole_video_or_none(tmp_path, pictures):
    with pytest.raises(VideoError, match=r"a\.gif does not say how to write the video. Name it \.mp4"):
        write_images(tmp_path / "a.gif", pictures)

    def broken():
        yield from pictures[:3]
        raise RuntimeError("no more")

    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(RuntimeError):
        write_images(tmp_path / "a.mp4", broken())
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == b"before"


def test_numbered_pictures(tmp_path, pictures):
    for i, picture in enumerate(pictures[:12]):
        Image.fromarray(picture).save(tmp_path / f"frame_{i + 5}.png")  # 9 comes before 10, whatever the alphabet says
    (tmp_path / "frame_7.png").write_bytes(b"no picture")
    (tmp_path / "frame_x.png").touch()
    video = VideoReader(tmp_path / "frame_%d.png", fps=5)
    frames = list(video)
    assert [f.number for f in frames] == [0, 1, *range(3, 12)] and "1 pieces" in video.warning
    assert [f.time for f in frames] == pytest.approx([f.number / 5 for f in frames])
    assert all((frame.image == pictures[frame.number]).all() for frame in frames)
    with pytest.raises(VideoError, match="no picture film_"):
        VideoReader(tmp_path / "film_%04d.png")


@pytest.mark.parametrize("name", ["one.jpg", "one.webp", "one.png"])
def test_a_picture_is_no_film(name, tmp_path, pictures):
    Image.fromarray(pictures[0]).save(tmp_path / name)
    with pytest.raises(VideoError, match="is a picture, not a video"):
        VideoReader(tmp_path / name)


NAMES = [b"caf\xe9.mp4", b"a:b.mp4", b"http:.mp4", b"-v.mp4", b"50%.mp4", b"new\nline.mp4", "日本.mp4".encode()]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_and_written(name, film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    Path(name).write_bytes(film.read_bytes())
    video = VideoReader(name)
    assert len(list(video)) == 18 and video.name == name
    with video_writer(f"out_{name}", video) as write:
        for frame in video:
            write(FrameResult(frame, [], []))
    assert len(list(VideoReader(f"out_{name}"))) == 18 and len(os.listdir()) == 2


def test_a_title_that_is_not_utf8_is_no_matter(film, tmp_path):
    with av.open(str(film)) as source, av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        container.metadata["title"] = "TITLE"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    content = (tmp_path / "a.mkv").read_bytes()
    assert b"TITLE" in content
    (tmp_path / "a.mkv").write_bytes(content.replace(b"TITLE", b"T\xcfTL\xc9"))
    assert len(list(VideoReader(tmp_path / "a.mkv"))) == 18


def test_a_playlist_leads_nowhere(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n")
        with pytest.raises(VideoError, match=r"list\.m3u8"):
            VideoReader(tmp_path / "list.m3u8")
        with pytest.raises(TimeoutError):
            server.accept()


def test_without_pyav_it_says_how_to_get_it(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'fer_nb\[video\]'"):
        VideoReader(film)


# --- cameras and streams --------------------------------------------------------------------------


def test_cameras_have_numbers_devices_and_names(monkeypatch, recognizer):
    "FFmpeg's test pictures stand for a camera."
    monkeypatch.setattr(containers, "list_cameras", lambda: {"testsrc=size=320x240:rate=30": "Front Camera"})
    monkeypatch.setitem(containers.CAMERA_FORMATS, sys.platform, "lavfi")
    for source in (0, "Front Camera"):
        video = VideoReader(source)
        assert video.live and video.size == (320, 240)
        results = track_video(video, recognizer)
        assert [next(results).frame.number for _ in range(3)] == [0, 1, 2]
        results.close()
    for source in (1, -1, "Back Camera"):
        with pytest.raises(VideoError, match=f"no camera {source}. Cameras here: 0: Front Camera"):
            find_camera(source)


def test_the_number_of_a_camera_is_the_system_s(monkeypatch):
    monkeypatch.setattr(containers, "list_cameras", lambda: {"/dev/video0": "Front", "/dev/video2": "Back"})
    assert [find_camera(source) for source in (0, 2, "Back", "/dev/video0")] == [
        "/dev/video0", "/dev/video2", "/dev/video2", "/dev/video0"]  # fmt: skip
    with pytest.raises(VideoError, match=r"no camera 1.*0: Front; 2: Back"):
        find_camera(1)


def test_a_camera_that_cannot_be_opened(monkeypatch):
    monkeypatch.setattr(containers, "list_cameras", lambda: {"/dev/null": "Broken Camera"})
    for source in (0, "Broken Camera", "/dev/null"):
        with pytest.raises(VideoError, match=r"cannot be opened.*Another program may have it"):
            VideoReader(source)


@contextmanager
def http_server(content, stall_after=None):
    "An address that sends a file, or a part of it and then nothing more."
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/film.ts":
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", len(content))
            self.end_headers()
            self.wfile.write(content[:stall_after])
            if stall_after:
                self.wfile.flush()
                done.wait(30)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
    finally:
        done.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def broadcast(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("broadcast") / "film.ts"
    return write_images(path, pictures * 3, codec=replace(H264, container="mpegts")).read_bytes()


def test_a_stream_is_read_from_its_address(broadcast, recognizer):
    with http_server(broadcast) as address:
        video = VideoReader(f"{address}/film.ts")
        assert video.live and video.size == (480, 240) and "secret" not in video.name
        frames = list(video)
    assert [f.number for f in frames] == list(range(54)) and not video.warning  # none is lost between two openings
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(54)], abs=0.01)


def test_a_stream_that_stops_ends(broadcast):
    with http_server(broadcast, stall_after=len(broadcast) // 2) as address:
        video, start = VideoReader(f"{address}/film.ts", timeout=2), time.monotonic()
        assert 5 < len(list(video)) < 54 and time.monotonic() - start < 15
    assert "127.0.0.1" in video.warning and "secret" not in video.warning


def test_a_stream_that_is_not_there(broadcast):
    with http_server(broadcast) as address, pytest.raises(VideoError, match="cannot be reached") as error:
        VideoReader(f"{address}/other.ts")
    assert "secret" not in str(error.value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("rtsp", "http"):
            start = time.monotonic()
            with pytest.raises(VideoError, match="cannot be reached"):
                VideoReader(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/1", timeout=1)
            assert time.monotonic() - start < 10


# --- following ------------------------------------------------------------------------------------


def test_faces_keep_their_numbers(film, recognizer):
    results = list(track_video(VideoReader(film), recognizer))
    assert [m.tracks for m in results] == [[1]] * 6 + [[1, 2]] * 4 + [[2]] * 2 + [[1, 2]] * 6
    for m in results:
        for n, face in zip(m.tracks, m.faces, strict=True):
            assert (face.box[0] < 240) == (n == 1)


def test_who_was_away_for_long_is_someone_new(film, recognizer):
    results = list(track_video(VideoReader(film), recognizer, max_age=0.15))
    assert {n for m in results[:10] for n in m.tracks} == {1, 2} and results[-1].tracks == [3, 2]


def test_few_looks_do_not_make_new_people(film, recognizer):
    results = track_video(VideoReader(film, stride=6), recognizer, max_age=0.3)
    assert [r.tracks for r in results] == [[1], [1, 2], [1, 2]]


def portrait(color, seed):
    "A person in the middle, before a wall."
    frame = Image.new("RGB", (480, 240), color)
    frame.paste(draw_face("happy", seed, 200, zoom=0.7).convert("RGB"), (140, 20))
    return np.asarray(frame)


def test_one_frame_in_two_seconds_is_one_person(tmp_path, recognizer):
    video = VideoReader(write_images(tmp_path / "slow.mp4", [portrait("peru", 4)] * 6, fps=0.5))
    results = list(track_video(video, recognizer))
    assert [r.frame.time for r in results] == pytest.approx([0, 2, 4, 6, 8, 10])
    assert [r.tracks for r in results] == [[1]] * 6


def test_a_cut_to_another_person_ends_the_track(tmp_path, recognizer):
    frames = [portrait("peru", 0)] * 6 + [portrait("navy", 1)] * 6 + [portrait("peru", 0)] * 6
    results = list(track_video(VideoReader(write_images(tmp_path / "cut.mp4", frames)), recognizer))
    tracks = [r.tracks for r in results]
    assert tracks[:12] == [[1]] * 6 + [[2]] * 6 and len({n for (n,) in tracks[12:]}) == 1 and tracks[12] != [2]
    alone = recognizer(results[6].frame.image).faces[0].probabilities
    assert results[6].faces[0].probabilities == alone  # nothing of the other is mixed in


def test_a_frame_without_a_face_has_a_row(tmp_path, recognizer):
    frames = [np.full((240, 480, 3), 128, np.uint8), portrait("peru", 4)]
    results = list(track_video(VideoReader(write_images(tmp_path / "a.mp4", frames)), recognizer))
    empty, face = (result.rows() for result in results)
    assert empty == [dict.fromkeys(video_columns()) | {"frame": 0, "time": 0.0, "track": 0}]
    assert len(face) == 1 and face[0]["track"] == 1 and [*face[0]] == [*video_columns()]


def test_iou():
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 10, 10)) == iou((0, 0, 10, 10), (50, 50, 1, 1)) == 0


def test_two_faces_never_share_a_number():
    rng, tracker = np.random.default_rng(0), IoUTracker()
    for i in range(200):
        boxes = [(*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 40, 2).tolist()) for _ in range(rng.integers(6))]
        numbers = tracker(boxes, i / 10)
        assert len(set(numbers)) == len(boxes) and len(tracker.tracks) < 80


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
    results = list(track_video(VideoReader(film), Flicker(), smooth=0.2))
    expected, past = 1.0, math.exp(-0.1 / 0.2)
    for i, result in enumerate(results):
        expected = past * expected + (1 - past) * (i % 2 == 0) if i else 1.0
        assert result.faces[0].probabilities["happy"] == pytest.approx(expected, abs=0.01)
        assert sum(result.faces[0].probabilities.values()) == pytest.approx(1)
    raw = list(track_video(VideoReader(film), Flicker(), smooth=0))
    assert [m.faces[0].emotion for m in raw] == ["happy", "sad"] * 9


def test_memory_holds_a_few_frames_however_long_the_film():
    alive = []

    class Endless:
        live, stride, fps = False, 1, 25

        def __iter__(self):
            for i in range(600):
                frame = Frame(i, i / 25, np.zeros((8, 8, 3), np.uint8))
                alive.append(weakref.ref(frame))
                yield frame

    timeline, most = Timeline(), 0
    for result in track_video(Endless(), Flicker()):
        timeline.add(result)
        most = max(most, sum(ref() is not None for ref in alive[-100:]))
    del result
    gc.collect()
    assert timeline.frames == 600 and most < 5 and sum(ref() is not None for ref in alive) == 0


def test_an_hour_takes_no_more_memory_and_time_than_a_minute(tmp_path):
    "A short share of it: of ten equal pieces of a film, the later ones cost what the earlier ones did."
    face = np.asarray(draw_face("happy", 4, 240, zoom=0.6).convert("RGB"))
    rolled = (np.roll(face, i % 20 - 10, 1) for i in range(2000))
    film = VideoReader(write_images(tmp_path / "long.mp4", rolled), stride=5)
    timeline, costs, clock = Timeline(), [], process_time()
    for i, seen in enumerate(track_video(film, EmotionRecognizer(min_face=60, threads=1)), 1):
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
    table = to_pandas(track_video(VideoReader(film, stride=3), recognizer))
    assert table.frame.tolist() == [0, 3, 6, 6, 9, 9, 12, 12, 15, 15]
    assert table.track.tolist() == [1, 1] + [1, 2] * 4
    assert table[list(EMOTIONS)].sum(axis=1).to_numpy() == pytest.approx(np.ones(10), abs=1e-4)


# --- summing up -----------------------------------------------------------------------------------


def result_at(time, *faces):
    image = np.zeros((8, 8, 3), np.uint8)
    certain = [FaceEmotion((0, 0, 9, 9), dict.fromkeys(EMOTIONS, 0.0) | {e: 1.0}) for _, e in faces]
    return FrameResult(Frame(0, time, image), certain, [n for n, _ in faces])


def test_a_summary_of_known_results():
    timeline = Timeline()
    for i in range(100):
        timeline.add(result_at(i / 10, (1, "sad" if i < 70 else "happy"), *([(2, "fear")] if 30 <= i < 50 else [])))
    one, two = timeline.summary()
    assert (one["track"], one["frames"], one["emotion"], one["sad"], one["happy"]) == (1, 100, "sad", 0.7, 0.3)
    assert (two["frames"], two["emotion"], two["fear"]) == (20, "fear", 1.0)
    assert (two["start"], two["end"]) == (pytest.approx(3, abs=0.06), pytest.approx(4.95, abs=0.06))
    strip = np.asarray(timeline.draw(960))[34:118, 60:944]  # of face 1
    sad, happy = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in ("#0072B2", "#E69F00"))
    assert (strip[40, 100] == sad).all() and (strip[40, 800] == happy).all()
    below = np.asarray(timeline.draw(960))[34 + 96 + 40, 60:944]  # of face 2
    assert (below[100] == 255).all() and not (below[350] == 255).all() and (below[800] == 255).all()


def test_a_strip_has_no_gap_where_frames_are_rare():
    timeline = Timeline()
    for second in range(0, 60, 2):
        timeline.add(result_at(second, (1, "happy")))
    assert not (np.asarray(timeline.draw(960))[34:118, 60:944] == 255).all(-1).any()


def test_a_day_takes_no_more_than_a_minute():
    timeline = Timeline()
    for second in range(0, 86400, 20):
        timeline.add(result_at(float(second), (1, "happy")))
    assert len(timeline.sums[1]) <= timeline.max_bins and timeline.summary()[0]["frames"] == 4320


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.01]])
def test_a_timeline_of_nearly_nothing_can_be_drawn(times):
    timeline = Timeline()
    for seconds in times:
        timeline.add(result_at(seconds, (1, "happy")))
    assert timeline.draw().size[0] == 960


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CODECS)
def test_an_annotated_film_takes_as_long_as_the_original(suffix, film, recognizer, tmp_path):
    annotate_video(film, tmp_path / f"out{suffix}", recognizer, stride=6)
    out = VideoReader(tmp_path / f"out{suffix}")
    frames = list(out)
    assert out.size == (480, 240) and out.duration == pytest.approx(1.8, abs=0.01)
    assert [f.time for f in frames] == pytest.approx([0, 0.6, 1.2, 1.7], abs=0.01)  # the last one until the end
    assert np.abs(frames[1].image.astype(int) - list(VideoReader(film))[6].image).mean() > 1  # a box is drawn
    assert [p.name for p in tmp_path.iterdir()] == [f"out{suffix}"]


@pytest.mark.parametrize("suffix", CODECS)
def test_the_sound_is_kept_and_in_its_place(suffix, film, tmp_path):
    loud = VideoReader(with_sound(film, tmp_path / "loud.mp4", 1.8, beep=0.9), stride=9)
    with video_writer(tmp_path / f"out{suffix}", loud) as write:
        for frame in loud:
            write(FrameResult(frame, [], []))
    assert kinds(tmp_path / f"out{suffix}") == ["video", "audio"]
    assert beep_start(tmp_path / f"out{suffix}") == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(("stop", "seconds", "end"), [(99, None, 1.8), (99, 1.25, 1.35), (0.5, 0.5, 0.1)])
def test_the_last_picture_stays_until_the_end(stop, seconds, end, film, tmp_path):
    "Of the film, or of what was asked for, however far the reader has gone; the sound too."
    loud = VideoReader(with_sound(film, tmp_path / "loud.mp4", 1.8), stride=12)
    with video_writer(tmp_path / "out.mp4", loud, seconds) as write:
        for frame in list(loud):
            if frame.time > stop:
                break
            write(FrameResult(frame, [], []))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [float(s.duration * s.time_base) for s in container.streams] == pytest.approx([end, end], abs=0.04)


def test_the_sound_ends_with_the_picture(film, tmp_path):
    loud = VideoReader(with_sound(film, tmp_path / "loud.mp4", 9))
    with video_writer(tmp_path / "out.mp4", loud) as write:
        for frame in VideoReader(film):
            write(FrameResult(frame, [], []))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert 1.6 < container.duration / 1e6 < 2.0


def test_no_ffmpeg_of_the_system_is_needed(film, recognizer, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    loud = with_sound(film, tmp_path / "loud.mp4", 1.8)
    annotate_video(loud, tmp_path / "out.mp4", recognizer, stride=9)
    assert kinds(tmp_path / "out.mp4") == ["video", "audio"]
    assert [f.time for f in VideoReader(tmp_path / "out.mp4")] == pytest.approx([0, 0.9, 1.7], abs=0.01)


class FullDisk(Unnamed):
    "A file on a disk that has room for two thousand bytes."

    def __init__(self, file):
        super().__init__(file)
        self.room, self.write = 2000, self.write_if_there_is_room

    def write_if_there_is_room(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(content)


def test_a_film_that_was_not_written_whole_is_an_error(film, tmp_path, monkeypatch):
    (tmp_path / "out.mp4").write_bytes(b"an older one")
    monkeypatch.setattr("fer_nb.video.output.Unnamed", FullDisk)
    with pytest.raises(VideoError, match="Free space"), video_writer(tmp_path / "out.mp4", VideoReader(film)) as add:
        for frame in VideoReader(film):
            add(FrameResult(frame, [], []))
    assert (tmp_path / "out.mp4").read_bytes() == b"an older one"
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_nothing_half_written_is_left(film, recognizer, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"an older one")
    with pytest.raises(RuntimeError, match="stop"), video_writer(tmp_path / "out.mp4", VideoReader(film)) as add:
        for m in track_video(VideoReader(film), recognizer):
            add(m)
            if m.frame.number == 5:
                raise RuntimeError("stop")
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"an older one"


def test_a_film_that_cannot_be_written(film, recognizer, tmp_path):
    for out, word in ((tmp_path / "out.gif", r"\.webm"), (film, "video itself")):
        with pytest.raises(VideoError, match=word):
            annotate_video(film, out, recognizer)
    assert len(list(VideoReader(film))) == 18


def test_h264_is_written_as_browsers_play_it(film, recognizer, tmp_path):
    for name in ("out.mp4", "out.mov"):
        annotate_video(film, tmp_path / name, recognizer, stride=6)
        content = (tmp_path / name).read_bytes()
        assert 0 < content.find(b"moov") < content.find(b"mdat")
        with av.open(str(tmp_path / name)) as container:
            context = container.streams.video[0].codec_context
            assert (context.codec.canonical_name, context.pix_fmt) == ("h264", "yuv420p")


def test_an_odd_film_is_written(tmp_path, pictures, recognizer):
    codec = Codec("matroska", "ffv1", {}, "flac", (), "bgr0")
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream(codec.video, 10)
        stream.width, stream.height, stream.pix_fmt = 479, 239, codec.pix_fmt
        for image in pictures[:3]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:239, :479]), "rgb24")))
        container.mux(stream.encode())
    annotate_video(tmp_path / "odd.mkv", tmp_path / "out.mp4", recognizer)
    assert all(side % 2 == 0 for side in VideoReader(tmp_path / "out.mp4").size)


def test_sound_of_a_late_film_is_in_its_place(tmp_path, pictures):
    write_images(tmp_path / "silent.mp4", pictures, times=[2 + i / 10 for i in range(18)])
    loud = VideoReader(with_sound(tmp_path / "silent.mp4", tmp_path / "loud.mp4", 4, beep=2.9))
    for suffix in (".mp4", ".webm", ".avi"):
        with video_writer(tmp_path / f"out{suffix}", loud) as write:
            for frame in loud:
                write(FrameResult(frame, [], []))
        assert beep_start(tmp_path / f"out{suffix}") == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(("codec", "start"), [("libopus", 0.2), ("libmp3lame", 0.5)])
def test_late_sound_is_whole_and_in_its_place_in_an_avi(codec, start, film, tmp_path):
    "Encoded again or copied, and an AVI has no time stamps."
    loud = VideoReader(with_sound(film, tmp_path / "loud.mkv", 1.8, beep=0.9, codec=codec, rate=48000, start=start))
    with video_writer(tmp_path / "out.avi", loud) as write:
        for frame in loud:
            write(FrameResult(frame, [], []))
    assert beep_start(tmp_path / "out.avi") == pytest.approx(0.9, abs=0.05)
    with av.open(str(tmp_path / "out.avi")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) / 48000 > 1.6
    assert not loud.warning


def test_mp3_of_a_low_rate_goes_into_an_mp4(film, tmp_path):
    loud = VideoReader(with_sound(film, tmp_path / "loud.mkv", 1.8, beep=0.9, codec="libmp3lame", rate=11025))
    with video_writer(tmp_path / "out.mp4", loud) as write:
        for frame in loud:
            write(FrameResult(frame, [], []))
    assert beep_start(tmp_path / "out.mp4") == pytest.approx(0.9, abs=0.1)


def test_damaged_sound_does_not_cost_the_film(film, tmp_path):
    loud = with_sound(film, tmp_path / "loud.mkv", 1.8)
    content, noise = bytearray(loud.read_bytes()), np.random.default_rng(0)
    with av.open(str(loud)) as container:
        where = [packet.pos for packet in container.demux(audio=0) if packet.pos][20:60]
    for at in where:
        content[at + 12 : at + 80] = noise.bytes(68)
    loud.write_bytes(content)
    video = VideoReader(loud)
    for suffix in (".mp4", ".webm"):
        with video_writer(tmp_path / f"out{suffix}", video) as write:
            for frame in video:
                write(FrameResult(frame, [], []))
        assert len(list(VideoReader(tmp_path / f"out{suffix}"))) >= 15
    assert video.warning.startswith("The sound of loud.mkv ends")  # of the last one: it is encoded again


def test_outputs_are_checked_before_the_first_frame(film, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.link(film, tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(film)
    (tmp_path / "rows.csv").symlink_to(tmp_path / "line.png")
    wrong = [
        (dict(video="out.gif"), r"does not say how.*\.webm"), (dict(video="out"), "does not say how"),
        (dict(table="rows.xls"), r"\.parquet"), (dict(timeline="line.txt"), r"\.png"),
        (dict(video=tmp_path / "folder.mp4"), "is a folder"), (dict(video=film), "is the video itself"),
        (dict(video=tmp_path / "hard.mp4"), "is the video itself"), (dict(video=tmp_path / "soft.mp4"), "video itself"),
        (dict(timeline=tmp_path / "line.png", table=tmp_path / "rows.csv"), "named twice"),
        (dict(table=film / "rows.csv"), "cannot be written"),
    ]  # fmt: skip
    for outputs, message in wrong:
        with pytest.raises(VideoError, match=message):
            check_outputs(film, **outputs)
    check_outputs(film, video=tmp_path / "a.mp4", timeline=tmp_path / "new" / "a.png", table=None)
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"frame_{i}.png")
    with pytest.raises(VideoError, match="the video itself"):
        check_outputs(tmp_path / "frame_%d.png", timeline=tmp_path / "frame_1.png")


def test_a_first_picture_that_is_damaged_is_passed_over(tmp_path, pictures):
    for i, picture in enumerate(pictures[:4]):
        Image.fromarray(picture).save(tmp_path / f"f_{i}.png")
    (tmp_path / "f_0.png").write_bytes(b"no picture")
    video = VideoReader(tmp_path / "f_%d.png")
    for _ in range(2):
        assert [f.number for f in video] == [1, 2, 3] and "1 pieces" in video.warning
    for i in range(4):
        (tmp_path / f"f_{i}.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="no frame that can be read"):
        VideoReader(tmp_path / "f_%d.png")


def write_times(path, times, sound=0.0):
    "A film whose frames are at these times in seconds, with silence of its own length."
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        voice = container.add_stream("libopus", rate=48000) if sound else None
        for at in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), int(at * 50) % 256, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for i in range(int(sound * 50)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), "s16", "stereo")
            silence.pts, silence.sample_rate, silence.time_base = i * 960, 48000, Fraction(1, 48000)
            container.mux(voice.encode(silence))
        if voice:
            container.mux(voice.encode())
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_sound_that_outlasts_the_pictures_is_no_damage(tmp_path, suffix):
    video = VideoReader(write_times(tmp_path / f"talk{suffix}", [i / 10 for i in range(20)], sound=4.0))
    assert len(list(video)) == 20 and not video.warning


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_frames_of_a_varying_rate_are_counted(tmp_path, suffix):
    times = [i / 30 for i in range(20)] + [1 + 5 * i for i in range(10)]
    video = VideoReader(write_times(tmp_path / f"screen{suffix}", times))
    assert count_frames(video, 1e9) == 30 and count_frames(video, 0.9) == 20


def test_a_malformed_address_is_a_sentence():
    with pytest.raises(VideoError, match="%5B"):
        display_name("rtsp://me:p[ss@cam/1")


def test_a_camera_is_known_by_all_that_the_system_calls_it(monkeypatch):
    cameras = {"/dev/video0": "USB2.0 HD UVC WebCam: USB2.0 HD", "video=HD Cam": "HD Cam"}
    monkeypatch.setattr("fer_nb.video.containers.list_cameras", lambda: cameras)
    assert [containers.source_kind(name) for name in (*cameras.values(), "video=HD Cam")] == ["camera"] * 3
    with pytest.raises(VideoError, match="no file"):
        containers.source_kind("HD Cam.mp4")
