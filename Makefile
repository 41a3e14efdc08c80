# Set-up, demonstration and tests. `make demo` and `make test` need nothing but Python >= 3.10 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST_PYTHON ?= python3.10
LOWEST_VENV := .venv-lowest
PEERS_VENV := .venv-peers
PEERS_OPTIONS ?=
DEMO_FOLDER := runs/demo

.PHONY: demo test test-quick test-lowest test-faults test-slurm test-ray lint docs notebook bench-accuracy bench-peers

# The stamp is as new as the last set-up, so a changed list of packages is installed again.
$(VENV)/installed: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/hf-finetune train --dataset digits --output_dir $(DEMO_FOLDER) --overwrite_output_dir

# With the coverage that must be reached where it costs little, from Python 3.12 on (sys.monitoring): before, it doubles
# the time. `make test COVERAGE=--cov` measures it anyway.
COVERAGE = $(shell $(BIN)/python -c 'import sys; print("--cov" if sys.version_info >= (3, 12) else "")')

# All tests but those of test-faults, on every core up to eight.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n logical --maxprocesses 8 $(COVERAGE)

# For the edit loop: without what trains networks, builds every family of them, draws plots, starts processes or tries thousands of inputs.
test-quick: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m 'not faults and not slow'

$(LOWEST_VENV)/installed: tests/lowest.txt setup.cfg pyproject.toml
	$(LOWEST_PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable '.[dev]'
	touch $@

# The quick tests, with the lowest versions that setup.cfg allows.
test-lowest: $(LOWEST_VENV)/installed
	$(LOWEST_VENV)/bin/python -m pytest -n 2 -m 'not faults and not slow'

test-faults: $(VENV)/installed
	$(BIN)/python -m pytest -m faults

$(PEERS_VENV)/installed: benchmarks/peers/peers.txt constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable . -r benchmarks/peers/peers.txt
	touch $@

# Accuracy after one, two and four minutes against other programs, which are installed in an environment of their own; hours.
bench-accuracy: $(PEERS_VENV)/installed
	$(PEERS_VENV)/bin/python -m benchmarks.accuracy $(PEERS_OPTIONS)

# Step, start, whole command and memory against the same programs and more, in the same environment; half an hour.
bench-peers: $(PEERS_VENV)/installed
	$(PEERS_VENV)/bin/python -m benchmarks.peers $(PEERS_OPTIONS)

# Debian's SLURM and munge, as root: two nodes on this machine.
test-slurm: $(VENV)/installed
	command -v slurmctld munged >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends slurm-wlm munge; }
	$(BIN)/python -m pytest -m slurm tests/test_slurm_cluster.py

# Two CPU workers of Ray Train; installs Ray.
test-ray: $(VENV)/installed
	$(BIN)/python -c 'import ray.train.torch' 2>/dev/null || $(BIN)/python -m pip install --quiet 'ray[train]>=2.60,<3'
	$(BIN)/python -m pytest -m ray tests/examples/test_ray_train.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

# The site, in build/site; nothing is fetched while it is built.
docs: $(VENV)/installed-docs
	$(BIN)/python docs/site/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

notebook: $(VENV)/installed-docs
	mkdir -p build
	HF_HUB_OFFLINE=1 $(BIN)/jupyter execute --output $(CURDIR)/build/quickstart.ipynb docs/notebooks/quickstart.ipynb
