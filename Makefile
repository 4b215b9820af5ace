# cache-guard: `make help` lists the targets.
# REDIS_SERVER=path      the server binary to use (default: redis-server, else valkey-server)
# PYTEST_ARGS='...'      passed on to pytest
# SERVERS=dir            where scripts/servers.sh keeps other servers (default: target/servers)
# SERVER_NAMES='a b'     which servers `make test-all` runs on; MINUTES=n, HOURS=n how long fuzz and soak last

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

MODULE := target/release/libcache_guard.so
PYTHON := .venv/bin/python
CARGO  := source scripts/env.sh && cargo
SERVERS ?= target/servers
# Tests wait more than they compute: two for each core keep it busy.
PARALLEL ?= -n $(shell echo $$((2 * $$(nproc)))) --dist loadfile
EVERYDAY := not slow and not soak
export SERVERS PYTEST_ARGS

# Exit status 5 is "no test selected", which is fine for one half of the suite. RESULTS=dir keeps a report of each half.
PYTEST = run() { $(PYTHON) -m pytest -q "$$@" $(PYTEST_ARGS) || [[ $$? == 5 ]]; }; run
REPORT = $(if $(RESULTS),--junitxml=$(RESULTS)/$(@:pytest-%=%).xml)

# One step after the other, each with what it took; the first that fails ends it.
STEPS = for step in $(1); do \
    start=$$SECONDS; $(MAKE) -s --no-print-directory $$step || { echo "== $$step failed after $$((SECONDS - start)) s"; exit 1; }; \
    echo "== $$step: $$((SECONDS - start)) s"; done

.PHONY: help setup build run unit lint pytest pytest-fast pytest-slow pytest-newest test test-all check check-fast \
  fuzz valgrind soak demo docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

lint: ## formatting and clippy, the fuzz targets too
	@$(CARGO) fmt --check
	@rustfmt --check --edition 2021 fuzz/main.rs
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo "lint: clippy is not installed, left out"; exit 0; }; \
	  $(CARGO) clippy --all-targets -- -D warnings

unit: ## tests of the engine and the corpora of the fuzz targets (no server, no libclang)
	@$(CARGO) test --no-default-features

pytest-fast:
	@$(PYTEST) $(PARALLEL) $(REPORT) -m "$(EVERYDAY)" tests

pytest-slow:
	@$(PYTEST) $(REPORT) -m "slow and not soak" tests

pytest: pytest-fast pytest-slow ## tests on a server, the slow ones one at a time

pytest-newest: ## the everyday tests on the newest Redis and Valkey that can be had
	@$(PYTHON) scripts/matrix.py everyday

test: ## everything: on this machine's server, the everyday part on the newest ones too
	@$(call STEPS,setup lint unit build pytest-fast pytest-slow pytest-newest)

check: test ## the same

check-fast: ## the everyday part, under four minutes
	@$(call STEPS,setup lint unit build pytest-fast)

test-all: ## everything on every supported server (SERVER_NAMES chooses), into the table of docs/operations.md
	@$(call STEPS,setup lint unit build)
	@$(PYTHON) scripts/matrix.py all $(SERVER_NAMES)

fuzz: setup build ## MINUTES=n (5) of each fuzz target and of random calls to a server; findings in target/fuzz
	@MINUTES=$(or $(MINUTES),5) scripts/fuzz.sh
	@SOAK_MINUTES=$(or $(MINUTES),5) $(PYTHON) -m pytest -q -s -m soak -k random_calls tests

valgrind: setup build ## a part of the tests with the server under valgrind: this machine's, and a newer one
	@$(PYTHON) scripts/memcheck.py

soak: setup build ## the long forms of tests: HOURS=n or MINUTES=n (60) in all (PYTEST_ARGS='-k kill' chooses)
	@SOAK_MINUTES=$(or $(MINUTES),$(if $(HOURS),$$(($(HOURS) * 60)),60)) $(PYTHON) -m pytest -q -s -m soak $(PYTEST_ARGS) tests

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
