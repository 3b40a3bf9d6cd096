# `make` says what there is. Needs Python 3.11 or newer (PYTHON=python3.12 names another one), make, and pip's index.

PYTHON ?= python3
VENV := .venv
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
comma := ,
PACKAGES := core evaluation features freshet learners monitoring streams
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    start everything on this machine and watch it learn; ARGS='...' goes to 'freshet demo'"
	@echo "make test    lint, then all tests with coverage"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove what the other targets made: $(VENV), .freshet, caches, build"

demo: $(RUNTIME)
	@$(VENV)/bin/freshet demo $(ARGS)

# The tests' own processes share the machine's cores: one thread per library.
test: export OMP_NUM_THREADS = 1
test: export NUMBA_NUM_THREADS = 1
test: export POLARS_MAX_THREADS = 2
test: lint
	@tests/programs.sh $(VENV)/bin
	@echo "Compiling kernels; under coverage that would take several times as long."
	$(VENV)/bin/python -m streams.warm
	$(VENV)/bin/python -m tests.warm
	$(VENV)/bin/python -m pytest --cov

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) .freshet build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(PACKAGES) benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Freshet needs Python 3.11 or newer, and '$(PYTHON)' is not one; name one with: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs: apt-get install python3-venv" >&2; exit 1; }

# $(call install,EXTRAS,HOW LONG)
define install
	@echo "Installing Freshet and its libraries into $(VENV) ($(2))"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[$(1)]'
endef

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,broker,once: about half a minute with a fast connection)
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,broker$(comma)dev,once: minutes$(comma) most of it torch; PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can point pip to its CPU wheels)
	@touch $(RUNTIME) $@
