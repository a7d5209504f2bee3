# All targets share one environment, .venv. A stamp file in it says what is installed, so a second
# call installs nothing; a change of pyproject.toml or constraints.txt installs again.

# The first Python that is new enough. Another one: make demo PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
PIP_INSTALL = .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: venv demo test test-slow lint format wheel-test clean
.DELETE_ON_ERROR:

venv: .venv/.installed-dev

# torch and the build backend come first: the project itself is then built without isolation.
.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it: make PYTHON=..."; exit 1; }
	@echo "Installing into .venv; the first time this takes some minutes."
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	@$(PIP_INSTALL) setuptools torch
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@$(PIP_INSTALL) --no-build-isolation -e '.[dev,evaluate]'
	@touch $@

demo: .venv/.installed
	@.venv/bin/ldm-text generate --pipeline checkpoints/e2e --prompts checkpoints/e2e/demo.jsonl --seed 0

test: .venv/.installed-dev
	@.venv/bin/pytest -n auto

test-slow: .venv/.installed-dev
	@.venv/bin/pytest -n auto -m slow

lint: .venv/.installed-dev
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/pyrefly check --summary=none
	@.venv/bin/lint-imports --no-logo

format: .venv/.installed-dev
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format --quiet .

wheel-test: .venv/.installed-dev
	@tests/wheel_test.sh

clean:
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	@find autoencoder denoiser ldm_text tests -name __pycache__ -prune -exec rm -rf {} +
