PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test cov docs lint types bench stress fuzz train-blocks train-judge data-photos train-photos clean help

help:
	@echo "make demo   train depth on the embedded blocks scenes for two to five minutes, score it, draw a picture"
	@echo "make test   lint, types, import contract, tests"
	@echo "make cov    the share of lines that the tests reach"
	@echo "make docs   the documentation as a site, in site/"
	@echo "make bench  speed of rendering, networks, attention and sampling, as ratios of one run"
	@echo "make stress kill training, caching and fitting sixty times with SIGKILL; nothing may be lost"
	@echo "make train-blocks  models of the blocks world, trained from their recipes into build/models (hours)"
	@echo "make data-photos  forty photographs from packages of Debian into data/photos (half a minute)"
	@echo "make train-photos  the installed model that enlarges photographs, trained anew into build/models (an hour and a half)"
	@echo "make train-judge  the judge of blocks pictures, trained anew (ten minutes)"
	@echo "make fuzz   hostile recipes, overrides, metadata and pictures, drawn anew; only sentences may come of them"

# Installed anew when pyproject.toml changes; nothing is done otherwise. An installation of before goes by the former
# name, which is another project's now.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip uninstall -qq -y bridgeflow
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/bridgeflow train --task depth

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# The tests are of one thread each: as many run at once as there are cores.
test: lint types
	@# Commands that the tests start read the bytecode, also where the environment says to write none: compiling the
	@# modules anew takes each of them more than a second.
	@$(BIN)/python -m compileall -q -j 0 bridgeflow plugins tasks recipes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --durations=10

# The share of lines that the tests reach; it takes about half as long again as the tests alone.
cov: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --cov --cov-report=term:skip-covered

docs: $(READY)
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	@echo "the documentation is in site/index.html"

bench: $(READY)
	$(BIN)/python -m tests.bench

stress: $(READY)
	$(BIN)/python -m tests.stress

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --cases 4000

# Trains models from their recipes and exports them; an interrupted training goes on where it stopped.
define train-models
	@for recipe in $(1); do \
	  task=$${recipe%/*}; run=runs/$$task-$${recipe#*/}; resume=; test ! -d $$run/checkpoints || resume=--resume; \
	  test -f $$run/evaluation.json || $(BIN)/bridgeflow train --task $$task $${resume:---recipe $$recipe} $$resume -o $$run || exit; \
	  rm -rf build/models/$$recipe; \
	  $(BIN)/bridgeflow export $$run -o build/models/$$recipe || exit; \
	done
endef

# Models of the blocks world, from their recipes.
train-blocks: $(READY)
	$(call train-models,depth/blocks-full superres/blocks-full caption/blocks-full t2i/blocks-full)

# The model that is installed with bridgeflow and enlarges photographs.
train-photos: data-photos
	$(call train-models,superres/photos)

# Photographs from packages of Debian, nothing of which is installed.
data-photos: $(READY)
	$(BIN)/python -m bridgeflow_plugins.lowres.photographs data/photos

# Trains the judge of blocks pictures anew, over the one in the tree.
train-judge: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m bridgeflow_plugins.blocks.judge_training

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build site
