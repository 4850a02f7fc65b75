# Only Python 3.11 or newer and make are needed: everything else goes into .venv.
# The first that runs and is new enough; the versions in constraints.txt are tested with 3.11.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PORT ?= 3000
BIN := .venv/bin
# Two more than there are cores: tests wait, too.
PYTEST := $(BIN)/pytest -n $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 2))) --dist worksteal
# Compiled code is kept, whatever the shell says: each test and each process would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo example test e2e cluster soak simulate mutations crash-points model estimates bench claims sdk-suites clients dev lint lowest versions dist changes release docs clean

help:
	@echo "make demo   play a night of the two demo pipelines, and show what came out"
	@echo "make example NAME=tickets   play one of the small projects in examples/"
	@echo "make dev    look at it in Dagster's UI on port $(PORT), with an emulated API beside it"
	@echo "make test   run the tests"
	@echo "make e2e    play nights in a running Dagster, hurt it, and look at its pages in Chromium"
	@echo "make cluster play nights on PostgreSQL, Redis, an S3 and three Celery workers that share no disk (PIPELINES=20 PARTITIONS=64 RECORDS=200000; CHAOS=600 SEED=1: and hurt them)"
	@echo "make soak   run the tests whole, play a night in a project of create-dagster, walk through 10,000 nights that go wrong, simulate 100,000, let eight processes work at once, measure estimates, and hurt a cluster with ten seeds"
	@echo "make simulate  play nights that go wrong without sockets, each by a seed (EPISODES=1000), or one that is told step by step (SEED=42)"
	@echo "make mutations put mistakes into the package's code, and count the episodes that catch each"
	@echo "make crash-points  end a night at every point of it, and print what becomes of every fault (PAIRS=0)"
	@echo "make model     search all states that sending can come to in a small world (STATES=: at most so many)"
	@echo "make estimates measure what estimates and reserves are worth beside the bill, over random nights (NIGHTS=50 RECORDS=12000)"
	@echo "make bench  measure each stage beside the plain SDK loop (SIZES=50000,200000 REPEAT=3 WIDE=2000)"
	@echo "make claims play what is said about the price of batches and caches, and write the table in docs/money.md"
	@echo "make sdk-suites  run the official Python SDK's own tests against the emulator, in an environment of their own"
	@echo "make clients     let clients that others wrote talk to the emulator, each in an environment of its own; writes the table in docs/emulator.md"
	@echo "make lint   check style, types and who imports whom"
	@echo "make lowest test with the oldest release of each dependency that pyproject.toml allows, in an environment of their own"
	@echo "make versions   the same with each Python from 3.11 to 3.14, and the newest releases"
	@echo "make changes    show what changes/ will add to CHANGELOG.md"
	@echo "make release    collect changes/ in CHANGELOG.md, build, check and tag the version of pyproject.toml; nothing is published"
	@echo "make dist   build the wheel and the source archive into dist/, and check them; nothing is published"
	@echo "make docs   build the documentation site into site/; a link or an anchor that leads nowhere fails it"
	@echo "make clean  remove .venv, .clients, .environments and caches (make demo's data in .demo stays)"

demo: .venv/installed
	$(BIN)/batch-pipeline demo

NAME ?=
example: .venv/installed
	@$(BIN)/python -m examples $(NAME)

test: .venv/installed
	$(PYTEST)

# Installs Debian's chromium and chromium-driver where they are missing, if it may.
e2e: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.e2e

# Installs Debian's postgresql, redis-server and libfaketime where they are missing, if it may; the rest into .cluster/venv.
PIPELINES ?= 5
PARTITIONS ?= 6
CHAOS ?= 0
SEED ?=
cluster: .venv/installed
	@$(BIN)/python -m batch_pipeline_tests.cluster --pipelines $(PIPELINES) --partitions $(PARTITIONS) \
		--records $(if $(filter command% environment%,$(origin RECORDS)),$(RECORDS),5000) --chaos $(CHAOS) $(if $(SEED),--seed $(SEED))

