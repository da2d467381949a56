# make run: the main job on the built-in sample.  make test: the tests.  make test-long: kills, clusters, servers, browsers.
# make check: style, types, import rules.  Each makes its own virtual environment; nothing but Python >= 3.11 and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-long check docs bench faults clean
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
	@printf '\nTo type these commands yourself: . $(BIN)/activate\nWith your own images: docs/tutorial.md\n'

# Two processes at a time, each with a part of the files and a private Ray of its own; JOBS=0 is one after the other.
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m "not long"

test-long: $(STAMP)
	$(PYTEST) -m long

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The parts of docs/ that are made from the code. docs/make_pictures.py makes the pictures; it needs a Chromium.
docs: $(STAMP)
	$(BIN)/python docs/generate.py

# Needs a quiet machine and the data sets of benchmarks/README.md.
bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/memory.py

# Kills searches for half an hour; build/faults/table.md tells what, where and what it cost.
faults: $(STAMP)
	$(BIN)/python tests/faults/campaign.py --output build/faults

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
