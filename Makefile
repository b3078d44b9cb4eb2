# Two commands: `make bench` measures this machine, `make test` runs every check. Both create .venv first.
#
# `make bench PYTHON=/their/python` builds the environment on top of that interpreter's own packages (its CUDA build of
# torch, for instance): what it has is kept, what is missing is installed, and the pins of constraints.txt do not apply.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
MANIFEST ?= quick

ifeq ($(origin PYTHON),undefined)
  PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do command -v $$p >/dev/null && \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
  PIP_FLAGS := --constraint constraints.txt
else
  # A .pth file, not --system-site-packages: that shows the base interpreter's packages, not those of a virtual environment.
  THEIRS := $(PYTHON)
  PIP_FLAGS :=
endif
STAMP := $(VENV)/.installed$(subst /,-,$(PYTHON))

# Compiled Python is kept at first use: tests start many processes that import the same. pip would compile all of it, most
# of it never imported: 30 of 90 seconds (2 cores, 2026-11-23).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: bench test check lint types collect install clean
.DEFAULT_GOAL := help

help:
	@echo "make bench   measure this machine with the '$(MANIFEST)' manifest, compare, write a report"
	@echo "make test    every check and test"
	@echo "make bench PYTHON=/path/to/python   use that interpreter's torch"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; none found on PATH" >&2; exit 2; }
	@rm -rf $(VENV)
	@echo "Creating $(VENV) with $(PYTHON) and installing (a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@test -z "$(THEIRS)" || $(PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/their-packages.pth"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

bench: $(STAMP)
	@$(BIN)/iroot bench run $(MANIFEST)

check: lint types

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

types: $(STAMP)
	$(BIN)/python -m mypy

# Every test file is imported, and so compiled, while mypy has the other core.
collect: $(STAMP)
	@collected=$$($(BIN)/python -m pytest --collect-only -q 2>&1) || { echo "$$collected"; exit 1; }

test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs 2 types lint collect
	$(BIN)/python -m pytest -n 2

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
