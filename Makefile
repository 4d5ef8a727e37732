# The same commands on a laptop and in CI. Needs only Python >= 3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# torch first, so that no other package installs another build of it.
TORCH := $(shell grep '^torch==' requirements.lock)
SOURCES := api bench deploy falconer serve shared tests tools worker

# Values from the command line or the environment. make would expand a `$`, and the shell quotes and
# backticks: keep the values unchanged, and let recipes read them as variables.
GIVEN := PYTHON PORT MODEL WORKERS REDIS_URL SEED JOBS FAULTS PEERS CONTAINER IMAGE_BUILD \
  DEVICE PYTHON_IMAGE TORCH_CPU_INDEX SMOKE_DIR FULL_SIZE
given = $(filter-out undefined,$(origin $(1)))
$(foreach name,$(GIVEN),$(if $(call given,$(name)),$(eval override $(name) := $$(value $(name)))))
export $(foreach name,$(GIVEN),$(if $(call given,$(name)),$(name)))
option = $${$(1):+--$(2)="$$$(1)"}

# For images: docker if its engine runs, else podman, which needs this format for healthchecks.
CONTAINER_DEFAULT = $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)
IMAGE_BUILD ?= "$${CONTAINER:=$(CONTAINER_DEFAULT)}" build \
  $$(case "$$CONTAINER" in *podman) echo --format docker;; esac)
build_args = $(foreach name,$(1),$(if $(call given,$(name)),--build-arg "$(name)=$$$(name)"))

.PHONY: clients-test lm-eval-test triton-test docs images images-test serve smoke-7b setup test lint format chaos bench bench-batch bench-engine benchmarks gpu-day lock clean help

help: ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 21

serve: $(VENV)/.serve ## run the whole service: PORT=, MODEL= (folder or hub id), REDIS_URL=, WORKERS=
	@# The URL may hold a password: as a variable, the process list does not show it.
	@if [ -n "$${REDIS_URL:-}" ]; then export FALCONER_REDIS_URL="$$REDIS_URL"; fi; \
	exec $(BIN)/falconer serve $(call option,PORT,port) $(call option,MODEL,model) \
	  $(call option,WORKERS,workers)

setup: $(VENV)/.dev ## create the environment in .venv

test: $(VENV)/.dev ## run the whole test suite with two runners
	$(BIN)/python -m pytest -n 2

clients-test: $(VENV)/.dev .falconer/stock-clients/.done ## run clients in other languages against a service; skips missing ones
	@# EventSource for node comes from npm, other clients from the system's packages.
	@! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --prefix .falconer/clients eventsource@4 \
	  || echo "npm could not install eventsource: its test is skipped"
	$(BIN)/python -m pytest -v tests/clients

lm-eval-test: $(VENV)/.dev .falconer/lm-eval/.done ## compare lm-eval over HTTP with its hf backend, 3 minutes
	$(BIN)/python -m pytest -v tests/clients/test_lm_eval.py

# Their own environment, which finds the test tools in this one. The `openai` package is the same.
.falconer/stock-clients/.done: $(VENV)/.dev
	$(BIN)/python -m venv --clear .falconer/stock-clients
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.falconer/stock-clients/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/falconer.pth"
	.falconer/stock-clients/bin/python -m pip --disable-pip-version-check install --quiet \
	  "$$(grep '^openai==' requirements.lock)" 'langchain-openai==1.7.4' 'llm==0.36'
	@touch $@

# Its own environment, which finds torch and transformers in this one and installs neither.
.falconer/lm-eval/.done: $(VENV)/.dev
	$(BIN)/python -m venv --clear .falconer/lm-eval
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.falconer/lm-eval/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/falconer.pth"
	.falconer/lm-eval/bin/python -m pip --disable-pip-version-check install --quiet 'lm-eval[api]==0.4.13'
	@touch $@

triton-test: $(VENV)/.dev .falconer/triton/.done ## run GPU kernels in Triton's interpreter and compile them, 2 minutes
	PYTHONPATH=.falconer/triton $(BIN)/python -m pytest -n 2 tests/worker/model/fused/test_fused_kernels.py \
	  tests/worker/model/layers/test_decode_kernels.py tests/worker/model/layers/test_int8_kernels.py

# Beside the environment: only torch's CUDA builds bring Triton, 600 MB of a compiler.
.falconer/triton/.done: $(VENV)/.dev
	$(PIP) install --quiet --no-deps --target .falconer/triton triton==3.9.0
	@touch $@

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --num-workers 2

