"The generated library and the wheel made from it."

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fer_nb.core import available_models
from fer_nb.data.synthetic import draw_face

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fer_nb"
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file.name not in ("_modidx.py", "__main__.py"))
#: what recognizes: none of it may need what only training, the app or a cluster needs
LIGHT = {"core", "images", "runtime", "data", "batch", "prior", "faces", "crops", "crop_dataset", "drawing"}
LIGHT |= {"inference", "explain", "video", "commands", "cli"}


def dotted(file):
    "The name of a module, as it is imported."
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", MODULES, ids=dotted)
def test_every_module_has_its_notebook(module):
    text = module.read_text(encoding="utf-8")
    if module.name == "__init__.py" and not text and module.parent != PACKAGE:
        return  # that of a folder of modules
    named = re.search(r"File to edit: ((?:\.\./)+nbs/\S+\.ipynb)", text)
    assert named, f"{module} was not generated"
    assert (module.parent / named[1]).resolve().is_file()


@pytest.mark.parametrize("notebook", sorted((ROOT / "nbs").glob("[0-9]*.ipynb")), ids=lambda p: p.name)
def test_every_notebook_opens_in_lab_and_colab(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3"  # else JupyterLab asks for a kernel
    badge, setup = ("".join(cell["source"]) for cell in content["cells"][1:3])
    assert badge.endswith(f"/blob/main/nbs/{notebook.name})") and "google.colab" in setup


def test_recognizing_imports_nothing_heavy():
    heavy = {"torch", "fastai", "sklearn", "matplotlib", "streamlit", "mediapipe", "jax", "pandas", "cv2", "av", "ray"}
    light = [name for name in map(dotted, MODULES) if name.split(".")[1:2] and name.split(".")[1] in LIGHT]
    light.append("fer_nb.bench.inference")
    code = f"import sys, {', '.join(light)}; print(*{heavy!r} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.split() == []


def test_the_package_alone_imports_nothing():
    code = "import sys, typing; before = set(sys.modules); import fer_nb; print(*set(sys.modules) - before)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert [name for name in out.stdout.split() if not name.startswith(("fer_nb", "__future__"))] == []
    assert "fer_nb.core" not in out.stdout


def test_the_names_people_come_for():
    import fer_nb

    for name in fer_nb.__all__:
        assert getattr(fer_nb, name) is not None and name in dir(fer_nb)
    with pytest.raises(AttributeError, match="EmotionRecogniser"):
        getattr(fer_nb, "EmotionRecogniser")  # noqa: B009


def test_a_model_ships():
    assert available_models()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    cmd = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, ROOT]
    subprocess.run(cmd, check=True, capture_output=True, cwd=out)
    return next(out.glob("fer_nb-*.whl"))


def test_wheel_carries_library_models_and_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    there = [file for file in PACKAGE.rglob("*") if file.is_file() and not {"__pycache__", "page"} & set(file.parts)]
    assert {file.relative_to(ROOT).as_posix() for file in there} <= names  # modules, py.typed, style sheets, scripts
    assert {f"fer_nb/weights/{file.name}" for file in (ROOT / "models").glob("*.onnx")} <= names
    assert {f"fer_nb/weights/{file}" for file in ("results.json", "plan.ini", "runs.csv")} <= names
    assert {"fer_nb/page/app.py", "fer_nb/page/.streamlit/config.toml"} <= names
    assert not [n for n in names if n.endswith(".pth") or n.startswith(("nbs", "tests", "build"))]


def test_the_wheel_is_its_models_and_little_else(wheel):
    models = sum(i.file_size for i in zipfile.ZipFile(wheel).infolist() if i.filename.endswith(".onnx"))
    assert wheel.stat().st_size < models + 500_000


def seconds(*command, times=3, python=sys.executable):
    "How long a command takes, the best of some times."
    took = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([python, *map(str, command)], check=True, capture_output=True, cwd="/")
        took.append(time.perf_counter() - start)
    return min(took)


