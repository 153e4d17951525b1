# The two commands to start with: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo

.PHONY: help demo demo-ui test long thorough lint format docs bench bench-growth lock release clean faults soak nights silence screenshots mutants containers model hosts bench-hosts pythons alerts servers machines
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# $(call install,EXTRA,WHAT FOR): pip names each package, so that the minutes that a slow network takes are not silent.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mastosync needs Python 3.11 or newer; name one with: make PYTHON=python3.13 ..."; exit 1; }
	@echo "Installing mastosync and what $(2) into $(VENV), once:"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[$(1)]'
	@touch $@
endef

$(STAMP): pyproject.toml constraints.txt
	$(call install,test,the tests need)

$(DEMO_STAMP): pyproject.toml constraints.txt
	$(call install,demo,the demo needs)

demo: $(DEMO_STAMP) ## Copy a small generated instance between two S3 servers on this machine
	$(BIN)/mastosync demo

demo-ui: $(DEMO_STAMP) ## The same, then serve the Dagster UI on loopback until Ctrl-C
	$(BIN)/mastosync demo --ui

test: $(STAMP) ## Run the tests against real servers on this machine, but for those that take long (eight minutes)
	$(BIN)/pytest --short -n 3 --dist worksteal

# Four at a time, on two processors too: they wait for daemons and time limits.
long: $(STAMP) ## Run the tests that `make test` leaves out: whole runs, processes, the UI (a quarter of an hour)
	$(BIN)/pytest -m "long and not thorough and not silence" -n 4 --dist worksteal

thorough: $(STAMP) ## Run what `make long` leaves out: the other cases of its tests, and the slowest (half an hour)
	$(BIN)/pytest -m thorough -n 4 --dist worksteal

# Five at a time, on two processors too: for the better part the tests wait for time limits.
faults: $(STAMP) ## Try every fault of docs/reliability.md, and print a line for each
	$(BIN)/pytest mastosync_dagster_tests/faults -m "faults or not faults" -n 5 --dist worksteal

silence: $(STAMP) ## Let hosts of test networks fall silent (network namespaces: needs root, iptables; a quarter of an hour)
	$(BIN)/pytest mastosync_dagster_tests/silence -m "silence or not silence" -n 4 --dist worksteal

soak: $(STAMP) ## A night a minute with faults (HOURS=8), in processes as in production; prints memory and descriptors
	$(BIN)/pytest mastosync_dagster_tests/soak -m soak -p no:logging

nights: $(STAMP) ## Live through random nights (NIGHTS=200 SEEDS=10), and compare every object after a good one
	$(BIN)/pytest mastosync_dagster_tests/integration/test_random_nights.py -m nights -n 2

machines: $(STAMP) ## Let Celery's workers share a backfill while they are killed and cut off (RANGES=60; root, docker; half an hour)
	$(BIN)/pytest mastosync_dagster_tests/machines -m machines -rs

model: $(STAMP) ## Live by a model of what must be where (STEPS=10000 SEED=1), every step compared (three quarters of an hour)
	$(BIN)/pytest mastosync_dagster_tests/model -m model -n 2

servers: $(STAMP) ## Try every pair of S3 servers that pip and apt have (Linux; half an hour)
	PYTHON=$(PYTHON) scripts/servers.sh
	$(BIN)/pytest mastosync_dagster_tests/servers -m servers

mutants: $(STAMP) ## Plant bugs, one after the other, and see that tests notice each (half an hour)
	$(BIN)/pytest mastosync_dagster_tests/mutants -m mutants -n 2

# What it fetches lies in ~/.cache/mastosync-images afterwards; images and containers are removed.
containers: $(STAMP) ## Follow docs/deploy.md in a Docker engine (root, debootstrap; ten minutes)
	$(BIN)/pytest mastosync_dagster_tests/containers -m containers -n 2 --dist loadfile

hosts: $(STAMP) ## Run the units under real systemd: restarts, Terminate, full disks (root, docker; half an hour)
	$(BIN)/pytest mastosync_dagster_tests/hosts -m "hosts or not hosts" -rs

alerts: $(STAMP) ## Let a real Prometheus and a real daemon send their alerts: killed, failing, terminated (a quarter of an hour)
	$(BIN)/pytest mastosync_dagster_tests/integration -m alerts -n 4 --dist worksteal

pythons: $(STAMP) ## Try a release, and each Python that is named: the wheel, a new user's way, tests (root, Docker, debootstrap)
	$(BIN)/pytest mastosync_dagster_tests/integration -m pythons

screenshots: $(STAMP) ## Write the pictures of docs/ that show the UI (needs chromium)
	SCREENSHOTS=docs $(BIN)/pytest mastosync_dagster_tests/integration/test_browser.py

lint: $(STAMP) ## Style, docstrings and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write the pages that are made from the code, and the site of docs/ into build/site
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/site.py build/site

bench: $(STAMP) ## Measure against rclone and a simple script, and write docs/performance.md (half an hour, quiet machine)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks --parts fast-first fast-again packets https stalls big empty --docs
	$(BIN)/python -m benchmarks --parts ceilings first again --objects 10000 --add --docs

bench-growth: $(STAMP) ## Add 10^4 to 10^6 rows, local files only, and the ID ranges of 10^7, to what `make bench` measured
	$(BIN)/python -m benchmarks --parts growth ranges subset --add --docs

bench-nights: $(STAMP) ## Measure a night with 10,000 private objects, and commands with 1,000 nights behind them
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.private_night
	$(BIN)/python -m benchmarks.nights

bench-hosts: $(STAMP) ## Measure what small machines hold, and write docs/deploy.md (root, docker; two hours, quiet machine)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.hosts --docs

lock: $(STAMP) ## Choose new versions of everything (writes constraints.txt)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url -o constraints.txt pyproject.toml

release: $(STAMP) ## Tag a version, and build wheel, source and SBOM into dist/ (VERSION=0.2.0)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	BIN=$(BIN) scripts/release.sh $(VERSION)

clean: ## Remove what the targets made
	rm -rf $(VENV) .demo .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
