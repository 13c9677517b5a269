# `make demo` and `make test` need only Python and make: they set up .venv and fetch what they need themselves.

PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/setup-done

# A worker for each core, with a thread each (tests/conftest.py); one that has nothing left takes over from another.
WORKERS := -n logical --maxprocesses 4 --dist worksteal

.PHONY: help demo test test-long test-machines test-hub lessons english-mlm bench lint clean checkpoint data

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: checkpoint  ## load the default checkpoint, show what it does, compare it with transformers
	@$(BIN)/minibert demo

test: checkpoint data  ## the whole test suite
	$(BIN)/python -m pytest $(WORKERS)

test-long: checkpoint data  ## the property tests with twenty times as many examples, new ones each time
	$(BIN)/python -m pytest $(WORKERS) -m 'hypothesis and not hub' --hypothesis-profile=long

test-machines: checkpoint data  ## the tests as other processors would run them, and a table; half an hour
	$(BIN)/python tests/machines.py

test-hub: $(SETUP)  ## the published numbers of checkpoints that only the hub has; needs a network
	HF_HUB_OFFLINE=0 $(BIN)/python -m pytest -m hub

lessons: checkpoint data  ## open the lessons in the browser
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,lessons]'
	$(BIN)/jupyter lab notebooks

english-mlm: checkpoint  ## make minibert/english-mlm anew: text, training, scores, card; some hours on two cores
	$(BIN)/python notebooks/english_mlm/text.py
	$(BIN)/python notebooks/english_mlm/starts.py
	$(BIN)/python notebooks/english_mlm/train.py
	$(BIN)/python notebooks/english_mlm/score.py

bench: checkpoint data  ## how fast, beside what people use instead; ten minutes, on a machine that does nothing else
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python tests/benchmarks/bench.py

lint: $(SETUP)  ## formatting, style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove the virtual environment and what the tools left behind; weights/ stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "The tests compare with transformers, which needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

checkpoint: $(SETUP)
	@$(BIN)/minibert download

data: $(SETUP)
	@for name in rxnfp/bert_pretrained rxnfp/bert_ft rxnfp/bert_ft_10k_25s glove-6b-50d speeches; do \
		$(BIN)/minibert download $$name || exit 1; done
	@$(BIN)/python tests/real_data.py
