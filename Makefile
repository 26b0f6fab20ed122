# make demo and make test do all the set-up themselves, in .venv.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: venv demo test lint format bench soak docs clean
.DEFAULT_GOAL := help

help:  ## Show what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

venv: .venv/ready  ## Make .venv with pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "meterlake needs $(PYTHON): apt-get install python3.11 python3.11-venv, or set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: venv  ## From simulated inbound files to answered questions, in ./demo
	@rm -rf demo
	@$(BIN)/meterlake demo --folder demo

test: venv  ## Run the tests
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

lint: venv  ## Run the linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv  ## Measure, side by side with what people would otherwise use
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/spark.py
	$(BIN)/python benchmarks/grid.py
	$(PYTHON) -m venv .venv-rivals
	.venv-rivals/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/ml_rivals.txt
	$(BIN)/python benchmarks/ml.py
	$(BIN)/python benchmarks/scale.py

soak: venv  ## Longer proofs: whole real files, 2,000 kills, fuzzing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[soak]'
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m soak

docs: venv  ## Write the generated pages of docs/
	$(BIN)/python docs/generate.py

clean:  ## Remove what was made
	rm -rf .venv .venv-rivals demo lake .pytest_cache .mypy_cache .ruff_cache .hypothesis
