# Two commands on a fresh machine: make demo, make test. Each does its own set-up.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTEST_ARGS ?=

.PHONY: demo up down test soak check lock clean setup docs
setup:
	@PYTHON=$(PYTHON) scripts/bootstrap

demo: setup ## lose a site on purpose and see what users felt
	@ninelives demo

up: setup ## start the local estate
	@ninelives stack up

down: setup ## stop it
	@ninelives stack down

test: setup ## the tests, on real processes
	@# Three at once on two cores: most of the tests' time is waiting for processes, stores and Airflow.
	@python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak" $(PYTEST_ARGS)

soak: setup ## the long ones: a thousand damages, dozens of kills, a day of missed intervals on an Airflow of its own
	@python -m pytest -m soak $(PYTEST_ARGS)

check: setup ## what must pass before a commit
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@python -m pytest -q -m "not stack and not slow and not airflow and not soak" $(PYTEST_ARGS)

docs: setup ## refresh what is generated: the estate's schema, the table of DAGs in the README
	@ninelives estate schema --write include/estates/demo/estate.schema.json
	@python scripts/dag_table.py --write

lock: setup ## resolve pyproject.toml anew
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --extra local --group dev --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## stop the local estate and remove all that was made here
	@if [ -x .venv/bin/ninelives ]; then .venv/bin/ninelives stack down; fi
	@rm -rf .venv .ninelives .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
