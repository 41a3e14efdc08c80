# Set-up, demonstration and tests. `make demo` and `make test` need nothing but Python >= 3.10 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_FOLDER := runs/demo

.PHONY: demo test test-faults lint

# The stamp is as new as the last set-up, so a changed list of packages is installed again.
$(VENV)/installed: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/hf-finetune train --dataset digits --output_dir $(DEMO_FOLDER) --overwrite_output_dir

test: $(VENV)/installed
	$(BIN)/python -m pytest

# Kills runs at random instants, tears files and fills disks: minutes.
test-faults: $(VENV)/installed
	$(BIN)/python -m pytest -m faults tests/faults

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
