# Everything needs only make and a Python of at least 3.11; `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
# The Python to build .venv with; empty: the first suitable one on PATH.
PYTHON ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-run ## the whole story in a few minutes
	$(BIN)/maxmig demo

test: $(VENV)/.stamp-dev ## all tests (JOBS=2 processes, ARGS=... for pytest)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: ## format, lint, spelling, types, configurations, links
	./lint.sh

docs: $(VENV)/.stamp-run ## write the configuration reference from the schema
	$(BIN)/python -m maxmig.config.document docs/configuration.md

bench: $(VENV)/.stamp-run ## speed and memory: NNX, Linen and pure JAX in one run
	$(BIN)/maxmig bench train

clean: ## remove what the other targets made, .venv too
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are touched last, so that an interrupted step is done again.
$(VENV)/.stamp-venv:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python3.14); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	      echo "error: $$python cannot make virtual environments;" \
	           "install its venv module (Debian and Ubuntu: apt-get install python3-venv)" >&2; \
	      exit 1; \
	    fi; \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    rm -rf $(VENV) && "$$python" -m venv $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo "error: no Python of at least 3.11 found$(if $(PYTHON), ($(PYTHON) was asked for), on PATH);" \
	     "install one, or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.stamp-run: pyproject.toml $(VENV)/.stamp-venv
	@if [ -e $(VENV)/.stamp-dev ] && [ $(VENV)/.stamp-dev -nt pyproject.toml ]; then :; else \
	  echo "installing maxmig and what it needs (one to three minutes)"; \
	  $(BIN)/python -m pip install --quiet --editable .; fi
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml $(VENV)/.stamp-venv
	@echo "installing maxmig, what it needs and the test tools (one to three minutes)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
