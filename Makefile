# `make demo` and `make test` need Python 3.11 or newer and nothing else; both make .venv themselves.

PYTHON ?= python3# makes .venv; anything from 3.11 on
ARGS ?=# more arguments: make test ARGS="-k scheduler", make demo ARGS="epochs=10"

# One thread a process: the tests already run in two.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

export PYTHON
.PHONY: help demo test lint format
.NOTPARALLEL:

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## train on real handwritten digits with AutoWU: about a minute, nothing to download but packages
	@scripts/venv.sh requirements.txt
	.venv/bin/python train.py $(ARGS)

test: ## run the tests
	@scripts/venv.sh requirements-dev.txt
	$(ONE_THREAD) .venv/bin/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: ## check style, format and types
	@scripts/venv.sh requirements-dev.txt
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: ## repair style and format
	@scripts/venv.sh requirements-dev.txt
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
