# make setup | demo | test | check. A repeated run installs nothing unless pyproject.toml or constraints.txt changed.

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all lint debian-packages clean
MAKEFLAGS += --no-print-directory

# Isolate .venv from the caller's Python environment.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE := 1

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell .ci/usable-python $(name))))
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt

# Tests run in four processes, each file in one process. Four suit two cores, because most tests wait for services.
PYTEST := $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

# Debian packages that some tests need. Without them these tests are skipped.
DEBIAN_PACKAGES := chromium g++ slurmctld slurmd slurm-client munge slurmdbd mariadb-server slurm-wlm-mysql-plugin

help:
	@echo "make setup     create .venv with the tested package versions and the command $(BIN)/multislice"
	@echo "make demo      take and reconstruct simulated scans with Bluesky, Tiled, Prefect and torchrun; output in demo-out/"
	@echo "make check     run ruff, pyright, import-linter and the unit tests"
	@echo "make test      run all checks and tests"
	@echo "make test-all  also test further combinations of threads, devices and propagation models, and more figures"

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

# Install torch first, so that the resolver keeps this build.
.venv/setup.done: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(PIP_INSTALL) --editable ".[demo]"
	@touch $@

.venv/test.done: .venv/setup.done
	$(PIP_INSTALL) --editable ".[test]"
	@touch $@
