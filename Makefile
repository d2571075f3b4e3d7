# Lightship: every recipe a person or CI needs. `make up` and `make test` set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: up test test-fast test-toolchains contract fuzz lint fix goldens evidence-start evidence-evaluation evidence-gateway evidence-compression evidence-deployment techniques bench-streaming model clean

up: $(VENV)/.local-ready  ## set up, then build, measure and serve the built-in model
	@$(BIN)/lightship up

test: $(VENV)/.dev-ready  ## set up, then run every test that needs no toolchain
	$(BIN)/python -m pytest -m "not toolchain"

test-fast: $(VENV)/.dev-ready  ## the tests that start no engine and are quick by nature (under a minute)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not local and not toolchain and not slow"

test-toolchains: $(VENV)/.dev-ready  ## the tests with llm-compressor, vLLM, llama.cpp ... (8 GB are installed first)
	$(BIN)/python -m pytest -m toolchain tests/toolchain tests/contract

contract: $(VENV)/.dev-ready  ## the same checks on every engine, as real processes (vLLM and llama.cpp are installed first)
	$(BIN)/python -m pytest tests/contract/test_engines.py

fuzz: $(VENV)/.dev-ready  ## only the tests that mistreat the gateway: hostile clients and engines, the API fuzzed
	$(BIN)/python -m pytest tests/e2e/hostile

lint: $(VENV)/.dev-ready  ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(VENV)/.dev-ready  ## format, and repair what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

goldens: $(VENV)/.dev-ready  ## rewrite generated files (they are committed and compared by tests)
	-UPDATE_GOLDENS=1 $(BIN)/python -m pytest -q tests/repo

evidence-start: $(VENV)/.dev-ready  ## re-run every claim of the first topic in docs/evidence.md
	$(BIN)/python benchmarks/evidence_start.py

evidence-evaluation: $(VENV)/.dev-ready  ## re-run every claim of the topic evaluation in docs/evidence.md
	$(BIN)/python benchmarks/evidence_evaluation.py

evidence-gateway: $(VENV)/.dev-ready  ## re-run every claim of the topic gateway in docs/evidence.md (an hour)
	$(BIN)/python benchmarks/evidence_gateway.py

evidence-compression: $(VENV)/.dev-ready  ## re-run every claim of the topic compression in docs/evidence.md (two hours)
	$(BIN)/python benchmarks/evidence_compression.py

evidence-deployment: $(VENV)/.dev-ready  ## re-run every claim of the topic deployment in docs/evidence.md (forty minutes)
	$(BIN)/python benchmarks/evidence_deployment.py

techniques: $(VENV)/.dev-ready  ## make and measure every technique; writes docs/compression-techniques.md (an hour or two)
	$(BIN)/python benchmarks/compression_techniques.py --write

bench-streaming: $(VENV)/.dev-ready  ## worker + gateway against the bare pipeline
	$(BIN)/python benchmarks/streaming_overhead.py

model: $(VENV)/.dev-ready  ## train the built-in model again (hours); CORPUS=folder with the corpus files
	$(BIN)/python tools/build_builtin_model.py --corpus $(CORPUS) --work build/builtin

clean:  ## remove everything these recipes made
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.local-ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with the local engine (about a minute, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[local]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for development (a minute or two, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[local,hub,dev]'
	@touch $@ $(VENV)/.local-ready
