# Every target but gpu sets up .venv first: pinned installs, done once (a stamp file remembers them).
# A CPU machine that would otherwise fetch torch's CUDA build can name another index: make demo PIP_ARGS="--extra-index-url URL"
PYTHON ?= python3
PIP_ARGS ?=
OUT ?= out/demo
WORKERS ?= 2
MINUTES ?=
GPU_OUT ?= results/gpu
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab bench gpu docs export clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP): constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit("mvnb needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv (a few minutes, once)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || \
	    { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet $(PIP_ARGS) pip; }
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

setup: $(STAMP) ## create .venv and install everything

demo: $(STAMP) ## DualVAE against missing views and noise on digits: a table, a notebook, a page, figures
	$(BIN)/mvnb run dualvae_robustness --out $(OUT) --overwrite $(ARGS)
	@echo; $(BIN)/mvnb show $(OUT)

test: export MVNB_OFFLINE = 1
test: $(STAMP) ## run every notebook and tests/
	$(BIN)/nbdev_test --n_workers $(WORKERS)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests $(ARGS)

lab: $(STAMP) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs $(ARGS)

bench: $(STAMP) ## measure the speed of training
	$(BIN)/python benchmarks/run.py $(ARGS)

gpu: ## on a GPU: its tests, benchmarks and all reproductions with PYTHON, installing nothing; MINUTES=8: one piece, call again
	$(PYTHON) -m mvnb.cli sweep sweeps/gpu.yaml --jobs 1 --threads 4 --out $(GPU_OUT) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS) || [ $$? -eq 3 ]

docs: $(STAMP) ## the site: notebooks in reading order, figures, ledger, API, in _docs/index.html
	@$(BIN)/python -c 'import mkdocs, mkdocs_jupyter, jupyter_server_mathjax' 2>/dev/null || $(PIP) --no-build-isolation -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python docs/build.py

export: $(STAMP) ## write mvnb/ and README.md from nbs/, and clean the notebooks
	$(BIN)/nbdev_export
	$(BIN)/python tests/readme.py
	$(BIN)/nbdev_clean

clean: ## remove .venv and everything built; results in out/ stay
	rm -rf .venv build dist _proc _docs .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
