# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo   set up, then the synthetic lower limb from DICOM to the comparison page
#   make test   set up, then every check and every test
# Beside them:
#   make quick        lint and the tests without torch, browser, cluster and benchmarks
#   make test-long    the long forms of the tests: 60 kills, 10,000 files, a full body
#   make types        the types, as Linux and as Windows have them
#   make test-newest  make test under the newest Python that is here
#   make mutants      changes one operator at a time: some test must notice (an hour)
#   make docs         writes the generated tables anew, and builds the site: build/docs
#   make gpu-check    checks a GPU before the first study (twelve minutes)
#   make dist         wheel and sdist in dist/
#   make constraints  writes constraints.txt anew, with the newest versions
#   make bench        measures us against the source's way and the best other tools
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PROCESSES ?= 3
# Compiled modules are kept: the tests start some hundred processes that import them.
unexport PYTHONDONTWRITEBYTECODE
# Threads of several trainings share the cores: those that wait must not keep one busy.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
NEWEST := $(firstword $(foreach name,python3.14 python3.13,\
	$(if $(shell $(name) -c 'print(1)' 2>/dev/null),$(name))))

.PHONY: demo test quick test-long test-newest mutants check docs dist constraints bench gpu-check setup lint types floors unit clean

demo: $(READY)
	$(BIN)/nnunet-bridge demo $(DEMO)

# mypy takes one core for a minute, so it runs beside the tests and reports after them.
test: lint floors
	@$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; \
	$(PYTEST) --durations 30; tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/mypy.log; exit $$((tests || types))

quick: lint
	$(PYTEST) -q --hypothesis-profile quick --ignore tests/nnunet/inside \
		-m 'not training and not browser and not cluster and not benchmark and not long'

test-long: $(READY)
	$(PYTEST) --hypothesis-profile long -m 'long or hypothesis' --durations 30

test-newest:
	@test -n '$(NEWEST)' || \
		{ echo "Python 3.13 or 3.14 is not here; name one: make test-newest NEWEST=..."; exit 1; }
	$(MAKE) PYTHON=$(NEWEST) VENV=.venv-newest test

mutants: $(READY)
	$(BIN)/python tests/mutants.py

check: test

docs: $(READY)
	$(BIN)/python tests/docs/option_tables.py
	$(BIN)/python tests/docs/recipe_tables.py
	$(BIN)/python tests/docs/info_pages.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "Open build/docs/index.html"

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

constraints:
	PYTHON=$(PYTHON) .ci/constraints

# Other tools race where they are installed: connected-components-3d, dcm2niix, deflate,
# edt, numexpr, plyfile, PyMCubes, zmesh.
bench: $(READY)
	$(BIN)/python benchmarks/run.py

gpu-check: $(READY)
	$(BIN)/python benchmarks/gpu_check.py

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
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32

floors: $(READY)
	$(BIN)/lint-imports

unit: $(READY)
	$(PYTEST)

clean:
	rm -rf $(VENV) .venv-newest .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
