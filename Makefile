# The one place that says how things are run. `make` or `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
# uv where it is there, else pip; `make UV=` takes pip all the same, in an environment that uv did not make.
UV := $(shell command -v uv)
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

# A build of torch other than the package index's own, as TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP_INSTALL := $(if $(UV),$(UV) pip install --quiet --compile-bytecode --python $(PY),$(PY) -m pip install --quiet --disable-pip-version-check)
# The files pin everything, by hash; torch and torchvision come after what they need.
PIP_LOCKED := $(PIP_INSTALL) --no-deps --require-hashes
PIP_TORCH := $(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
  -c requirements/torch.txt -c requirements/torch-cuda.txt

# A process and a thread for each core.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

HOST ?= 127.0.0.1
PORT ?= 8000
MLFLOW_PORT ?= 5000
RUNTIME ?= torch
MODEL ?= models/release/model.$(if $(filter onnx,$(RUNTIME)),onnx,pt)
DATA ?=
ADD ?=
URL ?= http://$(HOST):$(PORT)
LABELLED ?=
SPLIT ?=
FILE ?=
IMAGE ?=
NAME ?=
STAGING ?=
AS_TAKEN ?=
OLDER ?=
STRANGERS ?=
TRIALS ?=
ONLY ?=
IN ?=
OUT ?=
ENGINE ?=
WORKERS ?= 2
SCALE ?= 1
ENV_FILE ?=
OTEL ?=
SHADOW ?=
MEMORY ?=
CANARY ?=
MONTH ?=
FORCE ?=
DRY ?=
BAKE ?=
# The options of a deploy that are given; the rest stays as it is.
DEPLOY_OPTIONS = $(if $(MEMORY),--memory "$(MEMORY)") $(if $(SHADOW),--shadow "$(SHADOW)") \
  $(if $(CANARY),--canary "$(CANARY)") $(if $(BAKE),--bake "$(BAKE)")

# The splits that decide on a promotion: test, and production once there are photos of it.
TEST_SETS = --split test $(if $(shell grep -ls ',production,' data/prepared/manifest.csv),--split production)

.DEFAULT_GOAL := help
# What `make help` shows.
FIRST := setup demo train mlflow serve predict evaluate-live promote deploy rollback test lint

.PHONY: help help-all docs reference setup rename data train continue export evaluate release promote loop slices ablation tune bench-train audit review-suspects serve predict torchserve evaluate-live score drift drift-reference production intervals rates shifts month demo \
  test test-slow test-browser test-walk test-distributed test-ray test-torchserve test-clients test-real robust bench coverage lint lint-delivery format mlflow lock clean \
  data-push data-pull image image-train smoke-image compose deploy rollback deploy-remote rollback-remote backup restore validate evaluate-staging \
  monitoring-test incidents rehearse rehearse-compose rehearse-loop rehearse-faults

help: ## List the twelve targets that you need first
	@for target in $(FIRST); do \
	  awk -F ':.*## ' -v target=$$target '$$1 == target { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST)); \
	done
	@echo
	@echo "make help-all lists the rest. Words in capitals are variables: make train DATA=path/to/folder."

help-all: ## List every target
	@awk -F ':.*## ' '/^# --- / { gsub(/^# --- | ---$$/, ""); print "\n" $$0 } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# --- the environment, .venv: each target adds what it needs, and nothing is installed twice ---

$(PY):
	@$(PYTHON) -c 'import sys; now = sys.version_info[:2]; (3, 11) <= now <= (3, 13) or sys.exit( \
	  "error: Python 3.11 to 3.13 is needed, and $(PYTHON) is %s.%s: name another, as make PYTHON=python3.13" % now)'
	$(if $(UV),$(UV) venv --quiet --python $(PYTHON),$(PYTHON) -m venv) $(VENV)

$(VENV)/.serve-onnx: requirements/serve-onnx.txt | $(PY)
	@echo "Installing what serving with ONNX Runtime needs (once)…"
	$(PIP_LOCKED) -r requirements/serve-onnx.txt
	@touch $@

$(VENV)/.serve: requirements/serve.txt requirements/torch.txt requirements/torch-cuda.txt | $(PY)
	@echo "Installing what serving needs (once; a few minutes)…"
	$(PIP_LOCKED) -r requirements/serve.txt
	$(PIP_TORCH) torch
	@touch $@

$(VENV)/.otel: requirements/otel.txt | $(PY)
	@echo "Installing what sending traces needs (once)…"
	$(PIP_LOCKED) -r requirements/otel.txt
	@touch $@

$(VENV)/.train: requirements/train.txt $(VENV)/.serve
	@echo "Installing what training and evaluation need (once)…"
	$(PIP_LOCKED) -r requirements/train.txt
	$(PIP_TORCH) torchvision
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.train
	@echo "Installing test tools and linters (once)…"
	$(PIP_LOCKED) -r requirements/dev.txt
	@touch $@

$(VENV)/.ray: requirements/ray.txt $(VENV)/.train
	@echo "Installing Ray (once)…"
	$(PIP_LOCKED) -r requirements/ray.txt
	@touch $@

$(VENV)/.torchserve: requirements/torchserve.txt $(VENV)/.serve
	@echo "Installing TorchServe and its archiver (once)…"
	$(PIP_LOCKED) -r requirements/torchserve.txt
	@touch $@

$(VENV)/.browser: requirements/browser.txt $(VENV)/.dev
	@echo "Installing what drives a browser (once)…"
	$(PIP_LOCKED) -r requirements/browser.txt
	@touch $@

$(VENV)/.clients: requirements/clients.txt $(VENV)/.dev
	@echo "Installing programs that use the service (once)…"
	$(PIP_LOCKED) -r requirements/clients.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.dev
	@echo "Installing what builds the documentation (once)…"
	$(PIP_LOCKED) -r requirements/docs.txt
	@touch $@

ifeq ($(wildcard .git),)  # a downloaded zip: DVC would look for the repository
$(VENV)/.train: | .dvc/config.local
.dvc/config.local:
	@printf '[core]\n    no_scm = true\n' > $@
endif

setup: $(VENV)/.dev ## Install everything into .venv

rename: ## Rename the project in all its files: make rename NAME=my-flowers
	@$(PYTHON) scripts/rename.py "$(NAME)"

# --- the pipeline, and training ---

data: $(VENV)/.train ## Fetch and prepare the photos; DATA= a zip, a folder, an address, kaggle or sample; ADD= more of them
	@if [ -n "$(DATA)$(ADD)" ]; then DATA="$(DATA)" ADD="$(ADD)" dvc repro --single-item --force fetch; fi
	dvc repro prepare

train: $(VENV)/.train ## Run the pipeline, from photos to an evaluated model; DATA= and ADD= as for data
	@if [ -n "$(DATA)$(ADD)" ]; then DATA="$(DATA)" ADD="$(ADD)" dvc repro --single-item --force fetch; fi
	dvc repro

continue: $(VENV)/.train ## Train on from the released model; keep the result if validation prefers it to that of make train
	bash scripts/continue.sh

export: $(VENV)/.train ## Write models/model.pt, model.onnx and model-int8.onnx from the best checkpoint
	dvc repro export

evaluate: $(VENV)/.train ## Evaluate models/model.pt on the validation split
	dvc repro evaluate

slices: $(VENV)/.train ## Measure on validation where MODEL is weak, by kind of photo and of damage (build/slices)
	$(PY) -m evaluation slices --model "$(MODEL)" $(if $(AS_TAKEN),--as-taken "$(AS_TAKEN)")

ablation: $(VENV)/.train ## Measure what each part of the recipe is worth: eleven short trainings with three seeds each (build/ablation, 3 hours)
	$(PY) -m training ablation

tune: $(VENV)/.train ## Search for better values of the recipe with Optuna on validation (build/tune); TRIALS=30
	$(PY) -m training tune $(if $(TRIALS),--trials "$(TRIALS)")

bench-train: $(VENV)/.train ## Measure fine-tuning in photos/s on three sources of batches (build/bench-train)
	$(PY) -m training bench

audit: $(VENV)/.train ## Rank probable wrong labels for a person to review (build/audit, and MLflow)
	$(PY) -m training audit

review-suspects: $(VENV)/.train ## Show the worst suspects of the audit at /review on HOST:PORT, for people to label; Ctrl-C writes configs/labels.csv
	@HOST="$(HOST)" PORT="$(PORT)" MODEL="$(MODEL)" exec $(PY) -m training review-suspects

release: $(VENV)/.train ## Measure the exported models on the test split; put them in models/release if their gates pass; AS_TAKEN=
	$(PY) -m evaluation release $(if $(AS_TAKEN),--as-taken "$(AS_TAKEN)")

promote: $(VENV)/.train ## Compare models/model.pt with MODEL on LABELLED, else on test and production; release it as @champion if it may replace it
	$(PY) -m evaluation compare --candidate models/model.pt --champion "$(MODEL)" $(if $(LABELLED),--labelled "$(LABELLED)",$(TEST_SETS))
	$(PY) -m evaluation release $(if $(AS_TAKEN),--as-taken "$(AS_TAKEN)")
	$(PY) -m training promote "$(MODEL)"

loop: $(VENV)/.train ## From photos that people labelled (ADD=) to a better model: add, train, compare, release; IMAGE= deploys; DRY=1 ONLY=step FORCE=1
	@MODEL="$(MODEL)" OTEL="$(OTEL)" ENV_FILE="$(ENV_FILE)" $(PY) -m loop $(if $(ADD),--add "$(ADD)") $(if $(DRY),--dry) $(if $(ONLY),--only "$(ONLY)") \
	  $(if $(FORCE),--force) $(if $(IMAGE),--image "$(IMAGE)" -- $(DEPLOY_OPTIONS))

data-push: $(VENV)/.train ## Push photos and models to the DVC remote DVC_REMOTE_URL=s3://bucket/path
	bash scripts/data_remote.sh push

data-pull: $(VENV)/.train ## Pull what dvc.lock names from the DVC remote
	bash scripts/data_remote.sh pull

mlflow: $(VENV)/.train ## Show the experiments in MLflow on MLFLOW_PORT
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlflow.db --port "$(MLFLOW_PORT)"

# --- the service, and asking it ---

serve: $(VENV)/$(if $(filter %.onnx,$(MODEL)),.serve-onnx,.serve) $(if $(OTEL_EXPORTER_OTLP_ENDPOINT),$(VENV)/.otel) ## Serve MODEL on HOST:PORT; RUNTIME=onnx serves models/release/model.onnx
	@HOST="$(HOST)" PORT="$(PORT)" MODEL="$(MODEL)" exec $(PY) -m serving

predict: ## Send FILE to the running service
	@[ -n "$(FILE)" ] || { echo "error: name a photo: make predict FILE=dog.jpg" >&2; exit 2; }
	@curl --fail-with-body --silent --show-error $${SERVING_API_KEY:+-H "X-API-Key: $$SERVING_API_KEY"} \
	  -F "file=@$(FILE)" $(URL)/predict; echo

torchserve: $(VENV)/.torchserve ## Archive MODEL for TorchServe (build/torchserve)
	@$(PY) scripts/archive.py "$(MODEL)"

evaluate-live: $(VENV)/.train ## Send the folder LABELLED to the service at URL and judge it; SPLIT=production sends those photos instead
	@[ -n "$(LABELLED)$(SPLIT)" ] || { echo "error: name a folder with a sub-folder for each class, or SPLIT=production: make evaluate-live LABELLED=… URL=…" >&2; exit 2; }
	@status=0; $(PY) -m evaluation live --url "$(URL)" $(if $(LABELLED),--labelled "$(LABELLED)") $(if $(SPLIT),--split "$(SPLIT)") \
	  --model "$(MODEL)" || status=$$?; \
	  if [ -s reports/live/live.json ] && [ $$status -ne 2 ]; then $(PY) -m training track reports/live; fi; exit $$status

score: $(VENV)/.train $(if $(filter ray,$(ENGINE)),$(VENV)/.ray) ## Score the photos of IN, a folder or a list, into OUT=….parquet; ENGINE=ray on a cluster
	@[ -n "$(IN)" ] && [ -n "$(OUT)" ] || { echo "error: make score IN=folder-or-list OUT=answers.parquet" >&2; exit 2; }
	$(PY) -m evaluation score "$(IN)" "$(OUT)" --model "$(MODEL)" --engine "$(or $(ENGINE),local)" --workers "$(WORKERS)"

drift: $(VENV)/.train ## Compare the latest photos of the service at URL with its reference (reports/drift)
	$(PY) -m evaluation drift --url "$(URL)"

production: $(VENV)/.train ## Estimate the accuracy of all answers of the service at URL from what people reviewed (reports/production)
	$(PY) -m evaluation production --url "$(URL)"

drift-reference: $(VENV)/.train ## Take the latest photos of the service at URL as the drift reference of MODEL, which it runs
	$(PY) -m evaluation reference --url "$(URL)" --model "$(MODEL)"

intervals: $(VENV)/.train ## Measure how often the published intervals hold the truth, by simulation (10 minutes)
	$(PY) -m evaluation intervals
	$(call publish,intervals,Coverage of the intervals)

rates: $(VENV)/.train ## Measure how often right and wrong models pass the gates (15 minutes); OLDER= another artefact
	$(PY) -m evaluation rates --model "$(MODEL)" $(if $(OLDER),--other "$(OLDER)")
	$(call publish,rates,Error rates of the gates)

shifts: $(VENV)/.train ## Measure which changes the drift alarm notices, and how soon (10 minutes); STRANGERS=folder
	$(PY) -m evaluation shifts --model "$(MODEL)" $(if $(STRANGERS),--strangers "$(STRANGERS)")
	$(call publish,shifts,What the drift alarm detects)

month: $(VENV)/.train ## Simulate a month of changing photos, without the loop and with it: what a label buys (docs/images/month.png, 5 minutes)
	$(PY) -m training month
	$(call publish,month,A month in five minutes)
	@cp build/month/month.png docs/images/month.png

# --- delivery (docs/deploy.md) ---

image: ## Build the service's image, IMAGE=<project>-api:latest, with MODEL inside; RUNTIME=onnx a light one (latest-onnx); OTEL=1 with traces
	MODEL="$(MODEL)" IMAGE="$(IMAGE)" OTEL="$(OTEL)" bash deploy/build.sh serve

image-train: ## Build the training image, which runs the pipeline on mounted data
	IMAGE="$(IMAGE)" bash deploy/build.sh train

smoke-image: ## Start the image as a container and run a deploy's checks on it
	IMAGE="$(IMAGE)" bash deploy/smoke.sh

compose: ## Start the service with Prometheus, Alertmanager and Grafana; STAGING=1 IMAGE=name@sha256:… on a staging host
	$(if $(STAGING),IMAGE="$(IMAGE)" DEPLOYMENT="$(lastword $(subst @, ,$(IMAGE)))") docker compose --file deploy/compose.yml \
	  $(if $(STAGING),--file deploy/compose.staging.yml) up --detach

deploy: ## On the host: replace the running service with IMAGE=name@sha256:…, losing no request; ENV_FILE= SHADOW= CANARY= BAKE= MEMORY=
	python3 deploy/deploy.py deploy "$(IMAGE)" $(if $(ENV_FILE),--env-file "$(ENV_FILE)") $(DEPLOY_OPTIONS)

rollback: ## On the host: return to the previous release; IMAGE= only if that is what serves
	python3 deploy/deploy.py rollback $(IMAGE)

deploy-remote: ## Deploy on DEPLOY_HOST=user@host over ssh, with the same variables
	ENV_FILE="$(ENV_FILE)" bash deploy/remote.sh deploy "$(IMAGE)" $(DEPLOY_OPTIONS)

rollback-remote: ## Roll back on DEPLOY_HOST over ssh
	bash deploy/remote.sh rollback $(IMAGE)

backup: ## Save what this machine must not lose (STATE, MLflow's runs) into OUT=….tar.gz
	@[ -n "$(OUT)" ] || { echo "error: name the archive: make backup OUT=backup.tar.gz" >&2; exit 2; }
	python3 deploy/backup.py save "$(OUT)"

restore: ## Restore IN=….tar.gz on an empty machine; nothing is overwritten
	@[ -n "$(IN)" ] || { echo "error: name the archive: make restore IN=backup.tar.gz" >&2; exit 2; }
	python3 deploy/backup.py restore "$(IN)"

validate: ## Check that URL serves IMAGE=name@sha256:… and predicts correctly
	python3 deploy/deploy.py validate "$(IMAGE)" --url "$(URL)"

evaluate-staging: $(VENV)/.train ## Judge URL on the labelled photos of the zip at LABELLED_URL
	bash deploy/evaluate.sh

monitoring-test: ## Check Prometheus' rules and Alertmanager's routes (promtool, amtool)
	bash deploy/monitoring/test.sh

incidents: ## Simulate incidents: how soon the right alert fires (build/incidents.md; promtool); MONTH=1 for a quiet month too (10 minutes)
	python3 deploy/monitoring/incidents.py $(if $(MONTH),--month)

rehearse-compose: ## Start deploy/compose.yml on a real engine, use it and stop it (5 minutes)
	python3 deploy/rehearsal/compose.py

rehearse-faults: $(VENV)/.dev ## Break each part of a host at each step of a deploy, under load (build/faults.md, 6 minutes; needs haproxy)
	rm -rf build/faults
	OMP_NUM_THREADS=1 $(PY) -m pytest -m faults --numprocesses auto --maxprocesses 4 --timeout 900 tests/deploy/test_faults.py
	@{ echo "| call | what fails | steps | the call | requests lost | next deploy succeeds |"; \
	  echo "| --- | --- | --- | --- | --- | --- |"; cat build/faults/*.md; } > build/faults.md; cat build/faults.md

rehearse-loop: $(VENV)/.browser ## Rehearse the loop: the world drifts, people label, a better model goes live, a caller lies (build/rehearse-loop, 15 minutes)
	VENV="$(VENV)" bash scripts/rehearse_loop.sh

rehearse: ## Rehearse delivery on this machine with real components and planned faults (10 minutes)
	python3 deploy/rehearse.py

# A simulation's tables and figures become a page of docs/simulations.
define publish
@mkdir -p docs/simulations
@{ printf '# %s\n\nMade by `make %s`; do not edit.\n\n' "$(2)" "$(1)"; cat "build/$(1)/table.md"; } >"docs/simulations/$(1).md"
@cp "build/$(1)/$(1).json" "docs/simulations/$(1).json"
endef

# --- trying and checking ---

demo: $(VENV)/.train ## Run the whole pipeline on drawn pictures, serve the model and evaluate the service
	PYTHON="$(abspath $(PY))" bash scripts/demo.sh

test: $(VENV)/.dev ## Run the tests, or those that ONLY=word names (all: about 8 minutes on two cores)
	$(PYTEST) -k "$(ONLY)"

test-slow: $(VENV)/.dev ## Run the tests that take minutes: real trainings, processes, signals; ONLY= as for test
	$(PYTEST) -m slow --timeout 600 -k "$(ONLY)"

test-ray: $(VENV)/.dev $(VENV)/.ray ## Check that two Ray processes score as one does (1 minute)
	$(PY) -m pytest -m ray tests/evaluation

test-torchserve: $(VENV)/.dev $(VENV)/.torchserve ## Check the released model in TorchServe's own loader, and in its server if java is there (1 minute)
	$(PY) -m pytest -m torchserve tests/serving

test-clients: $(VENV)/.clients ## Use the service with Triton's client, a generated client and urllib3's retries
	$(PY) -m pytest -m clients tests/clients

test-browser: $(VENV)/.browser ## Use the pages as a person does, in Chromium (CHROMIUM=its path), and check them with axe
	$(PY) -m pytest -m browser tests/browser

test-walk: $(VENV)/.dev ## Type the README's commands in a fresh clone, on drawn photos (10 minutes)
	$(PY) -m pytest -m walk -s tests/test_walk.py

test-distributed: $(VENV)/.dev ## Check that two processes train what one does (2 minutes)
	$(PY) -m pytest -m distributed tests/training

test-real: $(VENV)/.dev ## Check the released model on real photos: LABELLED= a folder with one sub-folder per class
	@[ -n "$(LABELLED)" ] || { echo "error: name a folder with a sub-folder for each class: make test-real LABELLED=…" >&2; exit 2; }
	MODEL="$(MODEL)" bash scripts/with_service.sh \
	  sh -c 'exec $(PY) -m evaluation live --url "$$URL" --labelled "$(LABELLED)" --model "$(MODEL)" --out build/test-real'

robust: $(VENV)/.dev ## Try to break the service; ONLY=fuzz|bombs|connections|soak, SCALE=10 for ten times as long
	SCALE="$(SCALE)" $(PY) -m pytest -m robust -s --timeout 0 -k "$(ONLY)" tests/robustness

bench: $(VENV)/.dev ## Compare the service with its peers and the machine's limit: docs/performance.md (35 minutes; wrk, h2load)
	$(PY) -m bench

coverage: $(VENV)/.dev ## Run the tests and report what they cover (build/coverage.md); fails below pyproject.toml's floor
	@mkdir -p build
	$(PYTEST) --cov --cov-report= --cov-fail-under=0
	@$(PY) -m coverage report --format=markdown > build/coverage.md || status=$$?; \
	  tail -n 1 build/coverage.md; exit $${status:-0}

lint-delivery: $(VENV)/.dev ## Check Dockerfiles, workflows, manifests, rules and shell scripts
	bash deploy/lint.sh

lint: $(VENV)/.dev ## Check format, style, types, import rules and the words of the prose
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-cache
	$(PY) scripts/words.py

reference: $(VENV)/.dev ## Write docs/reference from the code
	$(PY) scripts/reference.py

docs: $(VENV)/.docs ## Build the documentation as a site (build/docs), check its links and prose, execute its notebook
	$(PY) scripts/tour.py --check
	bash scripts/prose.sh
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet
	@echo "Read it, without a network: python3 -m http.server --bind 127.0.0.1 --directory build/docs"

format: $(VENV)/.dev ## Format the code
	ruff format .
	ruff check --fix .

lock: $(VENV)/.dev ## Compile requirements/*.txt from *.in
	bash scripts/lock.sh

clean: ## Delete what can be rebuilt (not data, models or experiments)
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis .schemathesis
