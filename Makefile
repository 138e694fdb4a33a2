# Two commands matter: `make demo` and `make test`. Both make .venv first, from the versions in constraints.txt.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := $(wildcard ../shared/data)
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export SOTTOVOCE_DATA ?= $(abspath $(DATA))

.PHONY: demo test check soak bench old-runtimes model-signing aarch64 wheel clean

BUNDLE ?= runs/demo/bundle.svb

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "[1/3] creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[2/3] installing torch"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "[3/3] installing everything else (1 to 3 minutes)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt --editable '.[train,postgres,ray,dev]'
	@touch $@

demo: $(VENV)/.ready
	@PATH="$(abspath $(BIN)):$$PATH" ./demo.sh

# Two at a time: most tests use one core. The last ones are dealt anew, so that nobody waits for a long file.
test: $(VENV)/.ready
	@$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.ready
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy -p sottovoce
	@PYTHONPATH=.dev $(BIN)/lint-imports

soak: $(VENV)/.ready
	@$(BIN)/python -m pytest -m soak

bench: $(VENV)/.ready
	@$(BIN)/sottovoce bench fleet

old-runtimes: $(VENV)/.ready
	@test -f $(BUNDLE) || { echo "no $(BUNDLE): run make demo first, or give BUNDLE=..."; exit 1; }
	@test -x $(VENV)-old/bin/python || $(PYTHON) -m venv $(VENV)-old
	@$(VENV)-old/bin/python -m pip install --quiet --quiet --disable-pip-version-check \
		'numpy<2' tflite-runtime==2.14.0 onnxruntime==1.16.3
	@$(BIN)/python tests/scored_requests.py $(BUNDLE) $(VENV)-old/scored.npz
	@$(VENV)-old/bin/python tests/old_runtimes.py $(BUNDLE) $(VENV)-old/scored.npz
	@$(BIN)/python tests/old_runtimes.py $(BUNDLE) $(VENV)-old/scored.npz

# The reference tool of the signature format, in an environment of its own, against our signatures and we against its.
model-signing: $(VENV)/.ready $(VENV)-signing/.ready
	@SOTTOVOCE_MODEL_SIGNING="$(abspath $(VENV)-signing/bin/model_signing)" $(BIN)/python -m pytest tests/models/test_signing.py

$(VENV)-signing/.ready:
	@test -x $(VENV)-signing/bin/python || $(PYTHON) -m venv $(VENV)-signing
	@$(VENV)-signing/bin/python -m pip install --quiet --quiet --disable-pip-version-check model-signing==1.1.1 pyOpenSSL
	@touch $@

aarch64: $(VENV)/.ready
	@test -f $(BUNDLE) || { echo "no $(BUNDLE): run make demo first, or give BUNDLE=..."; exit 1; }
	@mkdir -p $(VENV)-aarch64
	@$(BIN)/python tests/scored_requests.py $(BUNDLE) $(VENV)-aarch64/scored.npz 600
	@tests/aarch64.sh $(BIN)/python $(BUNDLE) $(VENV)-aarch64/scored.npz $(VENV)-aarch64

wheel: $(VENV)/.ready
	@$(BIN)/python -m pip wheel --quiet --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(VENV)-old $(VENV)-signing $(VENV)-aarch64 build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
