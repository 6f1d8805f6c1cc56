# Each target does all the set-up there is: a machine needs Python 3.11 and make, no more.
#   make run                             the relay on 127.0.0.1:2525, keeping what comes (capture:)
#   make run ARGS="--upstream smtp://127.0.0.1:25"
#   make test                            all tests, some at once; real peers that are not installed are skipped, with the reason
#   make test ARGS="tests/smtp -k path"  these, one after the other
#   make lint                            style, types, and who may import whom
#   make bench                           against other relays, about seven minutes (tests/benchmarks/README.md)
#   make clean                           forget the set-up

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
ARGS ?=
# Each by itself when types are checked: several have a conftest.py, and tests are no packages.
TESTS = $(sort $(dir $(wildcard tests/*/*.py)))

.PHONY: help run test lint bench clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

run: $(READY)
	@exec $(BIN)/relayproxy run $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses=auto --dist=worksteal)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy relayproxy tests/*.py
	@for folder in $(TESTS); do echo "$(BIN)/mypy $$folder"; $(BIN)/mypy $$folder || exit 1; done
	$(BIN)/lint-imports --no-logo

bench: $(READY)
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# A new dependency makes the set-up old; a change of version or of a linter's settings does no harm.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'relayproxy needs Python 3.11: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'setting up .venv, once: about a minute' >&2
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
