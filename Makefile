# What a person does with botfleet. Every goal sets itself up: the first one makes .venv, the
# next ones start at once. PYTHON=python3.12 picks an interpreter, ARGS="…" passes arguments on.

VENV := .venv
PYTHON ?=
FAULTS ?= 500
SEED ?= 1
WORKERS ?= 3
BIN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help run test check chaos chaos-mutants lock clean
.DEFAULT_GOAL := help

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## Start the demo fleet on a simulated market. Ctrl-C stops it.
	@exec $(BIN) -m console demo $(ARGS)

test: $(READY) ## Run every test, on real RabbitMQ and PostgreSQL. ARGS="-k name" picks some.
	@exec $(BIN) -m pytest $(ARGS)

check: $(READY) ## Lint, check formatting and types, run the pure tests. Needs no server.
	@$(BIN) -m ruff check .
	@$(BIN) -m ruff format --check .
	@$(BIN) -m mypy
	@exec $(BIN) -m pytest tests/unit --hypothesis-profile=quick $(ARGS)

chaos: $(READY) ## Kill, cut and break everything under real orders, then judge. FAULTS=500 SEED=1 WORKERS=3
	@exec $(BIN) -m tests.chaos.run --faults $(FAULTS) --seed $(SEED) --workers $(WORKERS) $(ARGS)

chaos-mutants: $(READY) ## Put known bugs back one at a time: each must turn the suite red. ARGS="--chaos" with real processes.
	@exec $(BIN) -m tests.chaos.mutants $(ARGS)

lock: $(READY) ## Renew constraints.txt after a change to the pins in pyproject.toml.
	@$(BIN) -m pip install --quiet uv==0.13.8
	@exec $(BIN) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--extra dev --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--output-file constraints.txt pyproject.toml

clean: ## Remove .venv and what the tools cached. var/, the demo's database, stays.
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt .ci/find-python .ci/set_up.py
	@python=$$(.ci/find-python "$(PYTHON)") && exec "$$python" .ci/set_up.py $(VENV)
