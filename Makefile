# One environment, .venv, for everything; each target installs what it lacks.
PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
DEMO_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
SCHEDULES ?= 100
SEED ?= $(shell date +%s)

BIN := .venv/bin
READY_DEMO := .venv/.ready-demo
READY_DEV := .venv/.ready-dev
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint types format bench install clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 chooses the Python, PIP_ARGS, PYTEST_ARGS, DEMO_ARGS and BENCH_ARGS pass options on."

demo: $(READY_DEMO) ## Watch a live collection change its embedding model
	$(BIN)/embver demo $(DEMO_ARGS)

test: $(READY_DEV) ## Run the tests on PostgreSQL 18, then those that depend on the version on 16
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)
ifndef EMBVER_TEST_DATABASE_URL
	EMBVER_TEST_PG_VERSION=16 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m both_versions $(PYTEST_ARGS)$(if $(strip $(PYTEST_ARGS)), || test $$? -eq 5)
endif

chaos: $(READY_DEV) ## Run random schedules of faults; SCHEDULES=1000 SEED=1
	EMBVER_TEST_SCHEDULES=$(SCHEDULES) EMBVER_TEST_SEED=$(SEED) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/chaos/test_schedules.py $(PYTEST_ARGS)

lint: types ## Check format, style, types, imports and SQL
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar sql

types: $(READY_DEV) ## Check types
	$(BIN)/mypy

format: $(READY_DEV) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY_DEV) ## Print the speed ratios of bench/
	@set -e; for script in bench/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script $(BENCH_ARGS); done

install: $(READY_DEV) ## Set up .venv with everything

clean: ## Remove .venv, caches and built files
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "embver-pg needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

$(READY_DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into .venv; the first time takes some minutes, most of it for torch."
	$(INSTALL) -e '.[demo]'
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into .venv; the first time takes some minutes, most of it for torch."
	$(INSTALL) -e '.[dev]'
	@touch $(READY_DEMO) $@
