"The service over a real socket: many clients, bad ones among them, an end in the middle."

import asyncio
import gc
import inspect
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the service needs the [serve] extra")

from anyio import CapacityLimiter
from starlette.datastructures import URL
from starlette.requests import Request

from fer_nb.core import EMOTIONS, FerError
from fer_nb.data.synthetic import draw_face
from fer_nb.inference import EmotionRecognizer, Result
from fer_nb.service.requests import Limits, ServiceError
from fer_nb.service.server import check_request, run_in_threads
from fer_nb.video.containers import in_memory_tempdir

MODEL = "custom_cnn"
ASKED = 10_000 if os.environ.get("FUZZ") else 400
START = """
import sys
from fer_nb.service.server import Limits, serve
serve(("%s",), port=0, limits=Limits(%s))
"""


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def photos():
    "Pictures of 0 to 2 faces, and what the library says of them."
    contents = []
    for i in range(12):
        canvas = Image.new("RGB", (320, 240), (120 + i, 130, 140))
        for j in range(i % 3):
            canvas.paste(draw_face(("happy", "sad", "surprise")[(i + j) % 3], i, 150, zoom=0.6), (5 + 155 * j, 40))
        contents.append(jpeg(canvas))
    with EmotionRecognizer(MODEL) as recognizer:
        return [(content, [face.to_dict() for face in recognizer(content).faces]) for content in contents]


