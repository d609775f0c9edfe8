# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo   set up, then the synthetic lower limb from DICOM to the comparison page
#   make test   set up, then every check and every test
# Beside them: make bench measures us against the source's way and the best other tools.
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check bench setup lint types floors unit clean

demo: $(READY)
	$(BIN)/nnunet-bridge demo $(DEMO)

test: lint types floors unit

check: test

# Other tools race where they are installed: connected-components-3d, dcm2niix, deflate,
# edt, numexpr, plyfile, PyMCubes, zmesh.
bench: $(READY)
	$(BIN)/python benchmarks/run.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

floors: $(READY)
	$(BIN)/lint-imports

unit: $(READY)
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
