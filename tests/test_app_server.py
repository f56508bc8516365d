"""What the app's server promises: nothing is kept, strangers stay out. A real server in a process of its own."""

import asyncio
import http.client
import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import free_port, wait_for_app
from PIL import Image

pytest.importorskip("streamlit", reason="the page needs the [app] extra")

ROOT = Path(__file__).parent.parent

# The app as any ASGI server runs it; a line on its standard input asks what the server holds.
SERVER = """
import sys, threading
sys.path.insert(0, ROOT)
import uvicorn, app

def held():
    for line in sys.stdin:
        from streamlit import runtime
        r = runtime.get_instance()
        files = [f.data for s in r.uploaded_file_mgr.file_storage.values() for f in s.values()]
        media = [m.content for m in r.media_file_mgr._storage._files_by_id.values()]
        sessions = len(r._session_mgr.list_sessions())
        from starlette.formparsers import MultiPartParser
        numbers = sessions, len(files), len(media), MultiPartParser.spool_max_size
        print("held", *numbers, any(MARK in d for d in files + media), flush=True)

MARK = bytes.fromhex(line) if (line := sys.argv[2]) else b"-"
threading.Thread(target=held, daemon=True).start()
uvicorn.run(app.app, host="localhost", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
MARK = np.random.default_rng(0).bytes(32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "The process and its port."
    port = free_port()
    folder = tmp_path_factory.mktemp("server")
    env = os.environ | {"STREAMLIT_SERVER_HEADLESS": "true", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    code = SERVER.replace("ROOT", repr(str(ROOT)))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port), MARK.hex()], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=folder,
    )  # fmt: skip
    wait_for_app(process, port, tries=600)
    yield process, port, folder
    process.terminate()
    process.wait(20)


def held(server):
    "Sessions, uploads, media, bytes that an upload may have before it goes to disk; and whether the mark is anywhere."
    process = server[0]
    process.stdin.write("?\n")
    process.stdin.flush()
    while not (line := process.stdout.readline()).startswith("held "):
        assert line  # else the server has ended
    _, *numbers, marked = line.split()
    return [int(n) for n in numbers], marked == "True"


def request(server, method, path, body=None, host=None, **headers):
    "Status, headers and body of an answer."
    line = http.client.HTTPConnection("localhost", server[1], timeout=60)
    line.putrequest(method, path, skip_host=True)
    line.putheader("Host", host or f"localhost:{server[1]}")
    for name, value in headers.items():
        line.putheader(name.replace("_", "-"), value)
    line.endheaders(body)
    answer = line.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


class Page:
    "A page without a browser: its session, and the uploads of it."

    def __init__(self, server):
        from websockets.sync.client import connect

        self.server, address = server, f"http://localhost:{server[1]}"
        url = f"ws{address[4:]}/_stcore/stream"
        self.wire = connect(url, subprotocols=["streamlit"], origin=address, max_size=None, open_timeout=60)
        self.uploader = ""  # the widget's id
        self.run()

    def run(self, files=()):
        "Run the script, with uploaded files of these ids in its widget, and give back its HTML."
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        ask = BackMsg()
        ask.rerun_script.query_string = ""
        if self.uploader:
            given = ask.rerun_script.widget_states.widgets.add(id=self.uploader).file_uploader_state_value
            for id_ in files:
                given.uploaded_file_info.add(name=f"{id_}.jpg", size=1, file_id=id_).file_urls.file_id = id_
        self.wire.send(ask.SerializeToString())
        texts = []
        while True:
            message = ForwardMsg.FromString(self.wire.recv(timeout=600))
            if message.HasField("new_session"):
                self.session = message.new_session.initialize.session_id
            if message.WhichOneof("type") == "script_finished":
                return "".join(texts)
            element = message.delta.new_element
            assert not element.HasField("exception"), element.exception.message
            self.uploader = element.file_uploader.id or self.uploader
            texts.append(element.html.body)

    def upload(self, content, chunked=False, host=None, id_="1"):
        "Put a file where Streamlit's own widget puts it."
        head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.png"\r\nContent-Type: image/png\r\n\r\n'
        body = head + content + b"\r\n--x--\r\n"
        length = {} if chunked else {"Content_Length": str(len(body))}
        from streamlit.web.server.starlette.starlette_app_utils import generate_xsrf_token_string

        token = generate_xsrf_token_string()  # as cookie and header: only this page's script can send both
        kind = {"Content_Type": "multipart/form-data; boundary=x", "X_Xsrftoken": token}
        kind["Cookie"] = f"_streamlit_xsrf={token}"
        path = f"/_stcore/upload_file/{self.session}/{id_}"
        return request(self.server, "PUT", path, body, host, **kind, **length)[0]


def marked_photo():
    "A PNG of more than a megabyte with the mark in it, stored and not compressed."
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (800, 800, 3), np.uint8)).save(file, "PNG")
    return file.getvalue() + MARK


@pytest.fixture
def page(server):
    "An open page."
    opened = Page(server)
    yield opened
    opened.wire.close()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_seconds_after_a_page_is_closed_its_photo_is_gone(server):
    page = Page(server)
    assert page.upload(marked_photo()) == 204
    (sessions, files, _, spool), marked = held(server)
    assert (sessions, files, marked) == (1, 1, True)
    assert spool > 200e6  # it has never been on a disk
    page.wire.close()
    time.sleep(10)
    wait_for(lambda: held(server)[0][0] == 0, 20)  # on a busy machine a second is longer
    (sessions, files, media, _), marked = held(server)
    assert (sessions, files, media, marked) == (0, 0, 0, False)
    assert not any(path.is_file() and MARK in path.read_bytes() for path in server[2].rglob("*"))


def test_a_short_loss_of_the_line_is_no_closed_page(server, page):
    from fer_nb.app.server import SESSION_GRACE_SECONDS

    assert page.upload(b"x") == 204
    assert SESSION_GRACE_SECONDS >= 3 and held(server)[0][1] == 1


def test_a_video_of_60_megabytes_comes_in_and_of_201_not(page):
    assert page.upload(bytes(60_000_000)) == 204
    assert page.upload(bytes(202 * 2**20)) == 413


def test_a_body_without_a_length_ends_at_the_limit(server, page):
    token = "2|00000000|00000000|0"
    line = socket.create_connection(("localhost", server[1]), timeout=60)
    path = f"/_stcore/upload_file/{page.session}/1"
    names = {"Host": f"localhost:{server[1]}", "Transfer-Encoding": "chunked", "X-Xsrftoken": token,
             "Cookie": f"_streamlit_xsrf={token}", "Content-Type": "multipart/form-data; boundary=x"}  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in names.items())
    line.sendall(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode())
    sent, part = 0, bytes(2**20)
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.png"\r\n\r\n'
    line.sendall(b"%x\r\n%s\r\n" % (len(form), form))
    try:
        while sent < 400 * 2**20:
            line.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            sent += len(part)
    except OSError:
        pass  # the server has hung up
    assert sent < 260 * 2**20  # what the network holds comes on top of the limit


def test_every_answer_has_the_headers(server):
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/favicon.png", "/nowhere/else.js"):
        status, headers, _ = request(server, "GET", path)
        headers = {name.lower(): value for name, value in headers.items()}
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert all(policy[name] == "'self'" for name in ("frame-ancestors", "base-uri", "form-action"))
        assert policy["connect-src"] == "'self' data:"  # a snapshot is read from a data: address
        assert policy["default-src"] == "'none'" and " 'unsafe-eval'" not in policy["script-src"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer", status
    assert b'"allowedOrigins":[]' in request(server, "GET", "/_stcore/host-config")[2]
    assert request(server, "GET", "/media/none.webm")[1]["cache-control"] == "no-store"


def test_strangers_stay_out(server, page):
    assert request(server, "GET", "/", host="evil.example")[0] == 421
    assert request(server, "GET", "/", host=f"127.0.0.1:{server[1]}")[0] == 200
    assert request(server, "GET", "/_stcore/metrics")[0] == 404
    assert request(server, "GET", "/media/x.webm", Sec_Fetch_Site="cross-site")[0] == 403
    assert page.upload(b"x", host="evil.example") == 421


def test_static_files_are_small(server):
    page = request(server, "GET", "/")[2].decode()
    (script,) = [part.split('"')[0] for part in page.split('src="./static/js/')[1:]][:1]
    status, headers, body = request(server, "GET", f"/static/js/{script}", Accept_Encoding="gzip")
    assert status == 200 and headers["content-encoding"] == "gzip" and "immutable" in headers["cache-control"]
    whole = request(server, "GET", f"/static/js/{script}")[2]
    assert len(body) < 0.5 * len(whole)


def test_a_killed_server_s_folders_go_at_the_next_start(tmp_path):
    from fer_nb.video.containers import clear_stale_folders

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f"fer_nb_{pid}_x").mkdir()
    clear_stale_folders((str(tmp_path),))
    assert [p.name for p in tmp_path.iterdir()] == [f"fer_nb_{os.getpid()}_x"]


def test_no_process_is_asked_on_windows(monkeypatch):
    from fer_nb.video import containers

    monkeypatch.setattr(containers, "os", SimpleNamespace(name="nt"))  # has no kill
    assert containers.is_running(4)


def jpegs(n, width, height):
    "Pictures of three drawn faces, all different."
    from fer_nb.data.synthetic import draw_group

    for seed in range(n):
        file = io.BytesIO()
        draw_group(["happy", "sad", "surprise"], seed, 160).resize((width, height)).convert("RGB").save(file, "JPEG")
        yield file.getvalue()


def at_once(n, task):
    "Run a task in n threads; what went wrong."
    wrong = []

    def run(number):
        try:
            task(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=[number]) for number in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return wrong


def memory(server):
    "Megabytes of the server."
    status = Path(f"/proc/{server[0].pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


@pytest.mark.skipif(not os.environ.get("FUZZ"), reason="minutes on all cores: FUZZ=1")
def test_twenty_visitors_with_three_photos_seven_times(server):
    photos, times = list(jpegs(3, 1800, 600)), []

    def visit(number, rounds):
        page = Page(server)
        for turn in range(rounds):
            start, ids = time.monotonic(), [f"{number}-{turn}-{i}" for i in range(len(photos))]
            assert [page.upload(photo, id_=id_) for photo, id_ in zip(photos, ids, strict=True)] == [204] * 3
            assert '<p class="fer-summary" role="status">3 photos, ' in page.run(ids)
            times.append(time.monotonic() - start)
        page.wire.close()

    visit(20, 4)
    alone = np.median(times[1:])
    times.clear()
    wrong = at_once(20, lambda number: visit(number, 7))
    wait_for(lambda: held(server)[0][0] == 0, 60)
    time.sleep(3)
    late, left = np.percentile(times, 95), memory(server)
    print(f"alone {alone:.2f} s, p95 of twenty {late:.1f} s, {left:.0f} MB afterwards")
    assert not wrong and len(times) == 140
    assert late < 2 * 20 * alone and left < 600


def test_a_session_that_cannot_be_ended_does_not_keep_the_others(monkeypatch):
    from fer_nb.app.server import return_memory, sweep_sessions

    there, tries = dict.fromkeys(("bad", "good")), []

    class Runtime:
        _session_mgr = SimpleNamespace(_session_storage=SimpleNamespace(
            list=lambda: [SimpleNamespace(session=SimpleNamespace(id=id_)) for id_ in there]))  # fmt: skip
        media_file_mgr = SimpleNamespace(remove_orphaned_files=lambda: None)

        def close_session(self, id_):
            tries.append(id_)
            if id_ == "bad" and tries.count("bad") < 2:
                raise RuntimeError("not now")
            del there[id_]

    def windows(_):
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr("ctypes.CDLL", windows)
    return_memory()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(sweep_sessions(Runtime(), grace=0, interval=0.01), 1))
    assert tries == ["bad", "good", "bad"] and not there


@pytest.mark.skipif(not os.environ.get("FUZZ"), reason="minutes on all cores: FUZZ=1")
def test_pages_answer_while_sixty_cameras_run(server):
    from websockets.sync.client import connect

    from fer_nb.core import available_models

    (photo,), done, frames, ready = jpegs(1, 640, 480), threading.Event(), [], threading.Semaphore(0)
    address = f"localhost:{server[1]}"

    def film(_):
        url = f"ws://{address}/live?models={available_models()[0]}"
        with connect(url, origin=f"http://{address}", open_timeout=60) as line:
            while not done.is_set():
                line.send(photo)
                assert "faces" in line.recv(timeout=300)
                if not frames.append(1) and len(frames) % 60 == 0: ready.release()

    cameras = threading.Thread(target=lambda: wrong.extend(at_once(60, film)))
    wrong, times = [], {"/": [], "page": []}
    cameras.start()
    assert ready.acquire(timeout=300)
    before, start = len(frames), time.monotonic()
    for _ in range(20):
        asked = time.monotonic()
        assert request(server, "GET", "/")[0] == 200
        times["/"].append(time.monotonic() - asked)
        asked = time.monotonic()
        Page(server).wire.close()
        times["page"].append(time.monotonic() - asked)
    rate = (len(frames) - before) / (time.monotonic() - start)
    done.set()
    cameras.join()
    late = {name: np.percentile(t, 95) for name, t in times.items()}
    print(f"{rate:.0f} pictures a second; p95:", ", ".join(f"{name} {t:.2f} s" for name, t in late.items()))
    assert not wrong and late["/"] < 0.5 and late["page"] < 0.5
