"""Other processes, threads, users and terminals: an answer or one sentence, and nothing hangs."""

import copy
import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_nb.core import EMOTIONS, FerError, system_libraries
from fer_nb.data.load import cache_dirs, load_data
from fer_nb.data.synthetic import draw_face
from fer_nb.inference import EmotionRecognizer

ROOT = Path(__file__).parent.parent
MAIN = "from fer_nb.cli import main; main()"
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")


@pytest.fixture
def folder(tmp_path):
    "A photo to begin with."
    draw_face("happy", 4, 320, zoom=0.6).save(tmp_path / "face.png")
    return tmp_path


def run(code, folder, **how):
    "A script in a process of its own, which has to end."
    (folder / "script.py").write_text(code)
    how = dict(cwd=folder, capture_output=True, text=True, timeout=60) | how
    how["env"] = os.environ | dict(PYTHONPATH=str(ROOT)) | how.get("env", {})
    return subprocess.run([sys.executable, "script.py"], **how)


def shell(words, folder, **how):
    "A line for the shell, `fer-nb` in it."
    how["env"] = os.environ | dict(PYTHONPATH=str(ROOT)) | how.get("env", {})
    line = words.replace("fer-nb", f"'{sys.executable}' -m fer_nb")
    return subprocess.run(line, shell=True, cwd=folder, capture_output=True, timeout=60, **how)


def one_line(done, code=2):
    "The one line on stderr that a mistake is answered with."
    said = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
    assert done.returncode == code and said.startswith("error: ") and said.count("\n") == 1, said
    return said


# forks and pools

FORK = """
import multiprocessing, sys
import numpy as np
from fer_nb.core import FerError
from fer_nb.inference import EmotionRecognizer

crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)
recognizer = EmotionRecognizer("custom_cnn", threads=THREADS)

def work(what):
    try:
        return recognizer.classify(crops) if what == "crops" else recognizer("face.png").faces[0].emotion
    except FerError as e:
        return str(e)

before = [work(what) for what in FIRST]
with multiprocessing.get_context("fork").Pool(2) as pool:
    crops_said, photo_said = pool.map_async(work, ["crops", "photo"]).get(30)
    pool.close()
    pool.join()
assert np.array_equal(crops_said, work("crops")), crops_said
print(photo_said)
child = multiprocessing.get_context("fork").Process(target=sys.exit, args=(3,))
child.start()
child.join(30)
assert child.exitcode == 3
"""


@linux
@pytest.mark.parametrize("threads", [1, 3])
def test_a_forked_process_opens_the_model_again(threads, folder):
    done = run(FORK.replace("THREADS", str(threads)).replace("FIRST", "['crops']"), folder)
    assert (done.returncode, done.stdout.strip() in EMOTIONS) == (0, True), done.stderr


@linux
@pytest.mark.parametrize("threads", [1, 3])
def test_a_process_forked_after_the_first_photo_answers(threads, folder):
    done = run(FORK.replace("THREADS", str(threads)).replace("FIRST", "['crops', 'photo']"), folder)
    assert (done.returncode, done.stdout.strip() in EMOTIONS) == (0, True), done.stderr


@linux
def test_a_forked_process_ends_by_itself(folder):
    code = """
import os, sys
from fer_nb.inference import EmotionRecognizer
recognizer = EmotionRecognizer(threads=3)
recognizer("face.png")
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.exit(7)
"""
    assert run(code, folder).returncode == 7


POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from fer_nb.inference import EmotionRecognizer

if __name__ == "__main__":
    recognizer = EmotionRecognizer("custom_cnn", threads=1)
    here = recognizer("face.png").to_dict()
    with ProcessPoolExecutor(1, multiprocessing.get_context(METHOD)) as pool:
        there = [result.to_dict() for result in pool.map(recognizer, ["face.png"] * 2)]
    assert there == [here, here], (here, there)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_maps_a_recognizer(method, folder):
    done = run(POOL.replace("METHOD", repr(method)), folder)
    assert done.returncode == 0, done.stderr


