# Two commands for a fresh machine: `make demo` and `make test`. Python 3.11 and make are all that is needed.
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   a package index for torch: a CPU or a CUDA build
#   PYTHON=python3.11                                  the interpreter to start from
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INDEX := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

.PHONY: demo install install-dev test quick lint format benchmark-accuracy clean

demo: install
	$(BIN)/medseg-simulate demo

install: $(VENV)/.simulation
install-dev: $(VENV)/.dev

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(INDEX) torch
	@touch $@

$(VENV)/.simulation: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[simulation]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.simulation

test: quick
	$(BIN)/python -m pytest tests/architecture tests/integration

quick: install-dev
	$(BIN)/python -m pytest tests/unit --numprocesses auto

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

TASKS ?= hippocampus,retina,sarcoma
SEEDS ?= 0,1,2
benchmark-accuracy: install-dev  # DATA=folder that holds those tasks; hours
	$(BIN)/python tests/benchmarks/accuracy.py $(DATA) --tasks $(TASKS) --seeds $(SEEDS)

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
