# `make help` lists the targets. Two of them do all the set-up a fresh machine needs: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# cpu or gpu: onnxruntime and onnxruntime-gpu install the same module, so exactly one is chosen.
RUNTIME ?= cpu
LLM := $(if $(filter gpu,$(RUNTIME)),llm-gpu,llm)
VENV := .venv/bin
# Bytecode at installation: three programs start at once, and compiling their imports would take most of that time.
UV := UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv $(VENV)/uv
# Not `npm ci`: it refuses a lock file without the other platforms' binaries, which not every registry carries. This takes
# exactly what the lock file names, by its hashes, and leaves the file alone.
NPM_INSTALL := npm install --no-save --no-audit --no-fund --loglevel=error
# Not in the lock file: it pins web3 at a version that the market does not use.
SLITHER := 0.11.6
FORGE := cd contracts && toolchain/forge

.PHONY: help demo up install test python-tests solidity-aside check lint types imports solidity-format artifacts artifacts-check unit integration test-postgres \
        solidity solidity-deep coverage mutants slither gas parity docs site format lock clean bench chaos soak overload bench-llm bench-settlement bench-scaling bench-idle proto console console-check screenshots sbom audit fuzz fuzz-api

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

demo: .venv/.runtime contracts/node_modules/.runtime ## run the whole market once, on real parts, in under a minute
	@$(VENV)/market demo $(ARGS)

up: .venv/.runtime contracts/node_modules/.runtime ## keep the same embedded network running until Ctrl-C
	@$(VENV)/market up $(ARGS)

install: .venv/.dev contracts/node_modules/.dev tests/parity/node_modules/.dev tests/clients/x402/node_modules/.dev console/node_modules/.dev ## install all that tests and checks need

test: check ## everything: checks, then contracts and all Python tests side by side (what CI runs)
	@$(MAKE) --no-print-directory -j 2 python-tests solidity-aside

# A third of the end-to-end tests' time is waiting, for blocks and for programs to end: one process more than two cores uses it.
# Bytecode is kept even where the environment says otherwise: hundreds of programs are started.
PYTEST := PYTHONDONTWRITEBYTECODE= $(VENV)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

# In the order of their names: by the number of their tests, as xdist has it, the longest files would come last.
python-tests: install
	$(PYTEST) tests

# One property after the other, on one core, most of it for the last of them: it takes what the Python tests leave.
solidity-aside: install
	cd contracts && nice -n 19 toolchain/forge test

check: install lint types imports solidity-format artifacts-check console-check ## static checks only
lint:
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
types:
	$(VENV)/mypy
imports:
	$(VENV)/lint-imports --no-cache
solidity-format:
	$(FORGE) fmt --check src "$$PWD/../tests/solidity"
artifacts-check:
	$(VENV)/python contracts/toolchain/build_artifacts.py --check

