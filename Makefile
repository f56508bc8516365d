# make app      the app at http://localhost:8501          make test   everything that CI checks
# make install  the environment in .venv, for developing   make lab    the notebooks in JupyterLab
# make docs     the documentation's site in _docs         make dist   wheel and sdist, each tried in an empty environment
# make readme   README.md, the map in CONTRIBUTING.md     make licences   LICENCES.md from what is installed
# make fuzz     bent files and command lines, an hour     make two    one training on two processes
# make models   the models that ship, by models/plan.ini: minutes on a GPU, days on two cores; FER2013 names the archive

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install app test lab readme docs licences dist fuzz two models

# the first Python from 3.10 to 3.12 that works (MediaPipe has no build for later ones); or make PYTHON=/path/to/python3.11
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
REQUIRED := settings.ini setup.py constraints.txt

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "fer_nb needs Python 3.10, 3.11 or 3.12 with its venv module (Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@echo "== making the environment in .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

# a stamp each, so that a second call starts at once
.venv/.app: $(REQUIRED) | $(BIN)/python
	@echo "== installing the library and the app (about 1 GB, a minute or two)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app]'
	@touch $@

.venv/.dev: $(REQUIRED) | $(BIN)/python
	@echo "== installing everything for training, notebooks and tests (PyTorch among it: several GB, some minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@if [ -e .git ]; then PATH=$$PWD/$(BIN):$$PATH $(BIN)/nbdev_install_hooks; fi
	@touch $@ .venv/.app

install: .venv/.dev
	@echo "== ready: .venv/bin/fer-nb, .venv/bin/python"

app: .venv/.app
	@$(BIN)/fer-nb app

lab: .venv/.dev
	@PATH=$$PWD/$(BIN):$$PATH $(BIN)/jupyter lab nbs

readme: .venv/.dev
	@$(BIN)/python docs/pages.py

licences: .venv/.dev
	@PATH=$$PWD/$(BIN):$$PATH python docs/licences.py

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/.dev
	@PYTHONPATH=. $(BIN)/mkdocs build --quiet --strict
	@if command -v npm > /dev/null; then bash docs/browser/build.sh _docs/browser; \
		else echo "== without npm: the networks of the page _docs/browser are missing"; fi
	@$(BIN)/pytest docs/test_site.py
	@echo "== the site is in _docs; to read it: $(BIN)/python -m http.server -d _docs"

dist: .venv/.dev
	@rm -rf dist build && $(BIN)/python -m build > /dev/null
	@bash .ci/try-dist "$(PYTHON)"

# one thread a notebook: two that share the cores with several threads each would wait for one another
test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = passive
test: export PATH := $(CURDIR)/$(BIN):$(PATH)
test: .venv/.dev
	@rm -rf .venv/before && mkdir .venv/before && cp -r nbs fer_nb README.md CONTRIBUTING.md .venv/before
	@echo "== notebooks clean, README.md and the map in CONTRIBUTING.md in sync with them?"
	@nbdev_clean && $(MAKE) --no-print-directory readme
	@diff -rq -x .ipynb_checkpoints .venv/before/nbs nbs && diff -q .venv/before/README.md README.md && diff -q .venv/before/CONTRIBUTING.md CONTRIBUTING.md || { echo "They were not, now they are: commit that."; exit 1; }
	@echo "== library in sync with the notebooks?"
	@nbdev_export && diff -rq -x __pycache__ .venv/before/fer_nb fer_nb || { echo "It was not; nbdev_export has written it anew: commit that."; exit 1; }
	@echo "== style (ruff), types (mypy)"
	@ruff check --quiet .
	@mypy
	@echo "== notebooks run, and their outputs are those of today?" && if [ -n "$${FER2013:-}" ]; then echo "on $$FER2013"; else echo "on synthetic faces (FER2013 is not set)"; fi
	@python tests/notebooks.py
	@echo "== command line, app, packaging (pytest)"
	@pytest --durations 5

fuzz: export OMP_NUM_THREADS = 1
fuzz: .venv/.dev
	@FUZZ=1 $(BIN)/pytest tests/test_fuzz.py tests/test_training.py tests/test_data.py -k 'bent or killed or lost or full_disk or the_pixels' -rA

# accelerate says multi_gpu for several processes, GPUs or not
two: export OMP_NUM_THREADS = 1
two: .venv/.dev
	@$(BIN)/accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
		$(BIN)/fer-nb train custom_cnn --epochs 1 --batch-size 32 --out runs/two

models: .venv/.dev
	@test -n "$(FER2013)" || { echo "make models FER2013=/path/to/fer2013.zip: the models are made from it."; exit 1; }
	@$(BIN)/fer-nb reproduce --data "$(FER2013)" --out runs/plan
	@for m in $$($(BIN)/python -c 'from fer_nb.core import MODELS; print(*MODELS)'); do \
		cp runs/plan/$$m/best_$$m.pth runs/plan/$$m/$${m}_*.pth runs/plan/$$m/$${m}_*.png models/; done
	@$(BIN)/fer-nb export models/best_*.pth --data "$(FER2013)"
	@$(BIN)/fer-nb evaluate --all --write --data "$(FER2013)"
