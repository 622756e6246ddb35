PYTHON ?= python3
PLAN   ?= pipeline.yaml
TARGET ?= local
RUN    ?= runs/latest
NIGHTLY ?= nightly.yaml
BIN    := .venv/bin

.PHONY: deploy nightly acceptance report test test-devices test-ray check bench devices devices-down clean help
.DEFAULT_GOAL := help

deploy: .venv/ready          ## train, prune, convert, deploy, measure, judge: PLAN=pipeline.yaml TARGET=local HOST=
	@$(BIN)/edgepipe deploy $(PLAN) --target $(TARGET) $(if $(filter command%,$(origin HOST)),--host $(HOST)) $(ARGS)

nightly: .venv/ready         ## a farm's night, every plan on every target beside its baseline: NIGHTLY=nightly.yaml
	@$(BIN)/edgepipe nightly $(NIGHTLY) $(ARGS)

acceptance: .venv/ready      ## try on a device all that is promised of it: TARGET=rpi4 HOST=
	@$(BIN)/edgepipe acceptance --plan $(PLAN) --target $(TARGET) $(if $(filter command%,$(origin HOST)),--host $(HOST))

report: .venv/ready          ## show a run again: RUN=runs/latest
	@$(BIN)/edgepipe report $(RUN)

devices: .venv/ready         ## start the emulated devices (needs root, qemu-user-static, mmdebstrap)
	@$(BIN)/edgepipe devices up

devices-down: .venv/ready    ## end them; nothing of them stays
	@$(BIN)/edgepipe devices down

test: .venv/ready-to-test    ## every test that needs neither an emulated device nor Ray
	$(BIN)/python -m pytest -m "not device and not ray" --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-devices: .venv/ready-to-test  ## the tests on emulated devices
	$(BIN)/python -m pytest -m device

test-ray: .venv/ready-to-test  ## the tests on a Ray cluster, which installs Ray
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,ray]'
	$(BIN)/python -m pytest -m ray

check: .venv/ready-to-test   ## ruff, mypy --strict, and the tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(MAKE) test

bench: .venv/ready-to-test   ## the figures we claim: SUITE=spine
	@$(BIN)/python -m benchmarks $(SUITE)

clean:                       ## remove the environment and what tools left; the runs and what is installed stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:                        ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	@echo "creating the environment in .venv (the first time, most of it is TensorFlow's download)"
	@$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . && touch $@

.venv/ready-to-test: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' && touch $@
