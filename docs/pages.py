"""The pages of the documentation, made in memory for MkDocs; run alone, README.md from nbs/index.ipynb.

README.md is the front page, every notebook a page with its outputs, every module a page of its public names: how it is
called, docstring, and the comments beside its parameters as a table. Nothing is executed, no PyTorch imported. The list
of notebooks in the README and the map in CONTRIBUTING.md are made here from the notebooks' titles.
"""

import ast
import base64
import io
import posixpath
import re
import tokenize
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
SOURCE = "https://github.com/fer-nb/fer_nb/blob/main/"
#: links to files that are no pages of the site
IN_REPOSITORY = r"\]\((?:\.\./)?(LICENSE|Dockerfile|CITATION\.cff|\w+\.(?:py|ini))\)"
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
CARDS = sorted((ROOT / "models").glob("*.md"))
TEXTS = ("CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md", "LICENCES.md")
#: the learner's path, by name without number: read in order they are a course; all other notebooks are for looking up
PATH = set(
    "core data_exploration augmentation class_weights calibration training ablation custom_cnn mobilenet_v3 "
    "efficientnet_b0 resnet18 evaluation label_noise robustness export faces inference video_tracking app".split()
)
#: what the notebooks of a decade are about
DECADES = {
    "0": "basics that all modules use", "1": "data", "2": "from a stored face to a training", "3": "figures and plots",
    "4": "training", "5": "the models", "6": "evaluation and what ships", "7": "recognition", "8": "the app and speed",
    "9": "the command line",
}  # fmt: skip
PICTURES = {"image/png": "png", "image/jpeg": "jpg"}


# --- a notebook as Markdown ---


def module_of(notebook):
    "The module a notebook exports to, `data.load` for instance; None for one that exports nothing."
    cells = nbformat.read(notebook, 4).cells
    return next((m[1] for c in cells if (m := re.search(r"^#\| *default_exp +([\w.]+)", c.source, re.M))), None)


def imported_as(module):
    "The name a module is imported by."
    return "fer_nb" if module == "__init__" else f"fer_nb.{module}"


def is_on_path(notebook):
    "Whether a notebook belongs to the learner's path."
    return notebook.stem[3:] in PATH


def heading(notebook):
    "Title and subtitle of a notebook."
    lines = nbformat.read(notebook, 4).cells[0].source.splitlines()
    return lines[0].removeprefix("# "), next((line[2:] for line in lines if line.startswith("> ")), "")


def page(notebook, prose=str):
    "A notebook as Markdown, and the pictures in it (name -> bytes); `prose` may change the text between the code."
    out, pictures = [], {}
    for i, one in enumerate(nbformat.read(notebook, 4).cells):
        if re.search(r"^#\| *(hide|default_exp)\b", one.source, re.M) or not one.source.strip():
            continue
        if one.cell_type == "markdown":
            out.append(prose(one.source))
            continue
        code = re.sub(r"^#\|.*\n?", "", one.source, flags=re.M).strip()
        if "remove_input" not in one.metadata.get("tags", []):
            out.append(f"```python\n{code}\n```")
        said = re.search(r"^#\| *fig-alt: *(.*)", one.source, re.M)
        for j, o in enumerate(one.outputs):
            out.append(output(o, f"{notebook.stem}_{i}_{j}", pictures, said[1] if said else "drawn by the code above"))
    return "\n\n".join(filter(None, out)) + "\n", pictures


def output(one, name, pictures, alt):
    "What a cell printed, drew or gave back, as Markdown; a picture is put into `pictures`."
    data = one.get("data", {})
    if kind := next((kind for kind in PICTURES if kind in data), None):
        pictures[f"{name}.{PICTURES[kind]}"] = base64.b64decode(data[kind])
        return f"![{alt}]({name}.{PICTURES[kind]})"
    if "text/html" in data:
        return f'<div class="output">\n{data["text/html"]}\n</div>'
    if "text/markdown" in data:
        return re.sub("^#", "###", data["text/markdown"], flags=re.M)  # its headings below those of the notebook
    text = re.sub(r"\x1b\[[0-9;]*m", "", one.get("text") or data.get("text/plain", "")).rstrip()
    return f"```text\n{text}\n```" if text else ""


def notebook_list(path):
    "The notebooks of the learner's path (True), or those for looking up, as a Markdown table."
    rows = []
    for notebook in NOTEBOOKS:
        if is_on_path(notebook) == path:
            title, subtitle = heading(notebook)
            rows.append(f"| [{notebook.stem[:2]} {title}]({notebook.name}) | {subtitle} |")
    return "\n".join(["| notebook | |", "| --- | --- |", *rows])


