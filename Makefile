# The four words: setup, demo, test, bench. Each does its own set-up in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.monopose-installed

.PHONY: setup demo test bench
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/monopose demo --out out/demo

# One thread per worker: two workers on two cores. pytest comes last, so that its closing line is the last one.
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

bench: .venv/.monopose-bench
	$(BIN)/python -m benchmarks

.venv/.monopose-bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@
