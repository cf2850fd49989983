# `make demo` and `make test` each do all their own set-up; everything else is for people who work on the project.
.DEFAULT_GOAL := help
SHELL := bash
PY := .venv/bin/python
export STEP_LOG := build/steps.tsv
STEP := scripts/step

.PHONY: help demo down test prepare test-unit test-cluster test-contract test-e2e test-gpu lint generate bench lock clean-steps

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: clean-steps .venv/.installed ## Local Kubernetes, the operator, and a model that answers
	@$(STEP) "demo" $(PY) -m testbed.demo

down: .venv/.installed ## Remove the demo's cluster and everything it made on this machine
	@$(PY) -m testbed.demo --down

test: clean-steps .venv/.installed ## Run every test; compiles what it needs on the first run
	@scripts/beside prepare && scripts/beside test-e2e lint,test-unit,test-contract,test-cluster || { scripts/step-table; exit 1; }
	@scripts/step-table

prepare: .venv/.installed ## Compile what the tests run, where no cache has it
	@$(PY) -m testbed prepare

test-unit: .venv/.installed ## Tests that need no cluster
	@$(PY) -m pytest -q -m "not cluster and not e2e and not gpu"

test-cluster: .venv/.installed ## Tests against a real control plane (and simulated nodes)
	@$(PY) -m pytest -q --durations=10 -m cluster

test-contract: .venv/.installed ## Tests that hold fakes and formulas against the real programs
	@$(PY) -m pytest -q -m e2e tests/contract

test-e2e: .venv/.installed ## Tests with real nodes, real pods and a real Ollama
	@$(PY) -m pytest -v --no-header --durations=20 -m e2e tests/e2e

test-gpu: .venv/.installed ## Tests on this machine's NVIDIA GPU; OLLAMA_ON_GPU=/usr/local/bin/ollama adds those with Ollama
	@$(PY) -m pytest -q -m gpu -s

lint: .venv/.installed ## Style, types, import directions, generated files
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check -q .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m ollama_fleet.api.generate --check .

generate: .venv/.installed ## Write the CRDs, the chart's copy and the reference pages
	@$(PY) -m ollama_fleet.api.generate .

bench: .venv/.installed ## Run every benchmark in its quick form
	@$(PY) -m benchmarks all --quick

lock: .venv/.installed ## Resolve the dependencies anew
	@$(PY) -m uv pip compile -q --upgrade --generate-hashes --no-header --python-version 3.11 \
		--extra operator --extra sidecar --extra puller --extra agent pyproject.toml -o requirements/image.txt
	@$(PY) -m uv pip compile -q --upgrade --generate-hashes --no-header --python-version 3.11 \
		--group build -o requirements/build.txt
	@$(PY) -m uv pip compile -q --upgrade --generate-hashes --no-header --python-version 3.11 \
		--extra operator --extra sidecar --extra puller --extra agent --group dev pyproject.toml -o requirements/dev.txt

clean-steps:
	@rm -f $(STEP_LOG)

.venv/.installed: requirements/dev.txt pyproject.toml
	@$(STEP) "Python environment" scripts/install
	@touch $@
