# cache-guard: `make help` lists the targets.
# REDIS_SERVER=path   the server binary to use (default: redis-server, else valkey-server)
# PYTEST_ARGS='...'   passed on to pytest

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

MODULE := target/release/libcache_guard.so
PYTHON := .venv/bin/python
CARGO  := source scripts/env.sh && cargo
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile

# Exit status 5 is "no test selected", which is fine for one half of the suite.
PYTEST = run() { $(PYTHON) -m pytest -q "$$@" $(PYTEST_ARGS) || [[ $$? == 5 ]]; }; run

.PHONY: help setup build run unit lint pytest pytest-fast pytest-slow test test-all check check-fast demo docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (system packages, clippy, .venv)
	@scripts/setup.sh
	@$(MAKE) -s .venv/.ready

.venv/.ready: tests/requirements.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

build: ## build the module: target/release/libcache_guard.so
	@$(CARGO) build --release
	@chmod +x $(MODULE)

run: ## build, then a server with the module on a free port (PORT=n chooses)
	@scripts/setup.sh
	@$(MAKE) -s build
	@scripts/run.sh

lint: ## formatting and clippy
	@$(CARGO) fmt --check
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo "lint: clippy is not installed, left out"; exit 0; }; \
	  $(CARGO) clippy --all-targets -- -D warnings

unit: ## tests of the engine (no server, no libclang)
	@$(CARGO) test --no-default-features

pytest-fast:
	@$(PYTEST) $(PARALLEL) -m "not slow" tests

pytest-slow:
	@$(PYTEST) -m slow tests

pytest: pytest-fast pytest-slow ## tests on a server, the slow ones one at a time

test: setup lint unit build pytest ## everything

check: test ## the same

check-fast: setup lint unit build pytest-fast ## the everyday part, under three minutes

test-all: test ## everything, then pytest once per server in SERVERS=dir (dir/*/bin/server)
	@[[ -n "$(SERVERS)" ]] || { echo "test-all: SERVERS=dir is needed"; exit 2; }; \
	for server in $(SERVERS)/*/bin/server; do \
	  echo "== $$server"; REDIS_SERVER=$$server $(MAKE) -s pytest || exit 1; done

demo: setup build ## the demonstration
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r demo/requirements.txt
	@$(PYTHON) -m demo

docs: setup build ## rewrite the derived headers of docs/commands/*.md from a running server
	@$(PYTHON) scripts/docs.py

bench: setup build ## engine benchmarks, then the end-to-end ones
	@$(CARGO) bench --no-default-features
	@if [[ -f benches/herd.py ]]; then $(PYTHON) benches/herd.py; fi

clean: ## remove what was built
	rm -rf target .venv .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
