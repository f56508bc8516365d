"""Nothing leaves the machine, and nothing is written but the output: every call to the system is looked at."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from fer_nb.data.synthetic import draw_face

ROOT = Path(__file__).parent.parent
FER_NB = [sys.executable, "-c", "from fer_nb.cli import main; main()"]
APP = """
from streamlit.testing.v1 import AppTest
page = AppTest.from_file(ROOT + "/app.py", default_timeout=120).run()
page.button[0].click().run()
assert not page.exception and any('<article class="fer-card"' in block.proto.body for block in page.get("html"))
"""
WORKER = """
import pyarrow
from fer_nb.distributed import RecognizerActor
(row,) = RecognizerActor("/", model="custom_cnn")(pyarrow.table({"source": [ROOT + "/face.png"]})).to_pylist()
assert len(row["faces"]) == 1
"""


@pytest.fixture
def watched(tmp_path):
    "How to run a command watched, with an empty home, and not as in CI, where libraries keep quiet by themselves."
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "-qq", "-o", os.devnull, "true"]).returncode:
        pytest.skip("needs strace")
    for name in ("home", "tmp", "out"):
        (tmp_path / name).mkdir()
    draw_face("happy", 4, 320, zoom=0.6).save(tmp_path / "out" / "face.png")
    loud = r"CI$|XDG_|ORT_|MPL|RAY_|STREAMLIT"
    kept = {name: value for name, value in os.environ.items() if not re.match(loud, name)}
    kept |= dict(HOME=f"{tmp_path}/home", TMPDIR=f"{tmp_path}/tmp", PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    calls = "trace=network,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2"
    return [strace, "-f", "-qq", "-o", tmp_path / "calls", "-e", calls], dict(env=kept, cwd=tmp_path / "out")


def quiet(tmp_path):
    "Nobody on the internet is spoken to, not even to ask for a name; no file but the output, nothing left at home."
    for call in (tmp_path / "calls").read_text(errors="replace").splitlines():
        assert not re.search(r"(connect|sendto|sendmsg|sendmmsg)\(.*AF_INET", call), call
        if re.search(r"O_CREAT|O_WRONLY|O_RDWR|creat\(|mkdir|rename", call) and " = -1 " not in call:
            assert re.search(rf'"/dev/|"(?!/)|"{tmp_path}/(out|tmp)/', call), call
    assert not list((tmp_path / "home").iterdir()) and not list((tmp_path / "tmp").iterdir())


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "Three frames of a drawn face."
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 5, (320, 320))
    for _ in range(3):
        writer.write(np.asarray(draw_face("happy", 4, 320, zoom=0.6).convert("RGB")))
    writer.release()
    return path


@pytest.mark.parametrize("words", ["predict face.png --out t.csv --annotate .", "video FILM --out t.csv", "models"])
def test_the_command_keeps_to_itself(words, watched, film, tmp_path):
    strace, how = watched
    words = words.replace("FILM", str(film)).split()
    done = subprocess.run([*strace, *FER_NB, *words], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stderr
    quiet(tmp_path)


@pytest.mark.parametrize("name, code", [("app", APP), ("worker", WORKER)], ids=["app", "worker"])
def test_whatever_opens_a_model_keeps_to_itself(name, code, watched, tmp_path):
    pytest.importorskip(dict(app="streamlit", worker="ray")[name], reason="needs another extra")
    strace, how = watched
    root = ROOT if name == "app" else tmp_path / "out"
    command = [*strace, sys.executable, "-c", f"ROOT = {str(root)!r}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stderr
    quiet(tmp_path)


def knock(port):
    "A page of another site opens a connection to the app; the first line of the answer."
    with socket.create_connection(("localhost", port)) as line:
        asked = f"GET /_stcore/stream HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://evil.example\r\n"
        asked += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        line.sendall(f"{asked}AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
        return line.recv(100).split(b"\r\n")[0]


@pytest.mark.parametrize("address", ["localhost", "0.0.0.0"])
def test_the_app_s_server_talks_to_its_readers_only(address, watched, tmp_path):
    pytest.importorskip("streamlit", reason="the page needs the [app] extra")
    strace, how = watched
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    how["env"] |= dict(STREAMLIT_SERVER_PORT=str(port), STREAMLIT_SERVER_HEADLESS="true")
    how["env"] |= dict(STREAMLIT_SERVER_ADDRESS=address)
    how |= dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    server = subprocess.Popen([*strace, *FER_NB, "app"], **how)
    try:
        for _ in range(300):
            try:
                assert urlopen(f"http://localhost:{port}/_stcore/health").status == 200
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("the app did not start")
        assert b"403" in knock(port)
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # strace passes nothing on
        server.wait(20)
    quiet(tmp_path)