def house_map():
    "All notebooks and their modules in decades, as a Markdown table; the learner's path in bold."
    lines, decade = ["| notebook | module | what is there |", "| --- | --- | --- |"], ""
    for notebook in NOTEBOOKS:
        (title, _), mark = heading(notebook), "**" if is_on_path(notebook) else ""
        module = f"`{module_of(notebook)}`" if module_of(notebook) else ""
        if notebook.stem[0] != decade:
            decade = notebook.stem[0]
            lines.append(f"| *{decade}0–{decade}9* | | *{DECADES[decade]}* |")
        lines.append(f"| {mark}[{notebook.stem}](nbs/{notebook.name}){mark} | {module} | {title} |")
    return "\n".join(lines)


def write_map():
    "The map in CONTRIBUTING.md, between its two marks."
    file = ROOT / "CONTRIBUTING.md"
    text = file.read_text(encoding="utf-8")
    between = re.compile(r"(<!-- map[^\n]*-->\n).*(<!-- end of the map -->)", re.S)
    text = between.sub(lambda marks: f"{marks[1]}{house_map()}\n{marks[2]}", text)
    file.write_text(text, encoding="utf-8")


def write_readme():
    "README.md, its pictures in nbs/images, its links as seen from the top of the tree."
    text, pictures = page(ROOT / "nbs/index.ipynb")
    for old in (ROOT / "nbs/images").glob("index_*"):
        old.unlink()
    for name, content in pictures.items():
        (ROOT / "nbs/images" / name).write_bytes(content)
        text = text.replace(f"]({name})", f"](images/{name})")
    text = re.sub(r"\]\((?!https?:|#)([^)]*)\)", lambda m: f"]({posixpath.normpath('nbs/' + m[1])})", text)
    (ROOT / "README.md").write_text(text, encoding="utf-8")


# --- the library, read from its source ---


def comments(source):
    "Line -> the comment on it; `#:` comments stand above what they describe and belong to the line below."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text, line = token.string.lstrip("#:").strip(), token.start[0]
            if token.string.startswith("#:"):
                text, line = f"{found.pop(line, '')} {text}".strip(), line + 1
            found[line] = text
    return found


def in_code(node):
    "A piece of source in code signs; nothing for nothing."
    return f"`{ast.unparse(node)}`" if node else ""


