# `make chat` and `make test` do everything, on a machine with Python 3.11+, a C compiler and make.
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell tests/find-python)

.PHONY: help chat test setup picture clean

help: ## What there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

chat: setup ## Set up and open the app with the bundled model
	@$(BIN)/quietdesk

test: setup ## Set up and run every check
	@tests/check

setup: $(STAMP) ## Set up the virtual environment, and nothing else

picture: setup ## Draw the picture of the app that stands in the README
	@$(BIN)/python tests/tui/picture.py

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(STAMP): pyproject.toml tests/constraints.txt
	@tests/setup "$(PYTHON)" "$(VENV)"
	@touch $@
