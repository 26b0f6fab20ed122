# make demo and make test do all the set-up themselves, in .venv.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: venv demo test proof chromium openssh lint format bench soak docs screenshots dashboards grafana-check clean
.DEFAULT_GOAL := help

help:  ## Show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

venv: .venv/ready  ## Make .venv with pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "meterlake needs $(PYTHON): apt-get install python3.11 python3.11-venv, or set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: venv  ## From simulated files to answered questions, in ./demo; then served (DEMO=--no-serve)
	@rm -rf demo
	@$(BIN)/meterlake demo --folder demo $(DEMO)

test: venv chromium openssh  ## Run the tests
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

proof: venv chromium openssh  ## The tests that take longer: S3, Spark, kills, faults; CI runs them too
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m proof

# Debian's packages for tests of the console and of meterlake hes; without them these are skipped.
# $(1): commands, any of which will do; $(2): the package
need = @for c in $(1); do command -v $$c >/dev/null && exit; done; \
	grep -qs '^ID=debian' /etc/os-release && { test "$$(id -u)" = 0 || sudo -n true 2>/dev/null; } \
	&& echo "Installing Debian's $(2) for the tests" \
	&& as=$$(test "$$(id -u)" = 0 || echo "sudo -n") \
	&& { $$as apt-get -qq -o Acquire::http::Timeout=20 update >/dev/null 2>&1 || true; } \
	&& $$as env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 \
	    --no-install-recommends install $(2) >/dev/null 2>&1 || true

chromium:
	$(call need,chromium-headless-shell chromium,chromium-headless-shell)

openssh:
	$(call need,sftp,openssh-client)

screenshots: venv chromium  ## Write docs/img/console-*.png, of the demo lake
	$(BIN)/python docs/screenshots.py

lint: venv  ## Run the linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/prose.py

format: venv  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv  ## Measure, side by side with what people would otherwise use
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/spark.py
	$(BIN)/python benchmarks/grid.py
	$(BIN)/python benchmarks/serve.py
	$(PYTHON) -m venv .venv-rivals
	.venv-rivals/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/ml_rivals.txt
	$(BIN)/python benchmarks/ml.py
	$(BIN)/python benchmarks/scale.py

soak: venv  ## Longer proofs: whole real files, 2,000 kills, fuzzing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[soak]'
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m soak

docs: venv  ## Write the generated pages of docs/
	$(BIN)/python docs/generate.py

dashboards: venv  ## Write the JSON of the Grafana dashboards
	$(BIN)/python -m dashboards.generate

grafana-check: venv demo/lake  ## Ask every query of the Grafana dashboards, on the demo lake
	$(BIN)/python -m dashboards.check --lake demo/lake

demo/lake:
	@$(MAKE) --no-print-directory demo DEMO=--no-serve

clean:  ## Remove what was made
	rm -rf .venv .venv-rivals demo lake .pytest_cache .mypy_cache .ruff_cache .hypothesis