class Server:
    "A service in a process of its own."

    def __init__(self, limits="", script=START):
        words = [sys.executable, "-c", script % (MODEL, limits)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        self.port = int(re.search(r":(\d+) ", self.process.stderr.readline())[1])
        # a full pipe would stop the service after some hundred lines
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def memory(self):
        "Megabytes of this process."
        text = open(f"/proc/{self.process.pid}/status").read()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def request(content, path="/v1/recognize", kind="image/jpeg", method="POST"):
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def read_answer(reader):
    "Status, headers, body."
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    return int(head.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def ask(port, *requests):
    "Requests on one connection, one after the other."
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for one in requests:
        writer.write(one)
        answers.append(await read_answer(reader))
    writer.close()
    return answers


def get(server, path):
    ((status, _, body),) = asyncio.run(ask(server.port, request(b"", path, method="GET")))
    return status, body.decode()


def same(answer, faces):
    "Whether an answer names these faces; batches differ in the last bits."
    got = json.loads(answer)["results"][0]["faces"]
    pairs = [(one["probabilities"], other["probabilities"]) for one, other in zip(got, faces, strict=True)]
    boxes = [face["box"] for face in got] == [face["box"] for face in faces]
    return boxes and all(np.allclose([*one.values()], [*other.values()], atol=1e-5) for one, other in pairs)


def test_every_good_request_is_answered_right_whatever_else_is_asked(photos):
    bad = [request(b"no picture"), request(b""), request(b"{", kind="application/json"), request(b"x", "/nowhere")]

    seconds = []  # of each good request

    async def client(port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        right = wrong = 0
        for i in range(ASKED // 50):
            if (i + number) % 20 == 0:
                writer.write(bad[number % len(bad)])
                status, _, _ = await read_answer(reader)
                wrong += status in (400, 404, 422)
                continue
            content, faces = photos[(i + number) % len(photos)]
            start = time.perf_counter()
            writer.write(request(content))
            status, _, body = await read_answer(reader)
            seconds.append(time.perf_counter() - start)
            right += status == 200 and same(body, faces)
        writer.close()
        return right, wrong

    async def clients(port):
        return await asyncio.gather(*(client(port, number) for number in range(50)))

    def library():
        "Photos a second without a service."
        with EmotionRecognizer(MODEL) as recognizer:
            recognizer(photos[0][0])
            start = time.perf_counter()
            for _ in recognizer.stream(photos[i % len(photos)][0] for i in range(ASKED // 10)): pass
            return ASKED // 10 / (time.perf_counter() - start)

    before = library()
    with Server() as server:
        asyncio.run(ask(server.port, *(request(content) for content, _ in photos)))
        memory = server.memory()
        start = time.perf_counter()
        counts = np.sum(asyncio.run(clients(server.port)), 0)
        rate, (p50, p99) = counts[0] / (time.perf_counter() - start), np.percentile(seconds, (50, 99))
        print(f"{rate:.1f} photos a second, p50 {p50:.2f} s, p99 {p99:.2f} s, "
              f"{memory:.0f} MB before, {server.memory():.0f} after")  # fmt: skip
        assert counts.sum() == ASKED // 50 * 50 and counts[1] > 0
        assert server.memory() - memory < 100
        metrics = get(server, "/metrics")[1]
        assert float(re.search(r"^fer_requests_in_progress (\S+)", metrics, re.M)[1]) == 0
        batches, faces = (re.search(rf"^fer_batch_faces_{word} (\S+)", metrics, re.M)[1] for word in ("count", "sum"))
        assert float(faces) > float(batches)  # some shared a batch
    after = library()
    print(f"{before:.1f} and {after:.1f} photos a second by the library itself")
    least = 0.85 if os.environ.get("FUZZ") else 0.5  # other tests may run beside this one
    assert rate > least * (before + after) / 2


def test_the_slow_and_the_gone_leave_nothing_behind(photos):
    content, faces = photos[1]

    async def slow(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(content)[:-100])
        status, _, body = await read_answer(reader)
        writer.close()
        return status, json.loads(body)["error"]["message"]

    async def gone(port, most):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(content)[:most])
        await writer.drain()
        writer.transport.abort()

    async def all_of_them(port):
        await asyncio.gather(*(gone(port, 400 * i + 20) for i in range(20)))
        return await asyncio.gather(slow(port), ask(port, request(content)))

    with Server("receive_seconds=1") as server:
        (status, message), ((good, _, body),) = asyncio.run(all_of_them(server.port))
        assert (status, message) == (408, "The request did not arrive within 1 s.")
        assert good == 200 and same(body, faces)
        deadline = time.monotonic() + 5
        while "fer_requests_in_progress 0.0" not in get(server, "/metrics")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_full_service_says_so_at_once(photos):
    content, _ = photos[1]

    async def full(port):
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in connections:
            writer.write(request(content)[:-1])  # inside, and waiting for the rest
        await asyncio.sleep(0.3)
        start = time.perf_counter()
        ((status, headers, _),) = await ask(port, request(content))
        took = time.perf_counter() - start
        ((ready, _, _),) = await ask(port, request(b"", "/readyz", method="GET"))
        for _, writer in connections:
            writer.write(request(content)[-1:])
        done = [(await read_answer(reader))[0] for reader, _ in connections]
        return status, headers.get("retry-after"), took < 0.5, ready, done

    with Server("concurrent_requests=3") as server:
        assert asyncio.run(full(server.port)) == (503, "1", True, 503, [200, 200, 200])


def test_sigterm_in_the_middle_answers_what_was_accepted(photos):
    content, faces = photos[2]

    async def asked(server):
        jobs = [asyncio.create_task(ask(server.port, request(content))) for _ in range(30)]
        while not any(job.done() for job in jobs):
            await asyncio.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*jobs, return_exceptions=True)

    with Server() as server:
        answers = asyncio.run(asked(server))
        told = [answer[0] for answer in answers if not isinstance(answer, Exception)]
        assert told and all(status == 200 and same(body, faces) for status, _, body in told)
        assert server.process.wait(20) in (0, -signal.SIGTERM)
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert all(isinstance(error, (ConnectionError, asyncio.IncompleteReadError)) for error in refused)


def left_of(pid):
    "The folders of a service's videos."
    return [path.name for path in Path("/dev/shm").glob(f"fer_nb_{pid}_*")]


def endless(recognizer, content):
    "Lines of a video that does not end."
    with in_memory_tempdir(1):
        while True:
            time.sleep(0.1)
            yield "line\n"


@pytest.mark.parametrize(("path", "status"), [("/v1/recognize", 401), ("/healthz", None)])
def test_a_host_that_looks_like_a_path_opens_nothing(path, status, monkeypatch):
    monkeypatch.setattr(Request, "url", URL("http://a/healthz?/v1/recognize"))  # as starlette 0.46 reads the host
    request = Request({"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"a/healthz?")]})
    answer = check_request(request, "secret", ())
    assert (answer and answer.status_code) == status


def test_a_video_is_gone_when_its_sender_is(monkeypatch):
    from fer_nb.service import server

    asked, lines, gone = [{"type": "http.request", "body": b"film"}], [], asyncio.Event()

    async def receive():
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message.get("body"):
            lines.append(message["body"])
            assert left_of(os.getpid())
            gone.set()
            await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": "/v1/video", "query_string": b"", "headers": []}
    monkeypatch.setattr(server, "video_lines", endless)
    route = server.VideoRoute(server.Service((MODEL,), server.Limits()))

    async def answered():
        await route(scope, receive, send)
        return left_of(os.getpid())

    gc.disable()
    try:
        assert (asyncio.run(answered()), lines) == ([], [b"line\n"])
    finally:
        gc.enable()


SLOW = f"""
import time
from fer_nb.service import server
from fer_nb.video.containers import in_memory_tempdir
{inspect.getsource(endless)}
server.video_lines = endless
server.serve(("%s",), port=0, limits=server.Limits(answer_seconds=0, %s))
"""


def test_sigterm_in_a_video_leaves_nothing_of_it():
    async def ended(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"film", "/v1/video"))
        await reader.readuntil(b"line\n")
        before = left_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(server.process.wait, 20)  # the client stays
        writer.close()
        return before, status

    with Server(script=SLOW) as server:
        before, status = asyncio.run(ended(server))
        assert before and not left_of(server.process.pid) and status == 0


def test_a_killed_service_s_folders_go_at_the_next_start(monkeypatch):
    from fer_nb.service import server

    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folders = [Path("/dev/shm") / f"fer_nb_{pid}_x" for pid in (dead.pid, os.getpid(), 10**20)]
    for folder in folders: folder.mkdir()
    try:
        server.serve((MODEL,), port=0)
        assert [folder.exists() for folder in folders] == [False, True, False]
    finally:
        for folder in folders: shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def client():
    "A service without a network."
    from starlette.testclient import TestClient

    from fer_nb.service.server import make_service

    return TestClient(make_service((MODEL,)), raise_server_exceptions=False)


PART = b'--x\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\nno picture\r\n--x--\r\n'


@pytest.mark.parametrize(("kind", "body", "status"), [
    ("boundary=x", b"garbage", 400), ("boundary=x", b"--x\r\nbad header\r\n\r\n--x--\r\n", 400),
    ("boundary=" + 300 * "x", b"", 400), ("boundary=x; charset=undefined", PART % b"a", 400),
    ("boundary=x; charset=utf-7", PART % b"+2AA-", 422),
])  # fmt: skip
def test_a_form_that_cannot_be_read_is_no_fault_of_the_service(client, kind, body, status):
    answer = client.post("/v1/classify", content=body, headers={"content-type": f"multipart/form-data; {kind}"})
    assert answer.status_code == status and "rror" in answer.text


@pytest.mark.parametrize(("name", "value", "allowed"), [
    ("threshold", "5", "a number from 0 to 1"), ("threshold", "nan", "a number from 0 to 1"),
    ("min_face", "-1", "a whole number of pixels, 0 or more"), ("tta", "2", "true or false"),
])  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/recognize", "/v1/video"])
def test_an_option_out_of_its_range_is_400_and_says_the_range(client, photos, path, name, value, allowed):
    answer = client.post(path, content=photos[0][0], params={name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"{name} has to be {allowed}, not '{value}'."


def test_a_smallest_face_larger_than_any_picture_finds_none(client, photos):
    answer = client.post("/v1/recognize", content=photos[1][0], params={"min_face": 10**11})
    assert answer.status_code == 200 and answer.json()["results"][0]["faces"] == []


def test_the_last_line_of_a_video_says_that_it_is_cut_off(tmp_path):
    from fer_nb.service.server import video_lines

    class Blind:
        "A recognizer that sees nobody, at once."

        threshold, emotions = 0.5, EMOTIONS

        def stream(self, images):
            return (Result(None, []) for _ in images)

    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", 10, {"preset": "ultrafast"}, width=64, height=64, pix_fmt="yuv420p")
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = (tmp_path / "film.mp4").read_bytes()
    parts = content, content[: len(content) // 2]
    whole, cut = ([json.loads(line) for line in video_lines(Blind(), part)] for part in parts)
    assert [line["frame"] for line in whole] == [*range(20)]
    assert 5 < len(cut) < 15 and cut[-1]["error"].endswith("of 20 frames: it is cut off or damaged.")


def test_a_large_form_is_not_written_to_a_disk(tmp_path, photos):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")  # 4 MB: more than what Starlette keeps in memory
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    part = head + file.getvalue() + b"\r\n--x--\r\n"
    script = (
        "import tempfile, sys\n"
        "tempfile.SpooledTemporaryFile.rollover = lambda self: sys.exit('written to a disk')\n"
        "from starlette.testclient import TestClient\n"
        "from fer_nb.service.server import make_service\n"
        "body = sys.stdin.buffer.read()\n"
        f"print(TestClient(make_service(('{MODEL}',))).post('/v1/recognize', content=body,\n"
        "      headers={'content-type': 'multipart/form-data; boundary=x'}).status_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=part, capture_output=True, timeout=120)
    assert done.stdout.split() == [b"200"], done.stderr


def test_a_port_that_is_taken_is_one_sentence():
    from fer_nb.service.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(FerError, match="cannot listen on"):
            serve((MODEL,), port=taken.getsockname()[1])


def test_late_work_keeps_its_place():
    running, most, begun, lock = 0, 0, 0, threading.Lock()

    def work(item):
        nonlocal running, most, begun
        with lock:
            running, begun = running + 1, begun + 1
            most = max(most, running)
        time.sleep(0.5)
        with lock:
            running -= 1
        return item

    async def ask():
        service = SimpleNamespace(threads=CapacityLimiter(3), limits=Limits(answer_seconds=0.1), late=set())
        for _ in range(4):
            with pytest.raises(ServiceError, match=r"more than 0\.1 s"):
                await run_in_threads(service, work, [1, 2, 3, 4])
        assert service.threads.borrowed_tokens == 3  # though nobody waits for them
        await asyncio.wait(service.late)
        service.limits = Limits(answer_seconds=60)
        assert await run_in_threads(service, work, [5, 6]) == [5, 6] and not service.late

    asyncio.run(ask())
    assert most == 3 and begun <= 7  # what had not begun never did


@pytest.mark.parametrize(("header", "status"), [
    (b"Bearer schl\xc3\xbcssel", None), (b"bearer schl\xc3\xbcssel", None), (b"Bearer schlussel", 401), (b"", 401),
    (b"Basic schl\xc3\xbcssel", 401), (b"schl\xc3\xbcssel", 401)])
def test_a_key_of_any_letters(header, status):  # fmt: skip
    scope = {"type": "http", "path": "/v1/models", "headers": [(b"host", b"x"), (b"authorization", header)]}
    answer = check_request(Request(scope), "schl\u00fcssel", ())
    assert (answer and answer.status_code) == status
