"The generated library and the wheel made from it."

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fer_nb.core import shipped_models

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "fer_nb").glob("[a-z]*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.name)
def test_every_module_has_its_notebook(module):
    named = re.search(r"File to edit: (\.\./nbs/\S+\.ipynb)", module.read_text())
    assert named, f"{module.name} was not generated"
    assert (module.parent / named[1]).resolve().is_file()


@pytest.mark.parametrize("module", ["cli", "data", "inference"])
def test_recognising_imports_nothing_heavy(module):
    heavy = {"torch", "fastai", "sklearn", "matplotlib", "streamlit", "mediapipe", "jax", "pandas"}
    code = f"import sys, fer_nb.{module}; print(*{heavy!r} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.split() == []


def test_a_model_ships():
    assert shipped_models()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    cmd = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, ROOT]
    subprocess.run(cmd, check=True, capture_output=True, cwd=out)
    return next(out.glob("fer_nb-*.whl"))


def test_wheel_carries_library_models_and_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"fer_nb/{m.name}" for m in MODULES} <= names
    assert {f"fer_nb/models/{m}.onnx" for m in shipped_models()} <= names
    assert {"fer_nb/page/app.py", "fer_nb/page/.streamlit/config.toml"} <= names
    assert not [n for n in names if n.endswith(".pth") or n.startswith(("nbs", "tests", "build"))]


def test_wheel_works_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path)
    code = (
        "import fer_nb.core as c, fer_nb.inference as i, fer_nb.data as d, fer_nb.cli as cli;"
        "assert 'models' == c.models_dir().name and c.models_dir().parent.name == 'fer_nb', c.models_dir();"
        "assert cli.page_file().is_file();"
        "print(len(i.EmotionRecognizer()(d.draw_face('happy', 4, 480, zoom=0.6)).faces))"
    )
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "1"
