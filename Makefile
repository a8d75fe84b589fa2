# One door for developers and CI. Every target makes what it needs; `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GENERATOR := .venv-protos
# A file's tests stay in one process: they share what is dear to start.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help setup demo test lint bench lab protos docs clean

help:
	@echo 'make demo    the main job on this machine, with real agents, end to end'
	@echo 'make test    the tests (the long matrices run in .ci/run)'
	@echo 'make lint    style, types, layers, drift of generated code and docs'
	@echo 'make bench   the figures of docs/performance.md, measured again'
	@echo 'make lab     real hosts on this machine, by hand'
	@echo 'make protos  the code generated from the .proto files'
	@echo 'make docs    the command reference generated from the code'
	@echo 'make clean   what the targets above made'

setup: $(STAMP)
	@tools/system-packages

$(STAMP): pyproject.toml
	@echo 'fireline: making $(VENV) (about a minute)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --editable '.[all]' --group dev
	@touch $@

demo: setup
	@$(BIN)/python -m tests.lab.demo

test: setup
	$(PYTEST) -m 'not slow'

lint: setup $(GENERATOR)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(GENERATOR)/bin/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check

bench: setup
	$(BIN)/python -m tests.bench.run

lab: setup
	@$(BIN)/python -m tests.lab --help

protos: $(GENERATOR)/.installed
	$(GENERATOR)/bin/python protos/generate.py

docs: setup
	$(BIN)/python docs/generate.py

$(GENERATOR)/.installed: protos/generator.txt
	@$(PYTHON) -m venv $(GENERATOR)
	@$(GENERATOR)/bin/pip install --quiet -r $<
	@touch $@

clean:
	rm -rf $(VENV) $(GENERATOR) dist build
