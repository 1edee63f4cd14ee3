# `make demo` and `make test` need git, make and Python >= 3.11; each works in an environment of its own, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ORACLE = .venv-oracle
SIDE_BY_SIDE = -n auto --dist worksteal
# Tests start hundreds of processes, and each would compile every source anew where Python is told to keep nothing compiled.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test full slow lint types docs libraries oracle evidence performance wheel clean

demo: $(VENV)/installed  ## classify real images with three trained models, draw what EViT kept
	$(BIN)/reforg demo

test: $(VENV)/tested  ## the default tests: no torch, no JAX, no GPU
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE)

full: $(VENV)/tested  ## what `make test` leaves out: the cases marked `full`
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --full -m full

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

$(VENV)/linted: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,lint]"
	@touch $@

lint: $(VENV)/linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/linted
	$(BIN)/mypy

docs: $(VENV)/tested  ## code in the pages is the source's, links lead somewhere, examples run
	$(BIN)/python docs/include.py --check
	$(BIN)/python -m pytest -q tests/docs/test_pages.py

libraries: $(VENV)/tested  ## the default tests of models and operations on torch and JAX too (CPU builds)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "jax>=0.5"
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --full --libraries numpy,numpy-readonly,strict,torch,jax,jax-jit

slow: $(VENV)/tested  ## tests that take minutes: peers that compile and export
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[peers,cpu,test]"
	$(BIN)/python -m pytest -q --full -m slow

oracle:  ## timm's and transformers' own modules against ours; several GB of packages
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet "torch==2.14.1" "torchvision==0.29.1" "timm==1.0.31" transformers scikit-image --editable ".[test]"
	$(ORACLE)/bin/python -m pytest -q -c pyproject.toml tests/oracle

evidence: libraries oracle  ## run again all that docs/evidence.md reports; an hour and a half
	$(ORACLE)/bin/python docs/evidence.py oracle
	$(BIN)/python docs/evidence.py costs tests libraries properties broken traps mutants bench

performance: $(VENV)/tested  ## run again all that docs/performance.md reports; an hour; what is measured is kept in performance.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[peers,cpu,plot]"
	$(BIN)/python docs/performance.py --kept performance.json

wheel: $(VENV)/tested  ## build the wheel, install it into an empty environment elsewhere, run it there
	$(BIN)/python tests/tools/scripts/wheel.py

clean:
	rm -rf $(VENV) $(ORACLE) dist build
