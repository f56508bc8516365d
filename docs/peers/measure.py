"""Measure other libraries as ours is measured: python docs/peers/measure.py [PEER ...] [--data fer2013.zip]

Each is installed into an environment of its own (from PyPI or npm, in the version named), is given the crops
themselves and answers for each. Figures go to models/peers.json. Without --data and FER2013 in the environment
the crops are synthetic, and nothing is written.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fer_nb.core import EMOTIONS, atomic_write, models_dir
from fer_nb.data.load import load_data
from fer_nb.evaluation.results import cpu_name
from fer_nb.metrics import ece

HERE = Path(__file__).resolve().parent
TF = ["@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0"]

#: name -> (packages, script); the first package is the library
PEERS = {
    "fer": (["fer==25.10.3"], "fer_peer.py"),
    "face-api": (["@vladmandic/face-api@1.7.15", *TF], "tfjs.cjs"),
    "human": (["@vladmandic/human@3.3.6", *TF], "tfjs.cjs"),
}


def install(packages: list[str], script: str, where: Path) -> list[str]:
    "Install a library into a folder; the command that runs its script there."
    if script.endswith(".py"):
        subprocess.run([sys.executable, "-m", "venv", where], check=True)
        subprocess.run([where / "bin/pip", "install", "-q", *packages], check=True)
        return [str(where / "bin/python"), str(HERE / script)]
    subprocess.run(["npm", "install", "--silent", "--ignore-scripts", "--prefix", where, *packages], check=True)
    (where / script).write_text((HERE / script).read_text())
    return ["node", str(where / script)]


def measure(peer: str, crops: np.ndarray, labels: np.ndarray, where: Path) -> dict:
    "A row of figures: accuracy, macro F1 and ECE (0-1), milliseconds a crop, megabytes installed."
    from sklearn.metrics import f1_score

    packages, script = PEERS[peer]
    command = install(packages, script, where)
    megabytes = round(sum(f.stat().st_size for f in where.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6)
    asked, answered = where / "crops.bin", where / "answers.bin"
    crops.tofile(asked)
    words = [*command, peer, str(asked), str(answered), ",".join(EMOTIONS)]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    said = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
    probs = np.fromfile(answered, np.float32).reshape(-1, len(EMOTIONS))
    probs /= probs.sum(1, keepdims=True)
    predictions = probs.argmax(1)
    return dict(
        library=packages[0], accuracy=float((predictions == labels).mean()),
        macro_f1=float(f1_score(labels, predictions, average="macro")), ece=float(ece(probs, labels)),
        ms=round(float(said.stdout.split()[-1]), 2), megabytes=megabytes,
    )  # fmt: skip


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("peers", nargs="*", help=f"one or several of {', '.join(PEERS)}; none: all")
    words.add_argument("--data", help="the archive; without it $FER2013, else synthetic faces")
    words.add_argument("--split", default="PublicTest")
    asked = words.parse_args()
    if unknown := set(asked.peers) - set(PEERS):
        words.error(f"there is no {', '.join(unknown)}; there are {', '.join(PEERS)}")
    data = load_data(asked.data)
    split = data.splits[asked.split]
    file = models_dir() / "peers.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for peer in asked.peers or PEERS:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(peer, split.images, split.labels, Path(folder))
        row |= dict(n=len(split.labels), fingerprint=data.fingerprint, processor=cpu_name())
        print(json.dumps({peer: {asked.split: row}}, indent=1), flush=True)
        found.setdefault(peer, {})[asked.split] = row
    if not data.synthetic:
        with atomic_write(file) as path:
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
