# Every command a person or CI needs. `make` alone prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

BIN := .venv/bin
# The first of these that runs and is 3.11, 3.12 or 3.13 makes the environment; PYTHON=… overrides.
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed  ## Create .venv from pyproject.toml under constraints.txt (resumes when interrupted)

.venv/installed: pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "make: git is missing; install it (Debian: apt install git)" >&2; exit 1; }
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	[ -n "$${found:-}" ] || { echo "make: Slipway needs Python 3.11, 3.12 or 3.13 and none of '$(PYTHONS)' is one; install it or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "Creating .venv with $$($$found --version)"; rm -rf .venv; \
	  "$$found" -m venv .venv 2>/dev/null || { rm -rf .venv; echo "make: $$found cannot make a virtual environment; install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }; \
	fi
	@echo "Installing the packages that constraints.txt pins (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]' \
	  || { echo "make: the install stopped (see above); run the same command again to go on" >&2; exit 1; }
	@touch .venv/installed

run: install  ## The whole pipeline, from data to a judged model
	@$(BIN)/slipway run

# Where memory has 8 GiB to spare, tests keep their folders there: on a disk they wait for thousands of fsyncs.
TEMPROOT := $(shell [ "$$(df --output=avail -BG /dev/shm 2>/dev/null | tail -1 | tr -dc 0-9)" -ge 8 ] 2>/dev/null \
  && awk '/^MemAvailable/ && $$2 >= 8388608 {print "/dev/shm"}' /proc/meminfo)

test: install lint  ## Lint, types, contracts and every test but long chaos and gpu
	PYTEST_DEBUG_TEMPROOT=$(TEMPROOT) $(BIN)/python -m pytest -m "not chaos and not gpu and not e2e and not alone" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "(e2e or alone) and not chaos"  # one at a time, on a disk: these hold to stated times

check: install lint  ## The fast part of `make test`: lint, types, layers, unit tests and contracts
	PYTEST_DEBUG_TEMPROOT=$(TEMPROOT) $(BIN)/python -m pytest tests/unit tests/contracts

lint: install  ## Lint, layout, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>&1 | tail -15

format: install  ## Let ruff order the imports and lay out the code
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .

# The tests start a PostgreSQL of their own and stop it: Debian is told to make and run none.
services:  ## Install the Debian packages that tests use (as root)
	@if [ "$$(id -u)" != 0 ]; then echo "make services: not root, so nothing is installed; tests that need a service are skipped with the reason"; exit 0; fi; \
	command -v apt-get >/dev/null || { echo "make services: no apt-get here; tests that need a service are skipped with the reason"; exit 0; }; \
	command -v chromium >/dev/null && command -v bwrap >/dev/null && command -v gcc >/dev/null && command -v redis-server >/dev/null && ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 \
	  && { echo "make services: all there"; exit 0; }; \
	export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
	if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then \
	  apt-get install -qq -y --no-install-recommends postgresql-common; \
	  sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf; \
	fi; \
	apt-get install -qq -y --no-install-recommends bubblewrap chromium gcc libc6-dev postgresql redis-server

chaos: install  ## Long runs of kills and races
	$(BIN)/python -m pytest -m chaos

# On a GPU machine without this environment (no network, say), PYTHON=… names the one that has torch.
GPU_PYTHON := $(or $(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,python3))
gpu:  ## Tests marked gpu, then a 0.5B-shaped fine-tune: tokens/s, MFU, peak memory
	$(GPU_PYTHON) -m pytest -m gpu tests/gpu -p no:cacheprovider
	$(GPU_PYTHON) benchmarks/gpu_finetune.py $(or $(OUT),.scratch)/gpu_finetune.json

lock: install  ## Pin every package again, keeping what still fits (UPGRADE=1: the newest)
	$(BIN)/python -m pip install -qq uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade) -o constraints.txt pyproject.toml

.PHONY: help install run test check lint format services chaos gpu lock
