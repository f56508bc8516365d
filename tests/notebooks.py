"""Run the notebooks as nbdev_test does, and compare what they print with what is committed.

    python tests/notebooks.py                 # all, two at a time: what `make test` does
    python tests/notebooks.py nbs/00_core.ipynb nbs/9*.ipynb
    python tests/notebooks.py --write nbs/00_core.ipynb      # keep the new outputs that differ

Compared are printed text, values and Markdown; not times, paths, pictures, HTML. Of a cell with the tag "measured" only
the words: its numbers are speeds, or from photos that are not here. Outputs are committed as they are with FER2013.
Without FER2013 a notebook that reads data is not compared, and numbers may differ in the others. Another processor
rounds otherwise: numbers are the same to three digits, and those of a cell that trains, or that uses what such a cell
made, are not compared.
"""

import argparse
import ast
import difflib
import os
import re
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMBER = r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
#: a line that says so is about time or speed, or about the machine: its numbers are this run's
TIMED = (
    r"\b(ms|seconds?|secs?|minutes?|hours?|times as (fast|long|much|quick)|faster|slower|(images|photos|frames)/s|"
    r"GFLOP|a second|per second|s/it|it/s|speed(up)?|milliseconds?|cores?|threads?|VNNI|AVX\d?|EPYC|Xeon)\b"
    r"|\d ?s\b|_ms'|'ms_"
)
#: what trains
TRAINS = r"\b(train|fit|make_learner|reproduce|baseline_loop)\(|\bbackward\(|autocast"
#: what reads the data set, or is made from what does
DATA = r"\bload_data\(|FER2013|\bdata = |default_data"