soak: .venv/installed
	BATCH_PIPELINE_TESTS=whole $(PYTEST)
	$(BIN)/python -m batch_pipeline_tests.e2e.created_project
	$(BIN)/python -m batch_pipeline_tests.soak --episodes 10000 --eight-seconds 60
	$(BIN)/python -m batch_pipeline_tests.estimates --nights $(NIGHTS) --records $(RECORDS)
	$(BIN)/python -m batch_pipeline_tests.simulation --episodes 100000
	$(BIN)/python -m batch_pipeline_tests.simulation.mutations --episodes 200
	$(BIN)/python -m batch_pipeline_tests.simulation.crash_points --pairs 2000
	$(BIN)/python -m batch_pipeline_tests.simulation.model --most 20000
	for seed in 1 2 3 4 5 6 7 8 9 10; do $(BIN)/python -m batch_pipeline_tests.cluster --chaos 600 --seed $$seed || exit 1; done

# Both are what follows from a seed: SEED=42 is told step by step, EPISODES=n are played on all cores.
EPISODES ?= 1000
SEED ?=
simulate: .venv/installed
	@$(BIN)/python -m batch_pipeline_tests.simulation $(if $(SEED),--seed $(SEED),--episodes $(EPISODES))

mutations: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.simulation.mutations

PAIRS ?= 0
crash-points: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.simulation.crash_points --pairs $(PAIRS)

STATES ?=
model: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.simulation.model $(if $(STATES),--most $(STATES))

NIGHTS ?= 50
RECORDS ?= 12000
estimates: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.estimates --nights $(NIGHTS) --records $(RECORDS)

SIZES ?= 10000,50000
REPEAT ?= 1
WIDE ?=
bench: .venv/installed
	$(BIN)/python -m benchmarks --sizes "$(SIZES)" --repeat "$(REPEAT)" --wide "$(WIDE)"

claims: .venv/installed
	$(BIN)/python -m benchmarks.claims

# Both install from the package index into .clients.
sdk-suites: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.clients.sdk_suites

clients: .venv/installed
	$(BIN)/python -m batch_pipeline_tests.clients

# exec: a Ctrl-C or a kill reaches the command itself, which stops all that it started.
dev: .venv/installed
	@exec $(BIN)/batch-pipeline dev --port $(PORT)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

# Both install from the package index into .environments.
lowest versions: .venv/release
	$(BIN)/python -m batch_pipeline_tests.environments $@

# The examples, and what a user may write, are typed by mypy as strictly as a user's project may be; make lint has pyright do so.
dist: .venv/release
	$(BIN)/mypy --strict --follow-imports=silent --explicit-package-bases examples/*/definitions.py batch_pipeline_tests/public_types.py
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
changes: .venv/release
	@$(BIN)/towncrier build --draft --version $(VERSION)

# What cannot be built leaves no commit and no tag.
release: .venv/release
	@test -z "$$(git status --porcelain)" || { echo "Commit first: what is built must be what is tagged. git status lists what is not." >&2; exit 1; }
	@! git rev-parse --quiet --verify refs/tags/v$(VERSION) >/dev/null || { echo "v$(VERSION) is tagged already: raise version in pyproject.toml." >&2; exit 1; }
	sed -i '/^## $(VERSION) (unreleased)$$/d' CHANGELOG.md
	$(BIN)/towncrier build --yes --version $(VERSION)
	$(MAKE) dist || { git reset --quiet --hard; exit 1; }
	git commit --quiet --all --message "Release $(VERSION)"
	git tag --annotate --message "Release $(VERSION)" v$(VERSION)
	@echo "v$(VERSION) is tagged here, and dist/ holds what was built. Nothing is published: push the tag, and twine upload dist/*, do that."

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf dist site .mypy_cache .venv .clients .cluster .environments .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,postgres,s3]'
	@touch $@

.venv/release: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	@touch $@

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
