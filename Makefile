# Thin names for commands anyone can type; each prints what it runs.
#
#   make lyrics                         everything, on the demo songbook
#   make lyrics ARGS='--source=files --path=my_lyrics'
#   make environment PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#                                       Linux without an NVIDIA GPU: PyTorch's CPU build, 2 GB less
#   make ddp-train NGPUS=8 CONFIG=config/train_gpt2.py ARGS='--compile=False'
#                                       training on several GPUs of one machine
#   make serve                          the flow as deployments, with Prefect's server
#   make gpu-status                     NVIDIA's GPUs: memory, load, who uses them

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=
NGPUS    ?= 8
CONFIG   ?= config/train_gpt2.py

RUN   = $(VENV)/bin/python
READY = $(VENV)/.ready
# a process a core; more than four would want memory for as many programs in training
PYTEST = $(RUN) -m pytest -n logical --maxprocesses=4 --dist=worksteal

.PHONY: environment lyrics serve ddp-train gpu-status test-fast test check bench

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

# Prefect's server and the deployments, until Ctrl-C.
serve: $(READY)
	$(RUN) -m flows.serve

# One process a GPU; --parallel=fsdp in ARGS shards the model. Several machines: README.
ddp-train: $(READY)
	$(RUN) -m torch.distributed.run --standalone --nproc_per_node=$(NGPUS) -m backend.training.train $(CONFIG) $(ARGS)

gpu-status:
	@command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: no NVIDIA GPU here, or no driver for it"; exit 1; }
	nvidia-smi

# Under a minute: no Prefect server, no whole programs.
test-fast: $(READY)
	$(PYTEST) -m "not slow and not e2e" $(ARGS)

test: $(READY)
	$(PYTEST) -m "not slow" $(ARGS)

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

bench: $(READY)
	$(RUN) -m backend.training.bench $(ARGS)
