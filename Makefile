# `make demo` and `make test` work on a fresh clone. Everything is installed into .venv, once, with the versions in constraints.txt.
#
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"    # torch without CUDA on Linux
#   make test ARGS="-k storage -x"                                                  # what pytest is given besides

PYTHON ?= python3
PIP_FLAGS ?=
PYRO ?=
ARGS ?=
# A test uses one core, so each core runs tests of its own; JOBS=0 runs all in one process (for a debugger).
JOBS ?= auto

BIN := .venv/bin
CANARY := .venv-canary
# Private names, and what stands on them: the shims, captured steps and their update, fits beside them, run folders.
CANARY_TESTS := tests/test_private.py tests/capture tests/inference tests/training tests/test_old_folders.py
PARALLEL := -n $(JOBS) --maxprocesses 8 --dist worksteal
MIN := .venv-min
ARVIZ1 := .venv-arviz1
# What goes through ArviZ: k-hat, InferenceData, posterior files and the figures that it draws.
ARVIZ1_TESTS := tests/test_arviz_compat.py tests/diagnostics
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints.txt
RECIPE := setup.cfg pyproject.toml constraints.txt

PYTHON_MIN ?= python3.11
PYTHON_ARVIZ1 ?= python3.12

.PHONY: help demo test test-slow test-min test-arviz1 conformance canary bench lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: .venv/.installed  ## fit a VAE on real handwritten digits, judge it, and write runs/demo
	$(BIN)/ppl-vae fit vae --out runs/demo --overwrite

test: .venv/.installed-test  ## the tests and doctests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: .venv/.installed-test  ## the slow rest
	$(BIN)/python -m pytest $(PARALLEL) -m slow $(ARGS)

test-min:  ## the tests with the lower bound of everything (constraints-min.txt), in .venv-min, on Python 3.11
	@test -x $(MIN)/bin/python || $(PYTHON_MIN) -m venv $(MIN)
	@$(MIN)/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints-min.txt -e '.[flows,log]' pytest setuptools build
	@$(MIN)/bin/python -c "import torch, pyro, numpy; print('torch', torch.__version__, 'pyro', pyro.__version__, 'numpy', numpy.__version__)"
	$(MIN)/bin/python -m pytest -W ignore::DeprecationWarning $(ARGS)

test-arviz1:  ## the tests of what goes through ArviZ with ArviZ 1.x, in .venv-arviz1, on Python 3.12
	@test -x $(ARVIZ1)/bin/python || $(PYTHON_ARVIZ1) -m venv $(ARVIZ1)
	@$(ARVIZ1)/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints.txt -e '.[flows]' pytest
	@$(ARVIZ1)/bin/python -c "import arviz, sys; print('arviz', arviz.__version__); sys.exit(int(arviz.__version__.split('.')[0]) < 1)"
	$(ARVIZ1)/bin/python -m pytest $(ARVIZ1_TESTS) $(ARGS)

conformance: .venv/.installed-test  ## Pyro's own tests with our SVI: make conformance PYRO=<a clone of pyro-ppl/pyro>
	@test -n "$(PYRO)" || { echo "make conformance needs a clone: make conformance PYRO=<a clone of pyro-ppl/pyro>"; exit 2; }
	$(BIN)/python tests/conformance/run.py "$(PYRO)" $(ARGS)

canary:  ## the newest torch and Pyro, in .venv-canary: what of them is missing, and the tests that would notice
	@test -x $(CANARY)/bin/python || $(PYTHON) -m venv $(CANARY)
	@$(CANARY)/bin/python -m pip install --disable-pip-version-check --quiet --upgrade --upgrade-strategy eager $(PIP_FLAGS) -e '.[test]'
	@$(CANARY)/bin/python -c "import torch, pyro; print('torch', torch.__version__, 'pyro', pyro.__version__)"
	$(CANARY)/bin/python -m pytest $(CANARY_TESTS) $(ARGS)

bench: .venv/.installed-bench  ## every number that the README claims
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lint: .venv/.installed-test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove what make and the tools made (runs/ stays)
	rm -rf .venv $(CANARY) $(MIN) $(ARVIZ1) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras, so that nothing is installed twice.

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python $(RECIPE)
	@echo "installing ppl_vae and the pinned versions of what it needs into .venv (once; a minute or two)"
	@$(PIP) -e .
	@touch $@

.venv/.installed-%: .venv/bin/python $(RECIPE)
	@echo "installing ppl_vae[$*] and the pinned versions of what it needs into .venv (once; a minute or two)"
	@$(PIP) -e '.[$*]'
	@touch $@ .venv/.installed
