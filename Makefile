# The one place that says how things are run. `make` or `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

# A build of torch other than the package index's own, as TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check \
  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c requirements/torch-cuda.txt

HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= models/release/model.pt
DATA ?=
URL ?= http://$(HOST):$(PORT)
LABELLED ?=
FILE ?=
ONLY ?=
SCALE ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup data train export evaluate release slices audit serve predict evaluate-live demo \
  test test-distributed test-real robust bench lint format mlflow lock clean

help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'
	@echo "Variables: DATA=… (train, data), PORT=8000 HOST=127.0.0.1 MODEL=… (serve), FILE=… (predict),"
	@echo "  URL=… LABELLED=… (evaluate-live), TORCH_INDEX=… (setup). Details: README.md"

# --- environment: each stamp adds what its targets need, and nothing is installed twice ---

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "error: Python 3.11 or 3.12 is needed; '$(PYTHON)' is another. Use make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements/serve.txt requirements/torch-cuda.txt | $(PY)
	@echo "Installing what serving needs (once; a few minutes)…"
	$(PIP_INSTALL) -r requirements/serve.txt
	@touch $@

$(VENV)/.train: requirements/train.txt $(VENV)/.serve
	@echo "Installing what training and evaluation need (once)…"
	$(PIP_INSTALL) -r requirements/train.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.train
	@echo "Installing test tools and linters (once)…"
	$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

setup: $(VENV)/.dev ## Install everything into .venv

# --- the line: fetch, prepare, train, export, evaluate (dvc.yaml) ---

data: $(VENV)/.train ## Fetch and prepare the photos; DATA= a zip, a folder, an address, kaggle or sample
	@if [ -n "$(DATA)" ]; then DATA="$(DATA)" dvc repro --single-item --force fetch; fi
	dvc repro prepare

train: $(VENV)/.train ## Run the whole line: data to evaluated model; DATA= as for data
	@if [ -n "$(DATA)" ]; then DATA="$(DATA)" dvc repro --single-item --force fetch; fi
	dvc repro

export: $(VENV)/.train ## Write models/model.pt from the best checkpoint
	dvc repro export

evaluate: $(VENV)/.train ## Evaluate models/model.pt on the test split
	dvc repro evaluate

slices: $(VENV)/.train ## Where MODEL is weak: by kind of photo and of damage (build/slices)
	$(PY) -m evaluation.slices --model "$(MODEL)"

audit: $(VENV)/.train ## Rank probable wrong labels for a person to review (build/audit, and MLflow)
	$(PY) -m training audit

release: $(VENV)/.train ## Put the evaluated models/model.pt in models/release, if its gates pass
	$(PY) -m evaluation.release

mlflow: $(VENV)/.train ## Open the experiments in the browser
	mlflow ui --backend-store-uri sqlite:///mlflow.db --port 5000

# --- the service ---

serve: $(VENV)/.serve ## Serve MODEL on HOST:PORT
	HOST="$(HOST)" PORT="$(PORT)" MODEL="$(MODEL)" $(PY) -m serving

predict: ## Ask the running service about FILE
	@[ -n "$(FILE)" ] || { echo "error: name a photo: make predict FILE=dog.jpg" >&2; exit 2; }
	@curl --fail-with-body --silent --show-error -F "file=@$(FILE)" $(URL)/predict; echo

evaluate-live: $(VENV)/.train ## Send the folder LABELLED to the service at URL and judge it
	@[ -n "$(LABELLED)" ] || { echo "error: name a folder with a sub-folder for each class: make evaluate-live LABELLED=… URL=…" >&2; exit 2; }
	$(PY) -m evaluation.live --url "$(URL)" --labelled "$(LABELLED)"

# --- trying and checking ---

demo: $(VENV)/.train ## The whole line on drawn pictures: train, export, serve, predict, evaluate, stop
	PYTHON="$(abspath $(PY))" bash scripts/demo.sh

test: $(VENV)/.dev ## Run the tests (under 5 minutes)
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

test-distributed: $(VENV)/.dev ## Check that two processes train what one does (2 minutes)
	$(PY) -m pytest -m distributed tests/training

test-real: $(VENV)/.dev ## Check the released model on real photos: LABELLED= a folder with a sub-folder a class
	@[ -n "$(LABELLED)" ] || { echo "error: name a folder with a sub-folder for each class: make test-real LABELLED=…" >&2; exit 2; }
	MODEL="$(MODEL)" bash scripts/with_service.sh \
	  sh -c 'exec $(PY) -m evaluation.live --url "$$URL" --labelled "$(LABELLED)" --out build/test-real'

robust: $(VENV)/.dev ## Try to break the service; ONLY=fuzz|bombs|connections|soak, SCALE=10 for ten times as long
	SCALE="$(SCALE)" $(PY) -m pytest -m robust -s --timeout 0 -k "$(ONLY)" tests/robustness

bench: $(VENV)/.dev ## Compare the service with its peers and the limit: docs/performance.md (20 minutes; wrk, h2load)
	$(PY) -m evaluation.bench.run

lint: $(VENV)/.dev ## Check format, style, types and import rules
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-cache

format: $(VENV)/.dev ## Format the code
	ruff format .
	ruff check --fix .

lock: $(VENV)/.dev ## Compile requirements/*.txt from *.in
	bash scripts/lock.sh

clean: ## Delete what can be made again (not data, models or experiments)
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis .schemathesis
