"The package is described in settings.ini, which nbdev and pip both read; this file only translates it."

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
EXTRAS = "video", "serve", "train", "app", "scale", "notebooks", "dev"
extras = {name: cfg[f"{name}_requirements"].split() for name in EXTRAS}
extras["app"] += extras["video"]
extras["notebooks"] += extras["train"] + extras["app"] + extras["scale"] + extras["serve"]
extras["dev"] += extras["notebooks"]
# a package's page shows the README too, where links within the repository would lead nowhere
readme = (here / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{cfg['git_url']}/raw/main/", readme)
readme = re.sub(r"\]\((?!https?:|#)", f"]({cfg['git_url']}/blob/main/", readme)


class WithPage(build_py):
    "app.py and its settings lie at the top of the tree and travel inside the package."

    def run(self):
        super().run()
        if not self.editable_mode:
            for file in ("app.py", ".streamlit/config.toml"):
                target = Path(self.build_lib, "fer_nb", "page", file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here / file, target)


setup(
    cmdclass={"build_py": WithPage},
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme,
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    license_files=["LICENSE", "LICENCES.md"],
    url=cfg["git_url"],
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
        "Changes": f"{cfg['git_url']}/blob/main/CHANGELOG.md",
    },
    keywords=cfg["keywords"].split(),
    # the trained models and their figures lie in models/ at the top of the tree and travel inside the package
    packages=[*find_packages(include=["fer_nb", "fer_nb.*"]), "fer_nb.weights"],
    package_dir={"fer_nb.weights": "models"},
    package_data={
        "fer_nb": ["py.typed", *(f"**/*.{kind}" for kind in ("css", "html", "js", "json", "md", "svg"))],
        "fer_nb.weights": ["*.onnx", "*.md", "results.json", "peers.json", "plan.ini", "runs.csv"],
    },
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
