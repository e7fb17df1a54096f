# The four words: setup, demo, test, bench. Each does its own set-up in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.monopose-installed
DEMO := .venv/.monopose-demo

.PHONY: setup demo test test-fast kernels fuzz bench docs release-check lmo
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(DEMO)
	$(BIN)/monopose demo --out out/demo

# Only what the demo needs. Without an NVIDIA GPU torch is the build for the CPU, which spares gigabytes of CUDA.
$(DEMO): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv, once; the largest is torch"
	test $(STAMP) -nt pyproject.toml || command -v nvidia-smi >/dev/null || $(BIN)/python -m pip install --retries 0 --timeout 15 \
		--disable-pip-version-check --index-url https://download.pytorch.org/whl/cpu torch torchvision \
		|| echo "no build for the CPU from there; the usual one comes next"
	test $(STAMP) -nt pyproject.toml || $(BIN)/python -m pip install --disable-pip-version-check --editable .
	touch $@

# One thread per worker: two workers on two cores. pytest comes last, so that its closing line is the last one.
test: export OMP_NUM_THREADS = 1
test: kernels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Without those marked slow, each of which takes seconds: for every small step.
test-fast: export OMP_NUM_THREADS = 1
test-fast: kernels
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# What every worker would compile for itself; in single and in double precision at the same time. Once, then it is on disk.
kernels: setup
	@$(BIN)/python -c "import torch; from monopose import pnp; pnp.warm_up(torch.float64)" & \
	$(BIN)/python -c "from monopose.commands import doctor; doctor.warm_up()"; wait

# Ten times as many broken files as `make test` puts into every reader.
fuzz: export MONOPOSE_FUZZ = 5000
fuzz: export OMP_NUM_THREADS = 1
fuzz: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/fuzz

# docs/_build/html/index.html; a warning is an error.
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# Builds, installs into an empty environment, runs the demo there, looks for known holes; INDEX=https://download.pytorch.org/whl/cpu
# spares CUDA, LOWEST=--lowest takes the lowest versions that pyproject.toml names.
release-check: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python tools/release_check.py $(LOWEST) $(if $(INDEX),--index $(INDEX))

bench: .venv/.monopose-bench
	$(BIN)/python -m benchmarks

.venv/.monopose-bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@

# The LM-O networks from CAD models alone, trained and scored, in about MINUTES: for instance
#     make lmo DATA=data/lmo BACKGROUNDS=data/photos MINUTES=600
# Killed, it goes on where it stopped when it is called again. With a GPU larger crops and batches, and a process per core
# that draws them.
MINUTES ?= 60
OUT ?= runs/lmo
TARGETS ?= $(DATA)/test_targets_bop19.json
SIZES := $(if $(shell command -v nvidia-smi),--batch-size 64 --workers $(shell nproc),--set input_size=96 output_size=48 --batch-size 24)
LMO = --data $(DATA) --out $(OUT) --upright --distance 0.4 1.5 $(if $(BACKGROUNDS),--backgrounds $(BACKGROUNDS)) $(if $(INIT),--init $(INIT))
SCORE = --bop $(DATA) --targets $(TARGETS) --model $(OUT)

lmo: setup
	@test -d "$(DATA)/models" || { echo "make lmo needs DATA=FOLDER, the BOP folder of LM-O with models/ and test/"; exit 2; }
	$(BIN)/monopose train coordinates $(LMO) $(SIZES) --minutes $$(($(MINUTES) * 6 / 10))
	$(BIN)/monopose train detector $(filter-out --init $(INIT),$(LMO)) --batch-size 8 --minutes $$(($(MINUTES) * 4 / 10))
	$(BIN)/monopose predict $(SCORE) --true-boxes --out $(OUT)/monopose-truebox_lmo-test.csv
	$(BIN)/monopose evaluate $(OUT)/monopose-truebox_lmo-test.csv --data $(DATA) --targets $(TARGETS)
	$(BIN)/monopose predict $(SCORE) --out $(OUT)/monopose_lmo-test.csv
	$(BIN)/monopose evaluate $(OUT)/monopose_lmo-test.csv --data $(DATA) --targets $(TARGETS)