def plain(text):
    "A text without what differs from run to run and from place to place."
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^\((raylet|\w+ pid=)[^)]*\).*\n?", "", text, flags=re.M)  # Ray, of the machine
    text = re.sub(r"^epoch +\d+/\d+ .*\n?", "", text, flags=re.M)  # a training says some, by the clock
    text = re.sub(r"(\w+ )?(at )?0x[0-9a-fA-F]{6,}", "0x", text)
    text = re.sub(r"(?<![\w:/])(?:~|\.\.|[A-Za-z]:)?/(?:[\w.@+-]+/)+([\w.@+-]*)", r"PATH/\1", text)  # the name stays
    text = re.sub(r"\btmp\w{6,}\b", "TMP", text)
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "HASH", text)
    text = re.sub(r"\b20\d\d-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?\b", "DATE", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def close(a, b):
    "Whether two printed numbers are the same but for rounding: one in the last decimal or 0.1%, ten times for 3e-07."
    x, y = (abs(float(s.replace(",", "").replace("−", "-"))) for s in (a, b))
    if "e" in a or "e" in b:
        return max(x, y) <= 10.01 * min(x, y) or max(x, y) < 1e-6
    return a == b or ("." in a and abs(x - y) <= max(1.5 * 10.0 ** -len(a.partition(".")[2]), 1e-3 * x))


def same(old, new, numbers=True, near=close):
    "Whether two outputs say the same; `numbers` False: whatever their numbers are; `near`: when two numbers are one."
    a, b = plain(old).splitlines(), plain(new).splitlines()
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        words = [re.sub(r"\s+|-{3,}", " ", re.sub(NUMBER, "#", line)) for line in (x, y)]
        if words[0] != words[1]:
            return False
        if numbers and not re.search(TIMED, x):
            if not all(near(p, q) for p, q in zip(re.findall(NUMBER, x), re.findall(NUMBER, y), strict=True)):
                return False
    return True


def printed(cell):
    "The text that a cell printed or gave, without pictures and HTML."
    text = []
    for out in cell.get("outputs", []):
        if out.get("output_type") == "stream":
            text += [out["text"]] if out.get("name") == "stdout" else []
        else:
            data = out.get("data", {})
            if not any(kind.startswith(("image/", "text/html", "application/")) for kind in data):
                text.append(data.get("text/markdown", data.get("text/plain", "")))
    return "\n".join("".join(part) for part in text).strip()


def pictures(cell):
    "What an output shows besides text."
    shown = [item for out in cell.get("outputs", []) for item in out.get("data", {}).items()]
    return ["".join(data).rstrip() for kind, data in shown if kind.startswith(("image/", "text/html"))]


def stale_cells(before, after, numbers=True):
    "(cell id, difference) of every code cell whose text is another now."
    old, found, chaotic = {c["id"]: c for c in before}, [], chaotic_cells(before)
    for cell in after:
        known = old.get(cell["id"], {})
        if cell["cell_type"] != "code" or "ran" not in cell:
            continue
        a, b, measured = printed(known), printed(cell), "measured" in known.get("metadata", {}).get("tags", [])
        if measured and not b:  # its photos are not here
            continue
        if not same(a, b, numbers and not measured and cell["id"] not in chaotic):
            lines = difflib.unified_diff(a.splitlines(), b.splitlines(), "committed", "now", lineterm="", n=0)
            found.append((cell["id"], "\n".join(lines)))
    return found


def chaotic_cells(cells):
    "Ids of the code cells that train or use what such a cell made: a rounding error in a training grows."
    names, found = set(), set()
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        try:
            nodes = list(ast.walk(ast.parse(re.sub(r"(?m)^\s*[%!].*", "pass", source))))
        except SyntaxError:
            continue
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        if re.search(TRAINS, source) or used & names:
            found.add(cell["id"])
            names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found


def run(file, write=False):
    "Run a notebook: seconds, the error or an empty string, the cells that are stale."
    import json

    from execnb.nbio import dict2nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.clean import nbdev_clean
    from nbdev.config import get_config
    from nbdev.process import NBProcessor

    file, start = Path(file).resolve(), time.time()
    os.environ["IN_TEST"] = "1"  # nbdev_export() in the last cell does nothing
    sys.path.insert(0, str(ROOT))
    os.chdir(file.parent)
    raw = json.loads(file.read_text(encoding="utf-8"))
    before = raw["cells"]
    nb = NBProcessor(file, process=True).nb
    flags = set(get_config().tst_flags.split())

    def skipped(cell):
        directives = getattr(cell, "directives_", {}) or {}
        off = directives.get("eval:", [""])[0].lower() == "false" or flags & directives.keys()
        return cell.cell_type != "code" or "nbdev_export(" in cell.source or off

    for cell in nb.cells:  # execnb leaves the outputs of a cell that gives none any more
        if cell.cell_type == "code":
            cell.outputs = []
    shell = CaptureShell(file, mpl_format="png")
    try:
        shell.run_all(nb, exc_stop=True, preproc=skipped, postproc=lambda cell: cell.update(ran=True))
    except BaseException:
        return time.time() - start, shell.prettytb(fname=file) or traceback.format_exc(), []
    source, has_data = "\n".join(cell.source for cell in nb.cells), bool(os.environ.get("FER2013"))
    comparable = has_data or not re.search(DATA, source)
    stale = stale_cells(before, nb.cells, numbers=has_data) if comparable else []
    if write:  # outputs alone: NBProcessor has taken the directives out of the sources
        ran = {cell.id: cell for cell in nb.cells if cell.get("ran") and cell.cell_type == "code"}
        for cell in before:  # one that says and shows the same keeps its output: no difference for a time or a path
            new = ran.get(cell["id"], cell)
            unchanged = same(printed(cell), printed(new), near=str.__eq__) and pictures(cell) == pictures(new)
            elsewhere = "measured" in cell["metadata"].get("tags", []) and not new.get("outputs")
            kept = cell if unchanged or elsewhere else new
            if "outputs" in kept:  # warnings name the paths of this machine
                cell["outputs"] = [out for out in kept["outputs"] if out.get("name") != "stderr"]
        write_nb(dict2nb(raw), file)
        nbdev_clean(fname=file)
    return time.time() - start, "", stale


def run_alone(file, write):
    "`run` in a process of its own: what another notebook drew, set or imported does not count, nor that it crashed."
    work = import_module("notebooks").run  # a notebook's shell takes the place of __main__
    start = time.time()
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(work, file, write).result()
        except BrokenProcessPool:
            return time.time() - start, "Its process ended without a word: out of memory, or a crash.", []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="notebooks; without them all")
    parser.add_argument("--workers", type=int, default=2, help="how many run at a time")
    parser.add_argument("--write", action="store_true", help="keep the new outputs")
    options = parser.parse_args()
    files = [file.resolve() for file in options.files or sorted((ROOT / "nbs").glob("*.ipynb"))]
    took, failed, stale = {}, [], 0
    with ThreadPoolExecutor(max(1, options.workers)) as pool:
        results = pool.map(run_alone, files, [options.write] * len(files))
        for file, (seconds, error, cells) in zip(files, results, strict=True):
            took[file.name] = seconds
            if error:
                failed.append(file.name)
                print(f"{file.name} fails:\n{error}", flush=True)
            for cell, difference in [] if options.write else cells:
                stale += 1
                print(f"{file.name}, cell {cell}: its committed output is stale\n{difference}\n", flush=True)
    for name, seconds in sorted(took.items(), key=lambda kv: -kv[1]):
        print(f"{seconds:5.0f} s  {name}")
    if stale:
        print(f"{stale} outputs are stale. Keep the new ones: python tests/notebooks.py --write FILE")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed or stale))


if __name__ == "__main__":
    sys.exit(main())
