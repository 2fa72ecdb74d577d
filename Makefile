# make run and make test do everything on a fresh machine: Python 3.11 or newer, git and make are all they need.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 5000
TRIALS ?= 24
WORKERS ?= 1
SEED   ?= 0
KILLS  ?= 200
E2E    := tests/test_pipeline.py tests/test_search_storage.py tests/test_search_pipeline.py tests/test_search_jobs.py tests/faults/test_faults.py
export PATH := $(abspath $(VENV))/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup run compare named search recipe test faults lint ui bench audit clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/installed  ## make .venv and install requirements.txt

run: setup  ## the whole comparison that params.yaml describes (by default on digits, offline)
	@python -m pipeline.check
	dvc repro
	@echo
	@echo "report    reports/report.html  (open it in a browser)"
	@echo "metrics   reports/leaderboard.csv, or: . $(VENV)/bin/activate && dvc metrics show"
	@echo "MLflow    make ui, then http://127.0.0.1:$(PORT)"

compare: named setup  ## the comparison of other recipes: make compare MODELS="dcgan wgan_gp sagan"
	@kept=$$(mktemp) && cp params.yaml "$$kept" && models=$$(echo $$MODELS | tr -s ' ' ',') && \
	{ python -m pipeline.params set "compare.models=[$$models]" >/dev/null && python -m pipeline.check >/dev/null || \
	  { cp "$$kept" params.yaml; rm "$$kept"; exit 2; }; } && rm "$$kept"
	@echo "params.yaml now compares $(strip $(MODELS)), and so does make run from here on"
	@$(MAKE) --no-print-directory run

named:
	@test -n "$(strip $(MODELS))" || { \
	  echo 'error: MODELS is missing: name recipes of params.yaml, for example make compare MODELS="dcgan sagan"'; exit 2; }

search: recipe setup  ## tune a recipe by many short trials: make search MODEL=sagan TRIALS=24 WORKERS=2
	python -m pipeline.search --model $(strip $(MODEL)) --trials $(TRIALS) --workers $(WORKERS)

recipe:
	@test -n "$(strip $(MODEL))" || { \
	  echo 'error: MODEL is missing: name a recipe of params.yaml, for example make search MODEL=sagan TRIALS=24'; exit 2; }

test: $(VENV)/installed-dev  ## the tests, on two processes; the end-to-end ones take longest and start first
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(E2E) $(filter-out $(E2E),$(wildcard tests/test_*.py tests/faults/test_*.py))

faults: $(VENV)/installed-dev  ## kills, full disks, broken servers, flipped bits, for real: make faults SEED=7 KILLS=200
	OMP_NUM_THREADS=1 python -m tests.faults --seed $(SEED) --kills $(KILLS)

lint: $(VENV)/installed-dev  ## style and types
	ruff check .
	ruff format --check .
	mypy

ui: setup  ## MLflow's UI on 127.0.0.1 (PORT=5000)
	@echo "http://127.0.0.1:$(PORT), Ctrl-C ends it"
	@mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri sqlite:///mlflow.db

bench: setup  ## speed: training beside a plain DataLoader loop, evaluation beside the pytorch-fid command
	python -m benchmarks.training_speed
	python -m benchmarks.evaluation_speed

# pip-audit has a venv of its own, for it needs other packages; --strict: what could not be looked up is not passed.
audit: setup  ## known vulnerabilities of the installed packages, as pypi.org tells them
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && $(PYTHON) -m venv "$$tools" && \
	"$$tools/bin/pip" install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3' && \
	"$$tools/bin/pip-audit" --strict --progress-spinner off --path $(VENV)/lib/python3*/site-packages

clean:  ## remove all that the pipeline made, checkpoints and MLflow's runs included
	rm -rf .work data/prepared data/reference runs samples reports/report.html reports/studies mlflow.db mlruns dvc_plots

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than 3.11: name a newer one, for example make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: no venv: apt-get install python3-venv"; exit 2; }

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
