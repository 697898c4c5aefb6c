# What the README's commands call. Needs make and Python 3.11 or 3.12; everything else goes into $(VENV).
# Variables: VENV=.venv  PYTHON=python3.11  ARGS="trainer.total_training_steps=5"  JOBS=2  (PIP_* variables are passed through to pip)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test lint bench lock clean

VENV ?= .venv
ARGS ?=
# Test files that run at the same time. Most of an integration test is imports and waiting: two share two cores and 24 GiB well.
JOBS ?= 2
BIN := $(VENV)/bin
LOCK := requirements/cpu.txt

# The first interpreter that runs and has the right version: a version manager's shim may exist and not run.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3 python; do \
	if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1; then echo "$$candidate"; break; fi; done)

# Stamps carry a checksum of what decides the installation, so a second run installs nothing and a changed pin installs again.
SUM := $(shell cat pyproject.toml $(LOCK) | cksum | cut -d ' ' -f 1)
CPU := $(VENV)/.installed-cpu-$(SUM)
DEV := $(VENV)/.installed-dev-$(SUM)

# pip's long talk goes to a file; its end is shown when it fails.
COMMA := ,
define pip_install
@$(BIN)/python -m pip install --disable-pip-version-check -c $(LOCK) -e '.[$(1)]' >$(VENV)/install.log 2>&1 || { \
	tail -n 20 $(VENV)/install.log >&2; echo "error: the installation failed; all of pip's output is in $(VENV)/install.log" >&2; exit 1; }
endef

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

quickstart: $(CPU) ## install for the CPU, train the tiny model with Faithful GRPO, show the table and where the report is
	@$(BIN)/python -m faithful_rl.main recipe=fgrpo_tiny $(ARGS)

test: $(DEV) lint ## install what tests need; lint, types, import law, and the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(DEV) ## style, types and the import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV) ## the benchmarks that README cites
	$(BIN)/python -m benchmarks.advantage
	$(BIN)/python -m benchmarks.step

lock: $(DEV) ## make the lock files again from pyproject.toml (ARGS=--upgrade for newer versions)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --quiet --extra cpu --extra dev --python-version 3.11 --no-annotate \
		$(foreach folder,$(PIP_FIND_LINKS),--find-links $(folder)) --custom-compile-command "make lock" -o $(LOCK) $(ARGS)
	$(BIN)/uv pip compile pyproject.toml --quiet --extra gpu --extra eval --python-version 3.12 --no-annotate \
		--custom-compile-command "make lock" -o requirements/gpu.txt $(ARGS)

clean: ## remove the environment and caches; outputs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11 or 3.12; install one, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(CPU): | $(BIN)/python
	@echo "Installing into $(VENV) (the CPU build of torch comes from PyTorch's CPU wheel index, see README)"
	$(call pip_install,cpu)
	@rm -f $(VENV)/.installed-cpu-*
	@touch $@

$(DEV): | $(BIN)/python
	@echo "Installing into $(VENV) (the CPU build of torch comes from PyTorch's CPU wheel index, see README)"
	$(call pip_install,cpu$(COMMA)dev)
	@rm -f $(VENV)/.installed-dev-* $(VENV)/.installed-cpu-*
	@touch $@ $(CPU)
