# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs, once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PARITY_STAMP := .venv-parity/.installed
NEMO_PYTHON := $(CURDIR)/.venv-parity/bin/python

.PHONY: help install demo test test-slow lint parity bench clean

help:
	@echo "make demo       transcribe, tell speakers apart, draw, fine-tune (about two minutes after installing)"
	@echo "make test       the test suite"
	@echo "make test-slow  the long tests: trainings, notebooks, kill -9"
	@echo "make lint       formatting, lint, types, import layers"
	@echo "make parity     write the NeMo fixtures anew with NeMo itself and compare, both directions"
	@echo "make bench      aronnax beside NeMo and transformers, in one run"
	@echo "make install    only make .venv, with .venv/bin/aronnax in it"

install: $(STAMP)

$(STAMP): requirements.txt setup.py $(wildcard aronnax/core/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "aronnax needs Python 3.10 or newer as '$(PYTHON)'; choose another with: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@echo "aronnax: making .venv and installing into it (a few minutes, once)"
	@$(PYTHON) -m venv .venv || { echo "could not make .venv: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt || \
		{ echo "installing requirements.txt failed: see pip's message above (is the network up? is the disk full?)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . || \
		{ echo "installing aronnax itself failed: see pip's message above"; exit 1; }
	@touch $(STAMP)
	@echo "aronnax: installed; the command is $(BIN)/aronnax"

$(PARITY_STAMP): requirements-parity.txt
	@echo "aronnax: making .venv-parity with NeMo in it (2 GB, a few minutes, once)"
	@$(PYTHON) -m venv .venv-parity
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt || \
		{ echo "installing NeMo failed: see pip's message above"; exit 1; }
	@touch $(PARITY_STAMP)

demo: $(STAMP)
	@$(BIN)/aronnax demo

test: $(STAMP)
	@echo "aronnax: running the tests (the slow ones: make test-slow)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

parity: $(STAMP) $(PARITY_STAMP)
	@echo "aronnax: NeMo writes, aronnax reads, and the other way round"
	@for name in encoder features heads text_pieces aed_decoder aed_loss chat_prompts bestow_reader salm; do \
		$(NEMO_PYTHON) tests/parity/make/$$name.py > /dev/null 2>&1 || { echo "NeMo could not write the $$name fixtures"; exit 1; }; \
	done
	@for name in sortformer sortformer_losses; do \
		$(NEMO_PYTHON) tests/parity/make/$$name.py tests/parity/fixtures/sortformer > /dev/null 2>&1 || \
			{ echo "NeMo could not write the $$name fixtures"; exit 1; }; \
	done
	@$(NEMO_PYTHON) tests/parity/make/nemo_archives.py tests/parity/fixtures/nemo > /dev/null 2>&1 || \
		{ echo "NeMo could not write the archives"; exit 1; }
	@$(NEMO_PYTHON) tests/parity/make/canary_archives.py tests/parity/fixtures/canary > /dev/null 2>&1 || \
		{ echo "NeMo could not write the Canary archives"; exit 1; }
	@if [ -n "$(NEMO_SCRIPTS)" ]; then \
		PYTHONPATH=. $(NEMO_PYTHON) tests/parity/make/bins_2d.py "$(NEMO_SCRIPTS)" > /dev/null 2>&1 || \
			{ echo "NeMo could not write the 2-D bins"; exit 1; }; \
	else \
		echo "the 2-D bins are kept: NeMo's wheel lacks their script (NEMO_SCRIPTS=checkout/scripts/speech_recognition)"; \
	fi
	@ARONNAX_NEMO_PYTHON=$(NEMO_PYTHON) $(BIN)/python -m pytest -q -m "slow or not slow" tests/parity

bench: $(STAMP) $(PARITY_STAMP)
	@ARONNAX_NEMO_PYTHON=$(NEMO_PYTHON) $(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv .venv-parity build *.egg-info demo.png speakers.png
