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


def tiny_model(path, metadata, inputs="faces", n=7):
    "A valid ONNX file that gives equal probabilities."
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    given = h.make_tensor_value_info(inputs, onnx.TensorProto.UINT8, ["N", "H", "W"])
    gives = h.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", n])
    constants = [
        h.make_tensor("first", onnx.TensorProto.INT64, [1], [0]),
        h.make_tensor("last", onnx.TensorProto.INT64, [1], [1]),
        h.make_tensor("seven", onnx.TensorProto.INT64, [1], [n]),
    ]
    nodes = [
        h.make_node("Shape", [inputs], ["shape"]),
        h.make_node("Slice", ["shape", "first", "last"], ["n"]),
        h.make_node("Concat", ["n", "seven"], ["wanted"], axis=0),
        h.make_node(
            "ConstantOfShape", ["wanted"], ["probabilities"],
            value=h.make_tensor("value", onnx.TensorProto.FLOAT, [1], [1 / n]),
        ),
    ]  # fmt: skip
    model = h.make_model(
        h.make_graph(nodes, "tiny", [given], [gives], constants), opset_imports=[h.make_opsetid("", 20)], ir_version=9
    )
    h.set_model_props(model, metadata)
    onnx.save(model, path)
    return path
