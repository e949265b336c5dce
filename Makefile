# Every target does the set-up that it needs, so that each of them works in a fresh clone.
# Another interpreter:  make PYTHON=/path/to/python3.12 test

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin

.PHONY: setup demo test test-slow lint types docs bench clean
.NOTPARALLEL:
.DEFAULT_GOAL := setup

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "implayer needs Python 3.11, 3.12 or 3.13, and none was found. Name one: make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv

# One stamp per extra: `make demo` does not wait for the tools of the documentation.
.venv/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

setup: .venv/.installed-dev

demo: .venv/.installed-apps
	$(BIN)/python -m applications demo

test: .venv/.installed-tests
	$(BIN)/python -m pytest

test-slow: .venv/.installed-tests
	$(BIN)/python -m pytest -m 'slow and not gpu'

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/pyright

docs: .venv/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/.installed-apps
	$(BIN)/python -m applications bench core

# Everything that is built, except the environment.
clean:
	rm -rf build dist docs/_build docs/auto_examples docs/reference/generated docs/sg_execution_times.rst
	rm -rf .pytest_cache .ruff_cache .hypothesis .jupyter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
