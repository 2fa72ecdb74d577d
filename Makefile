# make run and make test do everything on a fresh machine: Python 3.11 or newer, git and make are all they need.
PYTHON  ?= python3
VENV    ?= .venv
PORT    ?= 5000
TRIALS  ?= 24
WORKERS ?= 1
SEED    ?= 0
KILLS   ?= 200

# What a user may set. Recipes read it as "$$NAME" from their environment: neither make nor the shell evaluates it.
SETTINGS := PYTHON VENV PORT TRIALS WORKERS SEED KILLS MODEL MODELS JOBS GPUS
$(foreach name,$(SETTINGS),$(eval override $(name) := $$(value $(name))))
ifneq ($(words $(VENV)),1)
$(error VENV must be the path of a folder, without blanks: name another, or leave VENV out)
endif
export $(SETTINGS)

# End-to-end tests take longest, so they start first.
override E2E := tests/test_pipeline.py tests/faults/test_faults.py tests/test_hostile_params.py \
  tests/search/test_pipeline.py tests/search/test_storage.py tests/search/test_jobs.py
override TESTS := $(E2E) $(filter-out $(E2E),$(wildcard tests/test_*.py tests/*/test_*.py))
export PATH := $(abspath $(VENV))/bin:$(value PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup run compare named search recipe test quick faults lint docs report ui bench gpu-check audit clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/installed  ## make .venv and install requirements.txt

define repro
@python -m pipeline.check
@python -m pipeline.jobs --jobs="$$JOBS" --gpus="$$GPUS"
dvc repro
@echo
@python -m pipeline.core.seconds
@echo
@echo "report    reports/report.html  (open it in a browser)"
@echo "metrics   reports/leaderboard.csv, or: . $$VENV/bin/activate && dvc metrics show"
@echo "MLflow    make ui, then http://127.0.0.1:$$PORT"
endef

run: setup  ## the whole comparison of params.yaml (by default on digits, offline); JOBS=2: two trainings at once
	$(repro)

compare: named setup  ## the comparison of other recipes: make compare MODELS="dcgan wgan_gp sagan"
	@set -f; set -- $$MODELS; IFS=,; python -m pipeline.params set "compare.models=[$$*]"
	$(repro)

named:
	@set -f; set -- $$MODELS; test $$# -gt 0 || { \
	  echo 'error: MODELS is missing: name recipes of params.yaml, for example make compare MODELS="dcgan sagan"'; exit 2; }

search: recipe setup  ## tune a recipe by many short trials: make search MODEL=sagan TRIALS=24 WORKERS=2
	python -m pipeline.search --model="$$MODEL" --trials="$$TRIALS" --workers="$$WORKERS"

recipe:
	@set -f; set -- $$MODEL; test $$# -gt 0 || { \
	  echo 'error: MODEL is missing: name a recipe of params.yaml, for example make search MODEL=sagan TRIALS=24'; exit 2; }

test: $(VENV)/installed-dev  ## all tests, on two processes
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

quick: $(VENV)/installed-dev  ## the tests without the slow ones: about three minutes on two cores
	OMP_NUM_THREADS=1 python -m pytest -n 2 -m "not slow" $(TESTS)

faults: $(VENV)/installed-dev  ## kills, full disks, broken servers, flipped bits, for real: make faults SEED=7 KILLS=200
	OMP_NUM_THREADS=1 python -m tests.faults --seed="$$SEED" --kills="$$KILLS"

lint: $(VENV)/installed-dev  ## style and types; also the container and workflow files
	ruff check .
	ruff format --check .
	mypy
	hadolint Dockerfile
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: $(VENV)/installed-docs  ## the documentation as pages: site/index.html
	rm -rf .site && mkdir .site
	cp -r *.md LICENSE params.yaml docs pipeline presets .site
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet
	rm -rf .site

report: setup  ## the newest report in a browser
	@python -m pipeline.report

ui: setup  ## MLflow's pages on 127.0.0.1: make ui PORT=5000
	@python -m pipeline.tracking.ui --port="$$PORT"

bench: setup  ## one page of speed: training, measuring, start-up, tracking, beside others' programs (docs/speed.md)
	@python -m benchmarks.bench

# Without setup, which needs a network: where there is no venv, the Python that has torch will do.
gpu-check:  ## at most ten minutes on a CUDA machine: exact resume, host syncs, memory, speed; a table for docs/gpu.md
	@if test -x "$$VENV/bin/python"; then python -m benchmarks.gpu_check; else "$$PYTHON" -m benchmarks.gpu_check; fi

# pip-audit has a venv of its own, for it needs other packages; --strict: what could not be looked up is not passed.
audit: setup  ## known vulnerabilities of the installed packages, as pypi.org lists them
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && "$$PYTHON" -m venv "$$tools" && \
	"$$tools/bin/pip" install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3' && \
	"$$tools/bin/pip-audit" --strict --progress-spinner off --path "$$VENV"/lib/python3*/site-packages

clean:  ## remove what the pipeline made, also checkpoints and MLflow's runs; scores/ and the leaderboard stay
	rm -rf .work data/prepared data/reference data/checked runs samples closest reports/report.html reports/studies mlflow.db mlruns dvc_plots

$(VENV)/bin/python:
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$PYTHON is not Python 3.11 or newer: name one that is, for example make PYTHON=python3.12 run"; exit 2; }
	@"$$PYTHON" -m venv "$$VENV" || { rm -rf "$$VENV"; echo "error: no venv: apt-get install python3-venv"; exit 2; }

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch "$$VENV/installed"

$(VENV)/installed-docs: requirements-docs.txt $(VENV)/installed
	python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch "$$VENV/installed-docs"

$(VENV)/installed-dev: requirements-dev.txt requirements-cluster.txt $(VENV)/installed
	python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch "$$VENV/installed-dev"
