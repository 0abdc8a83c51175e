# Everything make makes lies in this folder: the environment in .venv, caches in .cache, the demo in demo.
# Needed: make and Python 3.11 or newer.  make PYTHON=python3.13 takes another interpreter.

PYTHON ?= python3
ARCHIVE ?=
TRAIN ?=
JOBS ?= 2
LIMIT ?= 300
ARGS ?=
ROUNDS ?= 50
MINUTES ?= 60
CASES ?= 1000
SEED ?= 1
DAYS ?= 366
PARSERS ?=
IMAGES ?= cpu gpu
MOUNTS ?=
TARGETS ?=

CACHE := $(CURDIR)/.cache
VENV := .venv
PY := $(VENV)/bin/python
PACKAGES := stratacube cube catalog loaders training

export PIP_CACHE_DIR := $(CACHE)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CACHE)/xdg
export XDG_DATA_HOME := $(CACHE)/xdg-data
export XDG_STATE_HOME := $(CACHE)/xdg-state
export MPLCONFIGDIR := $(CACHE)/matplotlib
export DASK_CONFIG := $(CACHE)/dask
export STRATACUBE_CACHE := $(CACHE)/stratacube
# Modules are compiled once, not by each of the many processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

# Runs a command with temporary files in a folder that is removed afterwards, whatever the command leaves behind.
# It is not in the checkout: sockets of worker processes lie in it, and their paths may not be long.
TIDILY := scratch=$$(mktemp -d) && chmod 755 "$$scratch" && trap 'rm -rf "$$scratch"' EXIT INT TERM && TMPDIR="$$scratch"

.DEFAULT_GOAL := help
.PHONY: help demo test slow long races soak fuzz lint types format bench learn year-of-references installs constraints container-test docs notebooks release clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 22

demo: $(VENV)/installed$(if $(TRAIN),-train) ## the whole path on a small synthetic archive; ARCHIVE=folder: on real files; TRAIN=1: and a model
	@$(TIDILY) $(PY) -m cube.build demo --output-dir demo $(if $(ARCHIVE),--archive "$(ARCHIVE)")
	$(if $(TRAIN),@$(TIDILY) $(PY) -m training.demo demo/$(if $(ARCHIVE),real,random) --output-dir demo/training)

test: $(VENV)/installed-test ## all tests but the slow ones; ARGS="-k grid" picks some
	@$(TIDILY) $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

slow: $(VENV)/installed-test ## the slow tests (there may be none)
	@$(TIDILY) $(PY) -m pytest -n $(JOBS) --dist worksteal -m "slow and not long" $(ARGS) || [ $$? -eq 5 ]

long: $(VENV)/installed-test ## tests of minutes each: many days, whole years, faults that are waited for
	@$(TIDILY) $(PY) -m pytest -n $(JOBS) --dist worksteal -m long $(ARGS)

races: $(VENV)/installed-test ## many processes at once on one folder, stopped and killed by chance; ROUNDS=50 of them
	@$(TIDILY) ROUNDS=$(ROUNDS) $(PY) -m pytest -n $(JOBS) --dist worksteal -m slow tests/job/test_races.py $(ARGS)

soak: $(VENV)/installed-test ## builds of all kinds for MINUTES=60, hurt every minute: done, bit-equal, and nothing grows
	@$(TIDILY) $(PY) -m tests.soak --minutes $(MINUTES) --seed "$(SEED)" $(ARGS)

fuzz: $(VENV)/installed-test ## damage the inputs of every parser, CASES=1000 of each, by SEED; PARSERS="plan jp2" picks some
	@$(TIDILY) $(PY) -m tests.fuzz $(PARSERS) --cases $(CASES) --seed "$(SEED)" --jobs $(JOBS)

lint: $(VENV)/installed-test ## style, formatting and docstrings
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m numpydoc lint $$(find $(PACKAGES) -name '*.py')

types: $(VENV)/installed-test ## static types
	$(PY) -m mypy

format: $(VENV)/installed-test ## mend style and formatting where a tool can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/installed-test ## the benchmarks, into docs/benchmarks.md; ARGS picks some
	@$(TIDILY) $(PY) -m tests.benchmarks $(ARGS)

