# `make demo` runs the whole pipeline on a made-up cohort. `make test` checks everything.
# Both create the environment in .venv if it is missing or out of date.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
WORKERS ?= 2

.PHONY: help setup demo learning test test-all check format clean

help:
	@echo "make demo      set up, run the pipeline on a made-up cohort, print the path of the report"
	@echo "make learning  measure what pretraining learns: WORK=FOLDER CT=FOLDER IDS=TABLE (85 minutes)"
	@echo "make test      set up, lint, type check, and run the tests (about 15 minutes on 2 cores)"
	@echo "make test-all  the same, with the slow tests"
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