docs: $(VENV)/.dev ## write the tables of docs/reference from the code
	$(BIN)/python -m tests.docs

format: $(VENV)/.dev ## correct the style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

chaos: $(VENV)/.dev ## inject faults into a service under load: SEED=, JOBS=, FAULTS=
	$(BIN)/python -m tests.chaos $(call option,SEED,seed) $(call option,JOBS,jobs) \
	  $(call option,FAULTS,faults)

bench: $(VENV)/.dev ## measure added latency, batching and Redis cost of the service
	$(BIN)/python -m bench.service.overhead

bench-batch: $(VENV)/.dev ## measure the latency of requests next to a batch, 4 minutes
	$(BIN)/python -m bench.service.batch_lane

bench-engine: $(VENV)/.dev ## compare the engine with generate, OpenVINO GenAI and vLLM, 30 minutes; PEERS=no: without the last two
	$(BIN)/python -m bench.peers.compare $(if $(filter no,$(PEERS)),--side falconer --side generate) \
	  $(call option,MODEL,model)

benchmarks: $(VENV)/.dev ## measure every figure of docs/benchmarks.md, 90 minutes: FULL_SIZE= (folder for falcon-7b's size, 13 GB)
	$(BIN)/python -m bench.publish $(addprefix --measure ,engine sweep service serve bandwidth) \
	  $(call option,FULL_SIZE,full-size)

gpu-day: ## measure a GPU in 8 minutes with the shell's python3, which needs torch for CUDA, transformers and rich
	python3 -m bench.gpu.day --out .falconer/gpu-day

smoke-7b: $(VENV)/.serve ## serve falcon-7b's shape with random weights: 16 GiB of memory, 13 of disk; SMOKE_DIR=
	$(BIN)/python -m bench.service.smoke "$${SMOKE_DIR:-.falconer/falcon-7b-random}"

images: ## build container images of api and worker, 5 minutes: DEVICE=cuda, PYTHON_IMAGE=, TORCH_CPU_INDEX=
	$(IMAGE_BUILD) $(call build_args,PYTHON_IMAGE) -t falconer-api -f deploy/api.Dockerfile .
	$(IMAGE_BUILD) $(call build_args,PYTHON_IMAGE DEVICE TORCH_CPU_INDEX) \
	  -t falconer-worker$(if $(filter cuda,$(DEVICE)),:cuda) --target worker -f deploy/worker.Dockerfile .

images-test: $(VENV)/.dev images ## build the images and test them in a compose stack, 10 minutes
	CONTAINER="$${CONTAINER:-$(CONTAINER_DEFAULT)}" $(BIN)/python -m pytest -v tests/deploy/compose_stack.py

lock: $(VENV)/.dev ## update requirements.lock within pyproject.toml, except for torch
	@# torch pins its own CUDA packages.
	echo "$(TORCH)" | $(BIN)/uv pip compile pyproject.toml - --all-extras --universal \
	  --python-version 3.11 --no-header --no-annotate --upgrade -q | grep -vE '^(nvidia-|cuda-|triton==)' > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## remove the environment and the state folder
	rm -rf $(VENV) .falconer

$(VENV)/bin/python:
	@"$${PYTHON:-python3}" -c 'import sys; sys.exit("falconer needs Python 3.11 to 3.14, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] <= (3, 14) else 0)'
	@echo "[1/3] creating $(VENV)"
	@"$${PYTHON:-python3}" -m venv $(VENV) && $(PIP) --version >/dev/null || { rm -rf $(VENV); \
	  echo "cannot create $(VENV): install Python's venv and pip (Debian, Ubuntu: apt-get install python3-venv), then run make again"; exit 1; }

$(VENV)/.torch: $(VENV)/bin/python requirements.lock
	@echo "[2/3] installing $(TORCH) (the large one: a minute or more, once)"
	@$(PIP) install --quiet --progress-bar on "$(TORCH)" -c requirements.lock
	@touch $@

$(VENV)/.serve: $(VENV)/.torch pyproject.toml
	@echo "[3/3] installing falconer and what it needs (about a minute, once)"
	@$(PIP) install --quiet -c requirements.lock -e '.[serve]'
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "[dev] installing the test and lint tools (once)"
	@$(PIP) install --quiet -c requirements.lock -e '.[dev]'
	@touch $@
