# make run: the main job on the built-in sample.  make test: all tests.  make check: style, types, import rules.
# Both make their own virtual environment; nothing but Python >= 3.11 and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test check bench faults clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,2s/^# //p' Makefile

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dashboard,cluster,onnx]'
	@touch $(STAMP)

run: $(STAMP)
	$(BIN)/tunesearch run voc_unet --smoke

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs a quiet machine and the data sets of the README's page on benchmarks.
bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/memory.py

# Kills searches for half an hour; build/faults/table.md tells what, where and what it cost.
faults: $(STAMP)
	$(BIN)/python tests/faults/campaign.py --output build/faults

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
