# For a fresh machine: `make demo`, `make federation` and `make test`. Python 3.11 and make are all that is needed; nginx,
# the gateway of a federation, and for the tests chromium and Orthanc, a PACS, are installed with apt where they are missing.
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   a package index for torch: a CPU or a CUDA build
#   PYTHON=python3.11                                  the interpreter to start from
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INDEX := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo federation images federation-containers test-containers nginx chromium orthanc proto install install-dev test test-long quick lint format benchmark benchmark-accuracy clean

demo: install
	$(BIN)/medseg-simulate demo

federation: install nginx  # FOLDER=where it is made
	PATH="$(abspath $(BIN)):$$PATH" deploy/loopback.sh $(FOLDER)

DOCKER ?= docker
TAG ?= latest
TORCH_CPU := https://download.pytorch.org/whl/cpu
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' medseg_core/__init__.py)
COMMIT = $(shell git describe --always --abbrev=12 --exclude='*' --dirty 2>/dev/null || echo unknown)
images:  # TORCH_INDEX=...: other than a CPU build; TAG=latest; BUILD_FLAGS=--network=host where a mirror is on this machine
	for role in site server; do \
	  DOCKER_BUILDKIT=1 $(DOCKER) build $(BUILD_FLAGS) --build-arg TORCH_INDEX=$(if $(filter undefined,$(origin TORCH_INDEX)),$(TORCH_CPU),$(TORCH_INDEX)) \
	    --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --tag medseg-$$role:$(TAG) --file deploy/$$role.Dockerfile . \
	    || exit 1; \
	done

federation-containers: images  # FOLDER=where it is made; no other program than docker, with compose, is needed
	MEDSEG_SITE_IMAGE=medseg-site:$(TAG) MEDSEG_SERVER_IMAGE=medseg-server:$(TAG) DOCKER=$(DOCKER) deploy/demo/demo.sh $(FOLDER)

test-containers: install-dev  # where an engine answers, or can be started
	$(BIN)/python -m pytest tests/containers

nginx:
	@PATH="$$PATH:/usr/local/sbin:/usr/sbin" command -v nginx >/dev/null \
	  || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -qq --yes --no-install-recommends nginx-light; }

chromium:  # a real browser for the tests of pages
	@command -v chromium >/dev/null \
	  || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -qq --yes --no-install-recommends chromium; }

orthanc:  # a PACS, for tests
	@PATH="$$PATH:/usr/local/sbin:/usr/sbin" command -v Orthanc >/dev/null \
	  && PATH="$$PATH:/usr/local/sbin:/usr/sbin" command -v dciodvfy >/dev/null \
	  || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -qq --yes --no-install-recommends \
	       orthanc orthanc-dicomweb dcmtk dicom3tools; }

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

test: nginx chromium orthanc quick
	$(BIN)/python -m pytest tests/architecture tests/integration tests/containers -m 'not long' --numprocesses 3 --dist loadgroup

test-long: install-dev nginx  # what `make test` leaves out for its length
	$(BIN)/python -m pytest tests/integration tests/containers -m long

quick: install-dev
	$(BIN)/python -m pytest tests/unit --numprocesses auto

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: install-dev nginx  # DATA=folder that holds the hippocampus, for local training; OUT=where table and JSON go
	$(BIN)/python tests/benchmarks/compare.py --out $(or $(OUT),benchmark) $(if $(DATA),--data $(DATA))

TASKS ?= hippocampus,retina,sarcoma
SEEDS ?= 0,1,2
benchmark-accuracy: install-dev  # DATA=folder that holds a folder of each of those names; hours
	$(BIN)/python tests/benchmarks/accuracy.py $(DATA) --tasks $(TASKS) --seeds $(SEEDS)

proto: install-dev
	$(BIN)/python -m grpc_tools.protoc --proto_path=client --python_out=client --pyi_out=client --grpc_python_out=client \
	  client/medseg_client/protocol/trainer.proto

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo federation build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
