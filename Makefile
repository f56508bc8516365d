# make app      the app at http://localhost:8501          make test   everything that CI checks
# make install  the environment in .venv, for developing   make lab    the notebooks in JupyterLab
# make readme   README.md from nbs/index.ipynb               make fuzz   13,700 bent files and command lines, an hour

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install app test lab readme fuzz

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
	@echo "== the app: http://localhost:8501 (Ctrl-C ends it)"
	@$(BIN)/fer-nb app

lab: .venv/.dev
	@PATH=$$PWD/$(BIN):$$PATH $(BIN)/jupyter lab nbs

readme: .venv/.dev
	@$(BIN)/jupyter nbconvert --to markdown --log-level WARN --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags=remove_input --output-dir . --output README nbs/index.ipynb

# one thread a notebook: two that share the cores with several threads each would wait for one another
test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = passive
test: export PATH := $(CURDIR)/$(BIN):$(PATH)
test: .venv/.dev
	@rm -rf .venv/before && mkdir .venv/before && cp -r nbs fer_nb README.md .venv/before
	@echo "== notebooks clean?"
	@nbdev_clean && diff -rq -x .ipynb_checkpoints .venv/before/nbs nbs || { echo "They were not; nbdev_clean has cleaned them: commit that."; exit 1; }
	@echo "== library in sync with the notebooks?"
	@nbdev_export && diff -rq -x __pycache__ -x models .venv/before/fer_nb fer_nb || { echo "It was not; nbdev_export has written it anew: commit that."; exit 1; }
	@$(MAKE) --no-print-directory readme && diff -q .venv/before/README.md README.md || { echo "README.md was not what nbs/index.ipynb says; now it is: commit that."; exit 1; }
	@echo "== style (ruff)"
	@ruff check --quiet .
	@echo "== notebooks run?" && if [ -n "$${FER2013:-}" ]; then echo "on $$FER2013"; else echo "on drawn faces (FER2013 is not set)"; fi
	@nbdev_test --n_workers 2 --timing
	@echo "== command line, app, packaging (pytest)"
	@pytest --durations 5

fuzz: export OMP_NUM_THREADS = 1
fuzz: .venv/.dev
	@FUZZ=1 $(BIN)/pytest tests/test_fuzz.py
