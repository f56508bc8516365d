"""LICENCES.md: what is installed together with fer_nb, and under which licence."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HEAD = """# Licences

fer_nb is under the [Apache License 2.0](LICENSE), and so are its trained models. The face detectors, `face_short.onnx`
and `face_full.onnx`, are MediaPipe's (Copyright 2019–2021 The MediaPipe Authors, Apache-2.0), written in another format
by notebook 67. EfficientNet-Lite0's weights, with which the training of EfficientNet-B0 began, come inside a package
of their own (Apache-2.0). No image of a data set is part of fer_nb.

This is what pip installs along with it, with the versions of `constraints.txt` on Linux and Python {python};
`make licences` writes this page. A product that ships them has to pass on their notices.
"""
GROUPS = {
    "": "For recognition", "video": "More for videos", "serve": "More for the service", "app": "More for the app",
    "scale": "More for clusters", "train": "More for training and the notebooks",
}  # fmt: skip


def needed(name, extra, seen):
    "Add to `seen` the names of all packages that one with an extra installs, its own included."
    name = re.sub(r"[-_.]+", "-", name).lower()
    if (name, extra) in seen:
        return
    try:
        wanted = distribution(name).requires or []
    except PackageNotFoundError:  # for another system
        return
    seen.add((name, extra))
    for one in map(Requirement, wanted):
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            for more in ("", *one.extras):
                needed(one.name, more, seen)


def main():
    listed = {"fer-nb"}
    out = [HEAD.format(python=".".join(map(str, sys.version_info[:2])))]
    for extra, title in GROUPS.items():
        found = set()
        needed("fer_nb", extra, found)
        names = {name for name, _ in found} - listed
        listed |= names
        command = ["pip-licenses", "--from=mixed", "--with-urls", "--format=markdown", "--packages", *sorted(names)]
        table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        table = re.sub(r"^\| +\| .*\n", "", table, flags=re.M)  # of a licence that stands there in full, the first line
        out.append(f"## {title}\n\n" + re.sub(r" +\|", " |", re.sub(r"-{3,}", "---", table)))
    Path(__file__).parent.parent.joinpath("LICENCES.md").write_text("\n".join(out), encoding="utf-8")


if __name__ == "__main__":
    main()
