# `make demo` and `make test` need Python 3.11-3.13 and make, nothing else. Whatever they installed stays in .venv, and is
# installed again only after pyproject.toml, setup.cfg or constraints.txt changed. Runs under GNU make 3.81 too (macOS).
#
#     make demo PYTHON=/path/to/python3.12    with this interpreter
#     make test WORKERS=8                     with this many processes
#     make test ARGS='-k registry -x'         with these arguments to pytest

PYTHON ?=
WORKERS ?= logical --maxprocesses 4
ARGS =

VENV = .venv
BIN = $(VENV)/bin
SETTINGS = pyproject.toml setup.cfg constraints.txt
SUPPORTED = (3, 11) <= sys.version_info[:2] <= (3, 13)
# One thread for each worker: two workers on two cores must not compete. A file stays on one worker, because its tests share what
# is slow to set up; in which order they begin, tests/conftest.py says.
PYTEST = TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all coverage lint format docs weights clean

help:
	@echo 'make demo      install into .venv, then run zoo demo'
	@echo 'make test      install the test extra, then run the tests'
	@echo 'make test-all  the slow tests too'
	@echo 'make coverage  the tests, with the lines that no test reached'
	@echo 'make lint      ruff and mypy'
	@echo 'make format    let ruff mend and format the code'
	@echo 'make docs      build the documentation into build/docs'
	@echo 'make weights   train the shipped weights anew'
	@echo 'make clean     remove .venv and all caches'

demo: $(VENV)/installed-serve
	$(BIN)/zoo demo $(ARGS)

test: $(VENV)/installed-test
	$(PYTEST) $(ARGS)

test-all: $(VENV)/installed-test
	$(PYTEST) -m 'slow or not slow' --hypothesis-profile default $(ARGS)

coverage: $(VENV)/installed-test
	$(PYTEST) --cov --cov-report term-missing $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# -W: a warning is an error, and so is a link that leads nowhere. -E: what an earlier build read counts for nothing.
docs: $(VENV)/installed-test
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs build/docs $(ARGS)
	@echo 'build/docs/index.html'

weights: $(VENV)/installed-serve
	$(BIN)/python -m zoo.publishing $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

$(VENV)/installed-serve: $(SETTINGS) | $(BIN)/python
	$(call install,serve)
	@touch $@

# The test extra holds the serve extra, so this does for both.
$(VENV)/installed-test: $(SETTINGS) | $(BIN)/python
	$(call install,test)
	@touch $(VENV)/installed-serve $@

define install
	@echo 'Installing neuron-zoo[$(1)] into $(VENV): a few minutes the first time.'
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(1)]'; \
	else \
		$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[$(1)]'; \
	fi
endef

# python3.11 comes first because the set in constraints.txt was recorded with it. A name on PATH may be a stub that does
# not run, and Debian's python3 may lack venv: hence the trial.
$(BIN)/python:
	@found=; for python in $(if $(PYTHON),'$(PYTHON)',python3.11 python3.12 python3.13 python3 python); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not $(SUPPORTED))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if command -v uv >/dev/null && [ -n "$$found$(if $(PYTHON),,uv finds or fetches one)" ]; then \
		uv venv --quiet --clear --python "$${found:->=3.11,<3.14}" $(VENV) || { rm -rf $(VENV); exit 1; }; \
	elif [ -n "$$found" ]; then \
		"$$found" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }; \
	else \
		echo 'make: Python 3.11, 3.12 or 3.13 with its venv module is needed; $(if $(PYTHON),$(PYTHON) is not one,none is on PATH).' >&2; \
		echo 'make: Install one (Debian: apt install python3-venv; macOS: brew install python@3.13), or name one: make PYTHON=/path/to/python3.12.' >&2; \
		exit 1; \
	fi