def test_a_copy_opens_its_own_models(folder):
    first = EmotionRecognizer(["custom_cnn", "resnet18"], threads=1, min_face=90, tta=True, threshold=0.5)
    for second in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert (second.min_face, second.tta, second.threshold, second.threads) == (90, True, 0.5, 1)
        assert second(folder / "face.png").to_dict() == first(folder / "face.png").to_dict()
    assert len(pickle.dumps(first)) < 1000


@linux
def test_many_threads_take_turns_and_leave_no_memory(folder):
    code = """
import os, threading
import numpy as np
import onnxruntime
from fer_nb.inference import EmotionRecognizer

once, running, most, left = onnxruntime.InferenceSession.run, [], 0, []

def counted(*args, **how):
    global most
    running.append(0)
    most = max(most, len(running))
    try: return once(*args, **how)
    finally: running.pop()

def work():
    recognizer("face.png")
    recognizer.classify(np.zeros((4, 48, 48), np.uint8))

onnxruntime.InferenceSession.run = counted
recognizer = EmotionRecognizer("efficientnet_b0", threads=1)
for _ in range(3):
    threads = [threading.Thread(target=work) for _ in range(120)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    left.append(int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6)
print([most, os.cpu_count(), *left])
"""
    most, processors, first, _, last = json.loads(run(code, folder).stdout)
    assert 1 < most <= 2 * processors, most  # each of the two kinds of session has its turns
    assert last < first + 60, (first, last)  # megabytes


# terminals and users


@linux
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_stop(closed, folder):
    done = shell(f"fer-nb predict face.png --out t.csv {closed}", folder)
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((folder / "t.csv").open())
    assert row["emotion"] in EMOTIONS
    assert shell(f"fer-nb predict none.png {closed}", folder).returncode == 1


def test_python_without_streams(folder):
    code = """
import sys
sys.stdin = sys.stdout = sys.stderr = None
from fer_nb.inference import EmotionRecognizer
assert len(EmotionRecognizer("custom_cnn")("face.png").faces) == 1
sys.argv = ["fer-nb", "predict", "face.png", "--out", "t.csv"]
from fer_nb.cli import main
main()
"""
    assert run(code, folder).returncode == 0
    assert (folder / "t.csv").stat().st_size


@linux
def test_a_user_without_name_and_home(folder):
    unshare = ["unshare", "--map-user=54321"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    command = [*unshare, sys.executable, "-m", "fer_nb", "predict", "face.png"]
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert "  1. " in done.stdout and not done.stderr, done.stderr
    assert os.listdir(folder) == ["face.png"]


def test_a_cache_needs_no_home(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    tmp_path.chmod(0o555)
    assert cache_dirs(tmp_path / "fer2013.zip") == []
    tmp_path.chmod(0o755)
    with pytest.raises(FerError, match=r"~nosuchuser/fer2013\.zip"):
        load_data("~nosuchuser/fer2013.zip")


@pytest.mark.parametrize("name", ["~nosuchuser/photo.jpg", "~nosuchuser"])
def test_a_user_who_is_not_there(name, folder):
    assert "nosuchuser" in one_line(shell(f"fer-nb predict '{name}'", folder), 1)
    assert "nosuchuser" in one_line(shell(f"fer-nb data '{name}'", folder))


@linux
@pytest.mark.parametrize("page", ["cp1251", "cp437"])
def test_a_character_that_the_code_page_lacks(page, folder):
    for name in ("漢.png", "ÿ☺.png"):
        shutil.copy(folder / "face.png", folder / name)
    done = shell("fer-nb predict . none☺", folder, env=dict(PYTHONIOENCODING=page))
    assert done.returncode == 1 and done.stdout.count(b"  1. ") == 3 and b"?.png" in done.stdout, done.stderr


def test_python_m_is_the_command(folder):
    assert shell("fer-nb --version", folder).stdout.startswith(b"fer_nb ")


def test_a_missing_system_library_is_named_with_its_package(folder):
    code = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ImportError("libstdc++.so.6: cannot open shared object file: No such file or directory")
sys.meta_path.insert(0, Broken())
sys.argv = ["fer-nb", "predict", "face.png"]
{MAIN}
"""
    assert "apt-get install libstdc++6" in one_line(run(code, folder), 2)
    with pytest.raises(ImportError, match="circular"), system_libraries():
        raise ImportError("circular")
