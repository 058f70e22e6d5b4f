# make setup | demo | test | check. A second run of any installs nothing unless pyproject.toml or constraints.txt changed.

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all lint debian-packages clean
MAKEFLAGS += --no-print-directory

# Nothing of the caller's Python environment may leak into .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE := 1

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell .ci/usable-python $(name))))
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt

# Tests run in three processes, a file in one of them: on two cores, for most wait for services of their own.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Debian packages that some tests need; without them those tests say so and skip.
DEBIAN_PACKAGES := chromium g++ slurmctld slurmd slurm-client munge slurmdbd mariadb-server slurm-wlm-mysql-plugin

help:
	@echo "make setup   .venv with the exact tested set; then $(BIN)/multislice runs"
	@echo "make demo    the main job on an embedded scan: Bluesky, Tiled, Prefect, torchrun; result in demo-out/"
	@echo "make check   ruff, pyright, import-linter and unit tests"
	@echo "make test    everything"
	@echo "make test-all  the same, and further combinations of threads, devices and propagations"

setup: .venv/setup.done

demo: setup
	$(BIN)/multislice demo --out demo-out

check: lint
	$(PYTEST) tests/unit

test: debian-packages lint
	$(PYTEST)

test-all: debian-packages lint
	$(PYTEST) -m "matrix or not matrix"

lint: .venv/test.done
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

debian-packages:
	@.ci/debian-packages $(DEBIAN_PACKAGES)

clean:
	rm -rf .venv demo-out .pytest_cache .ruff_cache .import_linter_cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { .ci/usable-python --explain; exit 1; }
	"$(PYTHON)" -m venv --clear .venv

# torch alone first: the resolver then keeps this build whatever the ranges of other packages allow.
.venv/setup.done: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(PIP_INSTALL) --editable ".[demo]"
	@touch $@

.venv/test.done: .venv/setup.done
	$(PIP_INSTALL) --editable ".[test]"
	@touch $@
