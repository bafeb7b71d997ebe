# Thin names for commands anyone can type; each prints what it runs.
#
#   make lyrics                         everything, on the demo songbook
#   make lyrics ARGS='--source=files --path=my_lyrics'
#   make environment PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#                                       Linux without an NVIDIA GPU: PyTorch's CPU build, 2 GB less

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=

RUN   = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: environment lyrics test-fast test check bench

environment: $(READY)

# Made once; again when the lock or the dependencies change.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say which: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet $(PIP_ARGS) -r requirements.lock
	$(RUN) -m pip install --quiet $(PIP_ARGS) --no-deps -e .
	touch $@

lyrics: $(READY)
	$(RUN) -m flows.lyrics_pipeline $(ARGS)

# Under a minute: no Prefect server, no whole programs.
test-fast: $(READY)
	$(RUN) -m pytest -m "not slow and not e2e" $(ARGS)

test: $(READY)
	$(RUN) -m pytest -m "not slow" $(ARGS)

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

bench: $(READY)
	$(RUN) -m backend.training.bench $(ARGS)
