# `make demo` runs the whole pipeline on a made-up cohort. `make test` checks everything.
# Both create the environment in .venv if it is missing or out of date.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
WORKERS ?= 2

GPU_PYTHON ?= python3
WHEELS_PYTHON ?= 3.12
OUT ?= build/gpu

.PHONY: help setup demo learning gpu wheels test test-all check format clean

help:
	@echo "make demo      set up, run the pipeline on a made-up cohort, print the path of the report"
	@echo "make learning  measure what pretraining learns: WORK=FOLDER CT=FOLDER IDS=TABLE (85 minutes)"
	@echo "make gpu       checks and benchmarks of a GPU: OUT=FOLDER WHEELS=FOLDER; DEVICE=cpu is a trial"
	@echo "make wheels    fill WHEELS=FOLDER for make gpu on a machine without a package index"
	@echo "make test      set up, lint, type check, and run the tests (15 minutes on 2 cores)"
	@echo "make test-all  the same, with the slow tests (hours)"
	@echo "make check     check style, types and container files"
	@echo "make format    format the code"
	@echo "make clean     remove the environment and caches; keep stores and runs"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.sh
	@sh setup.sh $(VENV)
	@touch $@

demo: $(STAMP)
	$(BIN)/voco demo

learning: $(STAMP)
	@test -n "$(WORK)" && test -n "$(CT)" && test -n "$(IDS)" || \
		{ echo "make learning: give WORK=FOLDER CT=FOLDER IDS=TABLE; docs/learning.md says what they are"; exit 2; }
	$(BIN)/python scripts/learning_page.py "$(WORK)" --ct "$(CT)" --ids "$(IDS)" --write

gpu:
	$(GPU_PYTHON) scripts/gpu_checks.py --out "$(OUT)" $(if $(WHEELS),--wheels "$(WHEELS)") \
		$(if $(DEVICE),--device $(DEVICE)) $(if $(WRITE),--write)

wheels:
	@test -n "$(WHEELS)" || { echo "make wheels: give WHEELS=FOLDER"; exit 2; }
	$(GPU_PYTHON) scripts/gpu/wheels.py "$(WHEELS)" --python $(WHEELS_PYTHON)

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-all: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
