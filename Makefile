# make run · make test · make faults · make lint · make bench.  PYTHON=python3.12 chooses the interpreter of a new .venv.
PYTHON ?= python3
CONFIG ?= configs/digits.py
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run bench test test-all test-second-opinion test-hosts test-versions faults lint format

run: .venv/.installed
	$(BIN)/python main_jax.py --config=$(CONFIG) $(ARGS)

# Writes the tables of docs/performance.md: some 40 minutes on two quiet cores. ARGS=--only=contest-16 writes one.
bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks.performance $(ARGS)

# One process a core pays only where files are whole: a module's runs are made once.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: .venv/.installed-dev
	$(PYTEST) $(ARGS)

test-all: .venv/.installed-dev
	$(PYTEST) -m "not second_opinion" $(ARGS)

# Samplers, guidance and weights against diffusers, on torch; a CPU build, installed first, is enough.
test-second-opinion: .venv/.installed-dev
	$(INSTALL) -r requirements-second-opinion.txt
	$(BIN)/python -m pytest -q -m second_opinion tests/second_opinion $(ARGS)

faults: .venv/.installed-dev
	$(BIN)/python -m tests.faults $(ARGS)

# Two network namespaces and a cable that is cut: Linux, root.
test-hosts: .venv/.installed-dev
	tests/two_hosts.sh

test-versions:
	PYTHON=$(PYTHON) scripts/test_versions.sh $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; '$(PYTHON)' is not. Name one: make PYTHON=python3.12 run" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt | $(BIN)/python
	@echo "Installing requirements.txt into .venv (a minute or two, once)"
	$(INSTALL) -r requirements.txt
	@touch $@

.venv/.installed-bench: requirements-bench.txt .venv/.installed
	@echo "Installing requirements-bench.txt into .venv (a CPU build of torch, installed first, is kept)"
	$(INSTALL) -r requirements-bench.txt
	@touch $@

.venv/.installed-dev: requirements-dev.txt requirements.txt | $(BIN)/python
	@echo "Installing requirements-dev.txt into .venv (a minute or two, once)"
	$(INSTALL) -r requirements-dev.txt
	@touch $@ .venv/.installed
