# Everything a newcomer needs: make demo, make test. TORCH_INDEX=https://... chooses another index for torch (CPU wheels, say).
PYTHON ?= python3
TORCH_INDEX ?=
RECIPE ?= configs/quickstart.yaml
BIN := .venv/bin
INSTALL := $(BIN)/pip install -qq --no-compile --no-build-isolation --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test test-slow test-gpu test-kill test-cluster check format pins clean

demo: .venv/ready
	$(BIN)/imprint run $(RECIPE)

test: .venv/ready-dev
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: .venv/ready-dev
	$(BIN)/python -m pytest -m slow

# What a GPU computes beside a processor; skipped where there is none.
test-gpu: .venv/ready-dev
	$(BIN)/python -m pytest -n 4 tests/gpu

# Trainings killed at random, half of them inside saves, and what comes of them compared, bit by bit: python -m tests.kill --help
test-kill: .venv/ready-dev
	$(BIN)/python -m tests.kill --kills 30

# A sweep of the quickstart on the SLURM cluster that sinfo reaches, with things going wrong: python -m tests.cluster --help
test-cluster: .venv/ready-dev
	$(BIN)/python -m tests.cluster

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Building without isolation lets packages that are built here (deepspeed, this one) share one setuptools.
.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv with pinned dependencies ..."
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Imprint needs Python 3.11 or later; choose one with make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --upgrade pip setuptools
	@$(INSTALL) torch
	@$(INSTALL) --editable .
	@touch $@

# lm-evaluation-harness wants accelerate, beside which transformers imports DeepSpeed whenever it saves a model: kept apart.
.venv/ready-dev: .venv/ready
	@$(INSTALL) --group dev
	@$(INSTALL) --no-deps --target .venv/harness accelerate peft
	@touch $@

pins: .venv/ready-dev
	@{ head -1 constraints.txt; { $(BIN)/pip list --format=freeze --exclude-editable; $(BIN)/pip list --format=freeze --path .venv/harness; } | sed 's/+[a-z0-9]*$$//' | sort -f; } > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf .venv runs cache
