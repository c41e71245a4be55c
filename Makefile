# make demo, make test: set everything up, then run. A second time they start at once.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2

.PHONY: help venv demo test test-all lint docs bench clean

help:
	@echo "make demo   set up, then render videos, build features, train, evaluate, write a report"
	@echo "make test   set up, then run the tests but the slow ones"
	@echo "make test-all  the slow ones too"
	@echo "make venv   set up alone, in $(VENV)"
	@echo "make lint   ruff, ruff format, mypy"
	@echo "make docs   the pages as a site, in out/site; a link that leads nowhere fails it"
	@echo "make bench  the benchmarks"
	@echo "make clean  remove $(VENV), out and caches"

venv: $(STAMP)

# setuptools comes first and at its pinned version, so that building the project needs no second, unpinned one.
$(STAMP): constraints.txt setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make venv: expected $(PYTHON) on PATH, got none; install Python 3.11 or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "make venv: expected Python 3.11, got $$($(PYTHON) --version); say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make venv: expected Python's venv module, got none; install it (Debian, Ubuntu: apt install python3.11-venv)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-build-isolation --editable '.[dev]'
	@touch $(STAMP)

demo: venv
	@$(BIN)/python -m examples.demo.demo

test: venv
	$(BIN)/python -m pytest -n $(TEST_WORKERS)

test-all: venv
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m ''

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-build-isolation --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: venv
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean:
	rm -rf $(VENV) out build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