REQUIREMENTS = (ROOT / "settings.ini").read_text(encoding="utf-8").partition("\nrequirements = ")[2].partition("\n")[0]
DETECTOR = ", mediapipe" if "mediapipe" in REQUIREMENTS else ""


def starts_at_once(folder, python=sys.executable):
    "Whether importing takes no time, and the first answer little longer than importing what it stands on."
    draw_face("happy", 4, 480, zoom=0.6).save(folder / "face.png")
    assert seconds("-c", "import fer_nb", python=python) - seconds("-c", "pass", python=python) < 0.05
    stands_on = seconds("-c", f"import numpy, PIL, onnxruntime{DETECTOR}", times=2, python=python)
    predict = "import sys; from fer_nb.cli import main; sys.argv[1:1] = ['predict']; main()"
    assert seconds("-c", predict, folder / "face.png", times=2, python=python) < 6 * stands_on


def test_the_library_starts_at_once(tmp_path):
    starts_at_once(tmp_path)


def needed(name, seen):
    "The names of a package and of all that it cannot do without."
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in seen:
        return seen
    seen.add(name)
    try:
        wanted = [Requirement(line) for line in distribution(name).requires or []]
    except PackageNotFoundError:  # for another system
        return seen
    for one in wanted:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            needed(one.name, seen)
    return seen


ALONE = """
import socket, sys
forbidden = set(sys.argv[1].split(","))

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def no_network(*_):
    raise OSError("there is no network")

sys.meta_path.insert(0, NotInstalled())
socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
from fer_nb.data.synthetic import draw_face
from fer_nb.inference import EmotionRecognizer
print(len(EmotionRecognizer()(draw_face("happy", 4, 480, zoom=0.6)).faces), "jaxlib" in sys.modules)
"""


def test_recognising_needs_only_what_the_wheel_asks_for(wheel, tmp_path):
    "Everything that is installed here but not asked for is hidden, as in an environment with the wheel alone."
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path)
        metadata = z.read(next(n for n in z.namelist() if n.endswith(".dist-info/METADATA"))).decode()
    asked = [Requirement(line[15:]) for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    plain = [one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert len(plain) <= 7 and not {"torch", "fastai", "streamlit", "opencv-python"} & set(plain)
    there = set()
    for name in plain:
        needed(name, there)
    of = {m: {re.sub(r"[-_.]+", "-", n).lower() for n in names} for m, names in packages_distributions().items()}
    hidden = sorted(module for module, names in of.items() if not names & there and module != "fer_nb")
    assert "fastai" in hidden or "pytest" in hidden
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", ALONE, ",".join(hidden)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["1", "False"]  # jaxlib is asked for by MediaPipe, and never imported


def test_wheel_works_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path)
    code = (
        "import fer_nb.core as c, fer_nb.inference as i, fer_nb.data.synthetic as d, fer_nb.cli as cli;"
        "assert 'weights' == c.models_dir().name and c.models_dir().parent.name == 'fer_nb', c.models_dir();"
        "assert cli.app_path().is_file();"
        "print(len(i.EmotionRecognizer()(d.draw_face('happy', 4, 480, zoom=0.6)).faces))"
    )
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "1"


@pytest.mark.skipif(not os.environ.get("CI"), reason="installs a gigabyte, which takes minutes: with CI=1")
def test_the_wheel_alone_recognises_a_photo_without_a_network(wheel, tmp_path):
    "A new environment with the wheel and what it asks for."
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    (tmp_path / "alone.py").write_text(ALONE)
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    out = subprocess.run([python, "alone.py", "torch"], capture_output=True, text=True, cwd=tmp_path, env=bare)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["1", "False"]
    used = sum(f.lstat().st_blocks for f in (tmp_path / "env").rglob("*")) * 512
    assert used < 1.1 * 2**30, f"{used / 2**20:.0f} MiB"
    starts_at_once(tmp_path, python)
