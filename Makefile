# The two commands of the README: `make demo` and `make test`. Both set up their own virtual environment first.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/demo
# Processes of one thread each: threads of several processes on the same cores wait for each other. One more than there
# are cores, as many tests wait for a process that they have started.
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count(), 4) + 1)')
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: demo test quick lint types docs wheel bench bench-full bench-gpu test-gpu torture multinode clean setup help

help:
	@echo "make demo   set up, fine-tune the embedded encoder on the embedded data, evaluate, predict"
	@echo "make test   set up, then all checks: lint, types, tests (slow ones too), docs, the installed wheel"
	@echo "make quick  the tests that take under three minutes"
	@echo "make docs   build the documentation into docs/_build"
	@echo "make torture  kill trainings over and over and fuzz the readers, under 45 minutes; figures for the docs"
	@echo "make multinode  as root on Linux: train over two hosts made of network namespaces, kill one, go on"
	@echo "make bench  measure speed and memory beside transformers.Trainer, under 20 minutes; make bench-full: hours"

setup: $(STAMP)

# torch goes first and by its exact version: a range could bring several gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	rm -rf $(DEMO)
	$(BIN)/bertkit finetune demo/reviews --runs $(DEMO)
	$(BIN)/bertkit eval --runs $(DEMO) --split test
	$(BIN)/bertkit predict tasks/demo/reviews/unseen.jsonl --runs $(DEMO)
	$(BIN)/bertkit predict --text "Not the disaster I had feared." --runs $(DEMO)

test: lint types
	$(PYTEST) -m 'not gpu and not network'
	$(MAKE) docs
	$(MAKE) wheel

quick: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# The wheel in an environment of its own, outside the source tree.
wheel: setup
	$(BIN)/python tests/wheel.py

# Measurements of speed and memory: let nothing else run meanwhile.
bench: setup
	$(BIN)/python -m benchmarks

bench-full: setup
	$(BIN)/python -m benchmarks --full

# On a machine with a GPU; without one it says so. test-gpu: what a GPU has to prove.
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

# What takes too long for the tests. Its figures go where the documentation finds them.
torture: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,fuzz]'
	$(BIN)/python -m tests.torture --write

# Several machines, shown for real. Needs root and iproute2, and says so.
multinode: setup
	$(BIN)/python -m tests.multinode

clean:
	rm -rf $(VENV) dist build docs/_build
