# The course's commands; `make` alone lists them. Each sets up first whatever it needs.

# The conda environment of environment.yml holds all that .venv would.
ifeq ($(CONDA_DEFAULT_ENV),message-queues)
BIN := $(CONDA_PREFIX)/bin
else
BIN := .venv/bin
endif

# A run has a hundred processes; where this is set, each compiles labkit and the tests anew.
unexport PYTHONDONTWRITEBYTECODE

# What `make test` passes to pytest. ARGS come last, so that they can name files or override.
PYTEST_ARGS := -p tools.execution -n 4 --dist loadscope --no-loadscope-reorder --nbval --nbval-current-env --nbval-cell-timeout=120

.DEFAULT_GOAL := help
.PHONY: help lab test notebooks bench storm lint setup clean

help: ## list these commands
	@echo "Usage: make COMMAND [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lab: setup ## open the course in JupyterLab, with a broker behind it
	@$(BIN)/labkit lab $(ARGS)

test: setup ## run all tests, the notebooks among them; ARGS go to pytest
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(ARGS)

notebooks: setup ## build the notebooks from their sources and execute them; ARGS pick some
	$(BIN)/python -m tools.build_notebooks $(ARGS)

bench: setup ## measure the figures that the course promises
	$(BIN)/python -m benchmarks $(ARGS)

storm: setup ## try the shop in a storm of faults: ORDERS=500 FAULTS=20 SEED=1
	$(BIN)/python -m tools.storm --orders $(or $(ORDERS),500) --faults $(or $(FAULTS),20) --seed $(or $(SEED),1) $(ARGS)

lint: ## check style and types
	@tools/setup.sh --no-broker
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

setup: ## only set up: a Python environment and a way to get a broker
	@tools/setup.sh

clean: ## end the broker that the course runs, remove the environment and all caches
	@[ ! -x $(BIN)/labkit ] || $(BIN)/labkit broker stop || true
	rm -rf .venv build labkit.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
