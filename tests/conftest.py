"""What several tests share: synthetic photos and folders, and the command line without a shell."""

import os
import socket
import sys
import time
from urllib.request import urlopen

import pytest
from PIL import Image
from typer.testing import CliRunner

from fer_nb.core import EMOTIONS
from fer_nb.data.synthetic import draw_face

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nothing leaves the machine, whichever test is the first

#: `fer-nb` in a process of its own, from whatever folder
FER_NB = [sys.executable, "-c", "from fer_nb.cli import main; main()"]


def fer_nb(*words, **options):
    "Run the command with these words, in this process."
    from fer_nb.cli import app

    return CliRunner().invoke(app, [str(w) for w in words], **options)


def one_line(result, code=2):
    "The one line on stderr that a mistake is answered with."
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def free_port():
    "A port that nobody listens on."
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def wait_for_app(process, port, tries, said=lambda: ""):
    "Wait until the app answers, a fifth of a second after each try; `said` is shown where it has ended instead."
    for _ in range(tries):
        try:
            assert urlopen(f"http://localhost:{port}/_stcore/health").status == 200
            break
        except OSError:
            assert process.poll() is None, said()
            time.sleep(0.2)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    "A folder with a sub-folder of synthetic faces for each emotion."
    folder = tmp_path_factory.mktemp("faces")
    for emotion in EMOTIONS:
        (folder / emotion).mkdir()
        for seed in range(30):
            draw_face(emotion, seed).save(folder / emotion / f"{seed}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    "A face, a photo without one, and a text file with the name of a photo."
    folder = tmp_path_factory.mktemp("photos")
    draw_face("happy", 1, size=480, zoom=0.6).save(folder / "face.png")
    Image.new("RGB", (320, 240), "teal").save(folder / "wall.png")
    (folder / "notes.jpg").write_text("not a photo")
    return folder