learn: $(VENV)/installed-test ## evidence of learning on real scenes, into docs/benchmarks.md; ARGS="--quick time" picks some
	@$(TIDILY) $(PY) -m tests.learn $(ARGS)

year-of-references: $(VENV)/installed-test ## a virtual cube of DAYS=366 of full disks (16 GB, removed afterwards), against its bounds
	@$(TIDILY) $(PY) -m tests.benchmarks.year_of_references $(CACHE)/year --days $(DAYS) $(ARGS)

docs: $(VENV)/installed-docs ## the documentation site, into site; a link or a reference that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

notebooks: $(VENV)/installed-test ## run the notebooks on what make demo wrote, and keep what they show
	@$(TIDILY) $(PY) tests/notebooks.py docs/notebooks/*.ipynb --folder . --keep

installs: ## resolve each extra without constraints on PYTHON, LIMIT seconds each; installs nothing; ARGS="test" picks some
	rm -rf $(CACHE)/installs
	$(PYTHON) -m venv $(CACHE)/installs
	@$(TIDILY) $(CACHE)/installs/bin/python tests/installs.py --limit $(LIMIT) $(ARGS)
	rm -rf $(CACHE)/installs

constraints: ## take the newest versions that go together into constraints.txt; then run the tests
	rm -rf $(CACHE)/newest
	$(PYTHON) -m venv $(CACHE)/newest
	sed -n 's/^# hold: //p' constraints.txt > $(CACHE)/newest/hold.txt
	$(CACHE)/newest/bin/python -m pip install -q -e '.[test]' -c $(CACHE)/newest/hold.txt
	{ sed '/^[^#]/,$$d' constraints.txt; $(CACHE)/newest/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } \
		> $(CACHE)/newest/constraints.txt
	mv $(CACHE)/newest/constraints.txt constraints.txt
	rm -rf $(CACHE)/newest

container-test: ## build the images on a base made here, and run the demo in them; root, with buildah and debootstrap
	@MOUNTS="$(MOUNTS)" TARGETS="$(or $(TARGETS),cpu)" containers/test.sh

release: ## wheel, sdist and images as OCI archives, into dist; IMAGES="cpu" for some of the images
	rm -rf dist $(CACHE)/release
	$(PYTHON) -m venv $(CACHE)/release
	$(CACHE)/release/bin/python -m pip install -q build==1.3.0
	$(CACHE)/release/bin/python -m build --outdir dist
	rm -rf $(CACHE)/release
	for image in $(IMAGES); do containers/build.sh $$image dist/stratacube-$$image-$$(uname -m).tar || exit; done

clean: ## remove all that make has made, the demo and the environment too
	rm -rf $(VENV) .cache .bench .fuzz demo build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@command -v "$(PYTHON)" > /dev/null || { echo "make: $(PYTHON) is not found; install Python 3.11 or newer," \
		"or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is" \
		"$$("$(PYTHON)" -c 'import platform; print("Python " + platform.python_version())')," \
		"but stratacube needs Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { echo "make: $(PYTHON) lacks its venv module;" \
		"install it (Debian and Ubuntu: the package python3-venv), or name another: make PYTHON=python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(PY)
	@echo "installing stratacube into $(VENV); the first time this takes some minutes"
	@$(TIDILY) $(PY) -m pip install -q -e '.[explore]' -c constraints.txt
	@touch $@

$(VENV)/installed-train: pyproject.toml constraints.txt | $(PY)
	@echo "installing stratacube and what it trains with into $(VENV); the first time this takes some minutes"
	@$(TIDILY) $(PY) -m pip install -q -e '.[train,explore]' -c constraints.txt
	@touch $(VENV)/installed $@

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(PY)
	@echo "installing stratacube and what its documentation is made with into $(VENV); the first time this takes some minutes"
	@$(TIDILY) $(PY) -m pip install -q -e '.[docs]' -c constraints.txt
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(PY)
	@echo "installing stratacube and what its tests need into $(VENV); the first time this takes some minutes"
	@$(TIDILY) $(PY) -m pip install -q -e '.[test]' -c constraints.txt
	@touch $(VENV)/installed $(VENV)/installed-train $(VENV)/installed-docs $@