def table(rows):
    "Rows of name, type, default and meaning as a Markdown table; columns that nobody uses are left out."
    used = [i for i in range(4) if i == 0 or any(row[i] for row in rows)]
    head = [("", "type", "default", "meaning")[i] for i in used]
    # outside of code a bar would begin another column, and a tag vanish
    signs = {"|": "\\|", "<": "&lt;"}
    rows = [[re.sub(r"(`[^`]*`)|[|<]", lambda m: m[1] or signs[m[0]], text) for text in row] for row in rows]
    lines = [head, ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def arguments(function):
    "(name as written, argument, default or None) of a function, without self."
    a = function.args
    plain = a.posonlyargs + a.args
    every = list(zip([x.arg for x in plain], plain, [None] * (len(plain) - len(a.defaults)) + a.defaults, strict=True))
    every += [(f"*{a.vararg.arg}", a.vararg, None)] if a.vararg else []
    every += [(x.arg, x, d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    every += [(f"**{a.kwarg.arg}", a.kwarg, None)] if a.kwarg else []
    return [one for one in every if one[0] not in ("self", "cls")]


def parameters(function, said):
    "The rows of a function's table: what it takes and what it gives."
    last = function.returns.end_lineno if function.returns else function.body[0].lineno - 1
    rows = []
    for name, arg, default in arguments(function):
        line = (default or arg).end_lineno
        meaning = said.get(line, "") if line != last else ""
        rows.append((f"`{name}`", in_code(arg.annotation), in_code(default), meaning))
    given, meaning = in_code(function.returns), said.get(last, "").removeprefix("-> ")
    return rows + ([("*returns*", given, "", meaning)] if meaning or given not in ("", "`None`") else [])


def call(name, function):
    "How a function is called: names and defaults."
    names = [name + (f"={ast.unparse(default)}" if default else "") for name, _, default in arguments(function)]
    if function.args.kwonlyargs and not function.args.vararg:
        names.insert(len(names) - len(function.args.kwonlyargs) - bool(function.args.kwarg), "*")
    return f"{name}({', '.join(names)})"


def entry(node, said, owner=""):
    "A function, method or class: heading, call, docstring, table."
    name = f"{owner}.{node.name}" if owner else node.name
    marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
    if isinstance(node, ast.FunctionDef):
        how, rows = name if "property" in marks else call(name, node), parameters(node, said)
    elif start := next((n for n in node.body if getattr(n, "name", "") == "__init__"), None):
        how, rows = call(name, start), parameters(start, said)
    else:
        how = f"class {name}({', '.join(map(ast.unparse, node.bases))})".removesuffix("()")
        fields = [(n, n.target.id) for n in node.body if isinstance(n, ast.AnnAssign)]
        rows = [(f"`{f}`", in_code(n.annotation), in_code(n.value), said.get(n.end_lineno, "")) for n, f in fields]
    title = f"{'###' if owner else '##'} `{name}` {{ #{name.lower().replace('__', '')} }}"
    return [title, f"```python\n{how}\n```", ast.get_docstring(node) or "", table(rows)]


def api(module):
    "Name -> Markdown of everything public in a module, in its order."
    source = (ROOT / "fer_nb" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    said, found = comments(source), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name, parts = node.name, entry(node, said)
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and ast.get_docstring(method):
                    if method.name == "__call__" or not method.name.startswith("_"):
                        parts += entry(method, said, owner=name)
            first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
            code = "\n".join(f"    {line}" for line in source.splitlines()[first - 1 : node.end_lineno])
            parts.append(f'??? note "source"\n\n    ```python\n{code}\n    ```')
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.lineno in said:
            name = node.targets[0].id
            code = ast.get_source_segment(source, node)
            parts = [f"## `{name}` {{ #{name.lower()} }}", said[node.lineno], f"```python\n{code}\n```"]
        else:
            continue
        if not name.startswith("_"):
            found[name] = "\n\n".join(filter(None, parts))
    return found


def commands():
    "The command line's reference, from the commands themselves."
    import typer

    from fer_nb.cli import app

    def about(command, path):
        if hasattr(command, "commands"):
            return [part for name, one in command.commands.items() for part in about(one, f"{path} {name}")]
        rows = []
        for p in command.params:
            shown = [p.metavar or p.name] if p.param_type_name == "argument" else p.opts
            default = "" if p.default in (None, [], "") or p.default is False else f"`{p.default}`"
            rows.append((", ".join(f"`{one}`" for one in shown), "", default, p.help or ""))
        return [f"## `{path}`", command.help or "", table(rows)]

    return "\n\n".join(about(typer.main.get_command(app), "fer-nb"))


# --- what MkDocs calls ---


def on_config(config):
    "What there is to read, and in which order."
    def pages(path):
        return [{f"{n.stem[:2]} {heading(n)[0]}": f"nbs/{n.stem}.md"} for n in NOTEBOOKS if is_on_path(n) == path]

    modules = [{imported_as(m): f"api/{m}.md"} for m in map(module_of, NOTEBOOKS) if m]
    cards = [{"Models": [{c.stem: f"models/{c.name}"} for c in CARDS]}] if CARDS else []
    notebooks = [{"Learn": pages(True)}, {"Look up": pages(False)}]
    browser = {"In your browser": f"{config.site_url}browser/"}  # docs/browser is no page of MkDocs
    config.nav = ["index.md", browser, *notebooks, {"Library": modules}, *cards, {"About": list(TEXTS)}]
    return config


def linker(module, known):
    "A function that links the names in a notebook's prose to the library's pages, its own module's first."

    def link(match):
        name = match["name"]
        asked = match["module"] or ""
        places = [m for m in known if name in known[m] and (m == asked or m.endswith(f".{asked}") or not asked)]
        places = [module] if module in places else places  # a name of this very notebook
        return f"[{match[0]}](../api/{places[0]}.md#{name.lower()})" if len(places) == 1 else match[0]

    sign = r"(?<![\[`])`(?:fer_nb\.)?(?:(?P<module>[\w.]+)\.)?(?P<name>\w+)(?:\(\))?`(?!`)"
    # the badge leads from the site to Colab as a plain link
    return lambda text: re.sub(sign, link, re.sub(r"!\[(Open in Colab)\]\([^)]*\)", r"\1", text))


def on_files(files, config):
    "Every page and picture."
    from mkdocs.structure.files import File

    pages = {}
    known = {module: api(module) for module in map(module_of, NOTEBOOKS) if module and module != "cli"}
    for notebook in NOTEBOOKS:
        module, (title, subtitle) = module_of(notebook), heading(notebook)
        if module:
            told = f"Explained in [{title}](../nbs/{notebook.stem}.md)."
            text = "\n\n".join(known[module].values()) if module in known else commands()
            pages[f"api/{module}.md"] = f"# {imported_as(module)}\n\n{subtitle}\n\n{told}\n\n{text}"
        pages[f"nbs/{notebook.stem}.md"], pictures = page(notebook, linker(module, known))
        pages |= {f"nbs/{name}": content for name, content in pictures.items()}
    for source in (ROOT / "README.md", *(ROOT / name for name in TEXTS), *CARDS):
        name = str(source.relative_to(ROOT)).replace("README.md", "index.md")
        pages[name] = source.read_text(encoding="utf-8").replace("](README.md)", "](index.md)")
    for name, text in pages.items():
        if name.endswith(".md"):  # notebooks are pages here, and other files are in the repository
            text = re.sub(r"(\]\((?:\.\./)?(?:nbs/)?\w+)\.ipynb([)#])", r"\1.md\2", text)
            pages[name] = re.sub(IN_REPOSITORY, rf"]({SOURCE}\1)", text)
    for picture in (*(ROOT / "nbs/images").glob("*.*"), *(ROOT / "models").glob("*.png")):
        pages[str(picture.relative_to(ROOT))] = picture.read_bytes()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


if __name__ == "__main__":
    write_map()
    write_readme()