console-check:
	cd console && node_modules/.bin/tsc --noEmit && node --test test/*.test.mjs && node build.mjs --check

console: console/node_modules/.dev ## rebuild the web console in market/gateway/static after a change of console/
	cd console && node_modules/.bin/tsc --noEmit && node build.mjs

screenshots: install ## take docs/images anew, after a change of the console's looks
	PYTHONPATH=. $(VENV)/python docs/make_screenshots.py

artifacts: install ## rebuild contracts/artifacts after a change of Solidity
	$(VENV)/python contracts/toolchain/build_artifacts.py

unit: install ## fast Python tests: no sockets, no processes
	$(VENV)/pytest -q -m "not integration" tests/unit tests/properties

integration: install ## Python tests on real Redis, EVM node, models and processes
	$(VENV)/pytest -q tests/integration tests/conformance tests/e2e tests/properties

test-postgres: install ## whole markets on PostgreSQL instead of SQLite; what `make test` has on both is not repeated
	MARKET_TEST_DATABASE=postgresql $(PYTEST) tests/e2e tests/integration tests/clients

parity: install ## the same digests in Python, Solidity, eth_account and viem
	$(VENV)/pytest -q tests/parity

solidity: install ## the contracts' own tests, with fuzzing and invariants
	$(FORGE) test

solidity-deep: install ## the same with the long fuzzing profile
	cd contracts && FOUNDRY_PROFILE=nightly toolchain/forge test

slither: install ## what slither finds in contracts/src; the answers are in docs/security.md (wants PyPI)
	cd contracts && export FOUNDRY_PROFILE=coverage FOUNDRY_OUT=out/slither PATH="$$PWD/toolchain:$$PATH" \
	  && forge build --build-info --skip test --force \
	  && ../$(VENV)/uv tool run --from slither-analyzer==$(SLITHER) slither . --ignore-compile --foundry-out-directory out/slither \
	    --filter-paths "node_modules|tests/solidity" --fail-none

gas: install ## settlement's gas against its limits and its snapshot
	cd contracts && FOUNDRY_PROFILE=ci toolchain/forge test --match-contract Gas

coverage: install ## how much of contracts/src its tests run: at least 95 % of lines and branches
	$(VENV)/python contracts/toolchain/coverage.py

mutants: install ## break the escrow on purpose, each break must be caught
	$(VENV)/python contracts/toolchain/mutants.py

bench: install ## measure the market beside its peers on this machine; writes docs/performance.md
	$(VENV)/python -m benchmarks.run $(ARGS)

bench-llm: install ## measure a chat streamed through the market beside onnxruntime-genai alone (needs a model, see the file)
	$(VENV)/python -m benchmarks.llm $(ARGS)

bench-settlement: install ## measure how fast one gateway settles full batches on a real EVM node
	PYTHONPATH=. $(VENV)/python -m benchmarks.settlement $(ARGS)

bench-scaling: install ## measure how the figures move with workers, channels and models (wants free cores)
	$(VENV)/python -m benchmarks.scaling $(ARGS)

bench-idle: install ## measure what a running market costs while nobody is served (wants free cores)
	PYTHONPATH=. $(VENV)/python -m benchmarks.idle $(ARGS)

chaos: install ## break every part of a running market at random, then check clients, books and chain (ARGS="--seed 7 --faults 200")
	PYTHONPATH=. $(VENV)/python -m tests.chaos.run $(ARGS)

soak: install ## half an hour of paid requests at 70 % of the capacity: nothing may grow (ARGS="--minutes 30 --share 0.7")
	PYTHONPATH=. $(VENV)/python -m benchmarks.soak $(ARGS)

overload: install ## three times what the machine can answer: it must go on answering and refuse the rest quickly
	PYTHONPATH=. $(VENV)/python -m benchmarks.overload $(ARGS)

fuzz: install ## feed strangers' bytes to every decoder for a while (ARGS="--seconds 60 tensors"; guided if atheris is installed)
	PYTHONPATH=. $(VENV)/python -m tests.fuzz.run $(ARGS)

proto: install ## rebuild the gRPC descriptor after a change of its .proto
	$(VENV)/python -m grpc_tools.protoc -I market/gateway/grpc --descriptor_set_out=market/gateway/grpc/open_inference.binpb open_inference.proto

format: install ## write the standard format into all sources
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .
	$(FORGE) fmt src "$$PWD/../tests/solidity"

sbom: .venv/bin/uv ## write sbom.cdx.json: the locked packages of Python and npm, as CycloneDX 1.5
	@$(UV) export --quiet --frozen --no-dev --extra $(RUNTIME) --format cyclonedx1.5 --preview-features sbom-export | $(PYTHON) .ci/supply.py sbom

audit: sbom ## ask OSV for advisories on each of them (wants the internet, and says so)
	@$(PYTHON) .ci/supply.py audit

fuzz-api: install ## send a running gateway what its OpenAPI description allows, for longer than `make test` does
	MARKET_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(VENV)/pytest -q tests/e2e/test_openapi.py

docs: install ## write the generated parts of docs/ anew
	PYTHONPATH=. $(VENV)/python docs/make_settings.py
	PYTHONPATH=. $(VENV)/python docs/make_worker_errors.py
	$(VENV)/python docs/deploy/make_dashboards.py
	$(VENV)/python -m market.commands.error_table > docs/errors.md

site: install ## build the documents as a site in build/site; fails on a dead link
	PYTHONPATH=. $(VENV)/python docs/make_site.py

lock: .venv/bin/uv ## renew the lock files after a change of dependencies
	$(UV) lock
	cd contracts && npm install --package-lock-only
	cd console && npm install --package-lock-only

clean: ## remove everything that was installed or built here
	rm -rf .venv contracts/node_modules console/node_modules tests/parity/node_modules tests/clients/x402/node_modules contracts/out contracts/cache .mypy_cache .ruff_cache .pytest_cache

.venv/bin/uv:
	@echo "Making .venv ..."
	@$(PYTHON) .ci/bootstrap.py

.venv/.runtime: .venv/bin/uv pyproject.toml uv.lock
	@echo "Installing Python packages from uv.lock (runtime: $(RUNTIME)) ..."
	@$(UV) sync --quiet --frozen --inexact --no-dev --extra $(RUNTIME) --extra demo
	@touch $@

.venv/.dev: .venv/bin/uv pyproject.toml uv.lock
	@echo "Installing Python packages with the test tools ..."
	@$(UV) sync --quiet --frozen --extra $(RUNTIME) --extra $(LLM) --extra demo --extra otel
	@touch $@ .venv/.runtime

contracts/node_modules/.runtime: contracts/package-lock.json
	@echo "Installing the EVM node from package-lock.json ..."
	@[ -e contracts/node_modules/.dev ] || (cd contracts && $(NPM_INSTALL) --omit=dev)
	@touch $@

contracts/node_modules/.dev: contracts/package-lock.json
	@echo "Installing the contract toolchain ..."
	@cd contracts && $(NPM_INSTALL)
	@touch $@ contracts/node_modules/.runtime

tests/parity/node_modules/.dev: tests/parity/package-lock.json
	@cd tests/parity && $(NPM_INSTALL)
	@touch $@

tests/clients/x402/node_modules/.dev: tests/clients/x402/package-lock.json
	@cd tests/clients/x402 && $(NPM_INSTALL)
	@touch $@

console/node_modules/.dev: console/package-lock.json
	@cd console && $(NPM_INSTALL)
	@touch $@
