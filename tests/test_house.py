"""The house: a module a notebook, imports downwards, small modules and cells, outputs that are what the cells give."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import notebooks as runner
import pytest
from nbdev.clean import nbdev_clean

ROOT = Path(__file__).parent.parent
MAX_MODULE, MAX_CELL = 450, 30  # lines
#: (notebook, first name defined in the cell) -> why it may be longer than MAX_CELL
LONG_CELLS: dict[tuple[str, str], str] = {
    ("02_runtime", "OnnxClassifier"): "one dataclass",
    ("72_inference", "Result"): "one dataclass",
    ("72_inference", "EmotionRecognizer"): "one class, so that help and type checkers see all ways to call it",
    ("75_video_reader", "VideoReader"): "one class, whose passes share one open file",
    ("78_video_output", "VideoWriter"): "one class, whose streams are written in turns",
    ("76_distributed", "_before"): "imports, between what has to be set before and after Ray's",
}
#: notebooks that take seconds, compared with their committed outputs here too; `make test` compares all of them
CHEAP = ("00_core", "92_commands")


# --- what a tree of notebooks says ---


class Notebook:
    "A notebook, read for its number, its module, its exported cells and what they import."

    def __init__(self, file):
        self.file, self.name = file, file.stem
        self.number = int(file.name[:2])
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        self.code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found = (re.search(r"^#\| *default_exp +(\S+)", source, re.M) for source in self.code)
        self.module = next((match[1] for match in found if match), None)
        self.exported = [s for s in self.code if re.search(r"^#\| *export", s, re.M)]

    def imports(self):
        "The modules of fer_nb that exported cells import, wherever in the cell; and whether only for type checkers."
        for source in self.exported:
            tree = ast.parse(re.sub(r"^[%!].*", "", source, flags=re.M))
            guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
            typing = {id(inner) for guard in guards for inner in ast.walk(guard)}
            for node in ast.walk(tree):
                if id(node) in typing:
                    continue
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fer_nb":
                    yield from ({f"{node.module}.{alias.name}"[7:] for alias in node.names})
                elif isinstance(node, ast.Import):
                    yield from (alias.name[7:] for alias in node.names if alias.name.startswith("fer_nb."))


def read_notebooks(root):
    return [Notebook(file) for file in sorted((root / "nbs").glob("[0-9]*.ipynb"))]


def edges(notebooks):
    "(notebook, notebook that it imports): the longest module name that an import begins with."
    by_module = {n.module: n for n in notebooks if n.module}
    for notebook in notebooks:
        targets = {}
        for name in sorted(set(notebook.imports())):
            parts = name.split(".")
            ends = (".".join(parts[:k]) for k in range(len(parts), 0, -1))
            if (target := next((by_module[end] for end in ends if end in by_module), None)) and target is not notebook:
                targets[target.name] = target
        yield from ((notebook, target) for target in targets.values())


def upward_imports(notebooks):
    return [f"{a.name} imports {b.name}" for a, b in edges(notebooks) if b.number >= a.number]


def cycles(notebooks):
    "Circles among modules, each once, as `a → b → a`."
    targets = {}
    for a, b in edges(notebooks):
        targets.setdefault(a.name, set()).add(b.name)
    found, done = set(), set()

    def visit(name, path):
        if name in path:
            circle = path[path.index(name) :]
            least = circle.index(min(circle))
            found.add(" → ".join([*circle[least:], *circle[:least], circle[least]]))
        elif name not in done:
            for target in sorted(targets.get(name, ())):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(targets):
        visit(name, [])
    return sorted(found)


def long_cells(notebooks, allowed):
    "Exported cells that are too long and not named; and names that are no longer needed."
    found, used = [], set()
    for notebook in notebooks:
        for source in notebook.exported:
            lines = [line for line in source.strip().splitlines() if not line.startswith("#|")]
            kinds = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
            named = [n for n in ast.parse(source).body if isinstance(n, kinds)]
            if not named:  # imports, which stand in cells of their own
                continue
            first = getattr(named[0], "name", None) or ast.unparse(getattr(named[0], "targets", [named[0]])[0])
            if len(lines) > MAX_CELL:
                used.add((notebook.name, first))
                if (notebook.name, first) not in allowed:
                    found.append(f"{notebook.name}: {first}: {len(lines)} lines")
    return found + [f"{name} is short enough: take it out of the table" for name in set(allowed) - used]


def long_modules(root):
    files = (file for file in (root / "fer_nb").rglob("*.py") if file.name != "_modidx.py")
    lines = {file.relative_to(root): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return [f"{file}: {n} lines" for file, n in sorted(lines.items()) if n > MAX_MODULE]


def orphans(root):
    "Modules whose notebook is gone, or exports something else; two notebooks with one number or one module."
    notebooks, found = read_notebooks(root), []
    for file in sorted((root / "fer_nb").rglob("*.py")):
        named = re.search(r"File to edit: (\S+\.ipynb)", file.read_text(encoding="utf-8"))
        if named and not (file.parent / named[1]).resolve().is_file():
            found.append(f"{file.relative_to(root)} names {named[1]}, which is not there")
    for kind in ("number", "module"):
        values = [getattr(n, kind) for n in notebooks if getattr(n, kind) is not None]
        twice = sorted({value for value in values if values.count(value) > 1})
        found += [f"two notebooks have the {kind} {value}" for value in twice]
    return found


# --- this house ---


NOTEBOOKS = read_notebooks(ROOT)


def test_imports_go_to_lower_numbers():
    found = upward_imports(NOTEBOOKS)
    assert not found, "\n".join(found)


def test_no_module_imports_itself_through_others():
    found = cycles(NOTEBOOKS)
    assert not found, "\n".join(found)


def test_modules_are_short():
    found = long_modules(ROOT)
    assert not found, "\n".join(found)


def test_exported_cells_are_short():
    assert all(reason for reason in LONG_CELLS.values())
    found = long_cells(NOTEBOOKS, LONG_CELLS)
    assert not found, "\n".join(found)


def test_every_module_is_that_of_one_notebook():
    found = orphans(ROOT)
    assert not found, "\n".join(found)


def test_imports_stand_in_cells_of_their_own():
    plain = ast.Import, ast.ImportFrom, ast.If, ast.Expr, ast.Assign  # If: for type checkers; Expr: docstrings, calls
    found = []
    for notebook in NOTEBOOKS:
        for source in notebook.exported:
            body = ast.parse(re.sub(r"^[%!].*", "", source, flags=re.M)).body
            if any(isinstance(node, plain[:2]) for node in body) and not all(isinstance(node, plain) for node in body):
                found.append(notebook.name)
    assert set(found) <= {"76_distributed"}  # which sets things before and after the import of Ray


def test_public_functions_say_what_they_return():
    found = []
    for file in (ROOT / "fer_nb").rglob("*.py"):
        for body in [tree := ast.parse(file.read_text(encoding="utf-8")), *ast.walk(tree)]:
            if isinstance(body, ast.Module | ast.ClassDef):
                functions = (n for n in body.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
                found += [f"{file.name}: {n.name}" for n in functions if n.returns is None and n.name[0] != "_"]
    assert not found, "\n".join(sorted(set(found)))


# --- the checks themselves, on a tree made for them ---


def notebook(root, name, *cells, module=None):
    "Write a notebook of code cells, and the module it would make."
    head = [f"#| default_exp {module}"] if module else []
    (root / "nbs").mkdir(exist_ok=True)
    cells = [{"cell_type": "code", "source": [cell], "outputs": []} for cell in (*head, *cells)]
    (root / "nbs" / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
    if module:
        file = root / "fer_nb" / f"{module.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (module.count(".") + 1)
        file.write_text(f"# AUTOGENERATED! DO NOT EDIT! File to edit: {up}nbs/{name}.ipynb.\n")


def test_the_checks_find_what_they_look_for(tmp_path):
    lines = "\n".join(f"    a{i} = {i}" for i in range(MAX_CELL))
    notebook(tmp_path, "00_core", "#| export\nX = 1", module="core")
    notebook(tmp_path, "10_load", "#| export\nfrom fer_nb.core import X", module="data.load")
    found = read_notebooks(tmp_path)
    assert not upward_imports(found) and not cycles(found) and not orphans(tmp_path)
    inside = "#| export\ndef late():\n    from fer_nb.video import watch\n"
    notebook(tmp_path, "20_look", "from fer_nb.video import watch", inside, module="look")
    notebook(tmp_path, "30_video", "#| export\nimport fer_nb.look", "#| export\ndef long():\n" + lines, module="video")
    found = read_notebooks(tmp_path)
    assert upward_imports(found) == ["20_look imports 30_video"]
    assert cycles(found) == ["20_look → 30_video → 20_look"]
    assert long_cells(found, {}) == [f"30_video: long: {MAX_CELL + 1} lines"]
    assert long_cells(found, {("30_video", "long"): "a table"}) == []
    assert "take it out" in long_cells(found, {("30_video", "long"): "a table", ("20_look", "late"): "none"})[0]
    (tmp_path / "fer_nb" / "look.py").write_text("\n" * (MAX_MODULE + 1))
    assert long_modules(tmp_path) == [f"fer_nb/look.py: {MAX_MODULE + 1} lines"]
    (tmp_path / "nbs" / "10_load.ipynb").rename(tmp_path / "nbs" / "30_load.ipynb")
    assert orphans(tmp_path) == [
        "fer_nb/data/load.py names ../../nbs/10_load.ipynb, which is not there", "two notebooks have the number 30",
    ]  # fmt: skip


def test_imports_for_type_checkers_may_go_anywhere(tmp_path):
    typed = "#| export\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fer_nb.video import watch"
    notebook(tmp_path, "00_core", typed, module="core")
    notebook(tmp_path, "30_video", module="video")
    assert upward_imports(read_notebooks(tmp_path)) == []


# --- freshness ---


@pytest.mark.parametrize("name", CHEAP)
def test_committed_outputs_are_those_of_today(name):
    command = [sys.executable, runner.__file__, ROOT / "nbs" / f"{name}.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_outputs_hold_no_warnings_and_no_paths_of_a_machine():
    for file in (ROOT / "nbs").glob("*.ipynb"):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            outputs = cell.get("outputs", [])
            assert not [out for out in outputs if out.get("name") == "stderr"], (file.name, cell["id"])
            for foreign in (str(ROOT), "site-packages/"):
                assert foreign not in json.dumps(outputs), (file.name, cell["id"], foreign)


def test_what_is_the_same_and_what_is_not():
    for old, new in (
        ("accuracy 67.1%", "accuracy 67.1%"), ("3.1 ms a face", "12.7 ms a face"), ("71 images/s", "90 images/s"),
        ("in /tmp/tmpab12cd34/a.csv", "in /home/me/x/a.csv"), ("<T at 0x7f0a12345678>", "<T at 0x7f0b12345678>"),
        ("0.1234", "0.1235"), ("took 12 s", "took 9 s"), ("gap 3e-07", "gap 8e-07"), ("(raylet) 8 workers", ""),
        ("| a  | 3.1 |", "| a | 3.1 |"), ("0.52931517", "0.52931529"), ("0.99931", "1.00012"),
    ):  # fmt: skip
        assert runner.same(old, new), (old, new)
    for old, new in (
        ("accuracy 67.1%", "accuracy 68.9%"), ("28,709 faces", "28,708 faces"), ("happy", "sad"), ("a\nb", "a"),
        ("epoch 3 of 9", "epoch 4 of 9"), ("Kept in /tmp/a.csv", "Kept in /tmp/b.csv"), ("", "a warning"),
        ("0.52931517", "0.52831529"),
    ):  # fmt: skip
        assert not runner.same(old, new), (old, new)
    assert runner.same("accuracy 67.1%", "accuracy 68.9%", numbers=False)
    assert not runner.same("0.1234", "0.1235", near=str.__eq__)
    assert runner.same("took 12 s", "took 9 s", near=str.__eq__)
    assert not runner.same("7 a", "7 b", numbers=False)


def test_a_stale_cell_is_found_and_a_fresh_one_is_not(tmp_path):
    def cell(name, source, text):
        outputs = [{"output_type": "stream", "name": "stdout", "text": [text]}] if text else []
        return dict(cell_type="code", id=name, metadata={}, execution_count=None, source=[source], outputs=outputs)

    cells = [
        cell("fresh000", "print(2 + 2)", "4\n"), cell("stale000", "print('a dog')", "a cat\n"),
        cell("timed000", "import time; print(f'{time.time():.1f} seconds')", "1.5 seconds\n"),
        cell("speed000", "print(time.time())", "1.5\n"),
        cell("trains00", "def train(n): return n\nloss = train(2)", ""), cell("chaos000", "print(loss)", "3\n"),
        cell("silent00", "#| eval: false\nprint('never')", "yesterday\n"), cell("photos00", "x = None", "18 of 18\n"),
        cell("worded00", "print(f'about {time.time()}')", "around 1.5\n"),
    ]  # fmt: skip
    for measured in (cells[3], *cells[-2:]):
        measured["metadata"] = {"tags": ["measured"]}
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    shutil.copy(ROOT / "settings.ini", tmp_path)  # cells may have tags
    file = tmp_path / "00_trial.ipynb"
    file.write_text(json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)))
    done = subprocess.run([sys.executable, runner.__file__, file], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "-a cat" in done.stdout and "+a dog" in done.stdout, done.stdout + done.stderr
    assert "-around 1.5" in done.stdout and "2 outputs are stale" in done.stdout, done.stdout
    assert not any(name in done.stdout for name in ("fresh000", "speed000", "photos00"))
    assert runner.chaotic_cells(cells) == {"trains00", "chaos000"}
    subprocess.run([sys.executable, runner.__file__, "--write", file], check=True, capture_output=True, cwd=ROOT)
    assert subprocess.run([sys.executable, runner.__file__, file], capture_output=True, cwd=ROOT).returncode == 0


def test_a_cell_that_gives_nothing_any_more_is_stale(tmp_path, monkeypatch):
    cells = [{"cell_type": "code", "execution_count": None, "id": f"{i}0000000", "metadata": {}, "source": source,
              "outputs": [{"name": "stdout", "output_type": "stream", "text": "2\n"}]}
             for i, source in enumerate(("print(2)", "x = 2"))]  # fmt: skip
    file = tmp_path / "00_made.ipynb"
    file.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    monkeypatch.setenv("FER2013", "anything")
    code = f"import notebooks; print(notebooks.run({str(file)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests")
    assert "'10000000'" in done.stdout and "'00000000'" not in done.stdout, done.stdout + done.stderr


def test_a_notebook_with_a_new_picture_is_written_clean(tmp_path):
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    cell = {"cell_type": "code", "execution_count": 3, "id": "drawn000", "metadata": {}, "source": source}
    file = tmp_path / "00_drawn.ipynb"
    file.write_text(json.dumps({"cells": [cell | {"outputs": []}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    subprocess.run([sys.executable, runner.__file__, "--write", file], check=True, capture_output=True, cwd=ROOT)
    written = file.read_bytes()
    assert b"image/png" in written
    nbdev_clean(fname=file)
    assert file.read_bytes() == written
