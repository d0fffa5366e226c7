# Every command of the README. `make` alone explains them.
#
#   PYTHON  the Python that makes the environment (3.11 or newer)     make figures PYTHON=python3.12
#   VENV    where the environment is kept                             make test VENV=/tmp/fdbook
#   OUT     where the figures are drawn                               make figures OUT=/tmp/figures
#   BOOK    where the site is built                                   make book BOOK=/tmp/book
#   JOBS    how many processes run tests and notebooks                   make test JOBS=4
#   SWEEP   what is trained at full size, and KEEP where records go     make full-size DEVICE=cpu SWEEP=small.toml KEEP=/tmp/records
#   ARGS    more arguments for `fdbook figures`, pytest or Jupyter    make figures ARGS="kl gap --seed 1"

PYTHON ?= python3
VENV ?= .venv
OUT ?= figures
BOOK ?= book/
JOBS ?= 2
ARGS ?=
DEVICE ?= gpu
SWEEP ?= figures/data/sweeps/full-size.toml
KEEP ?= figures/data/full-size

DATASETS := ogbench/cube-single-play ogbench/pointmaze-medium-navigate
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install figures book unit test lab full-size lint mutants format clean

help: ## explain these commands
	@echo "Usage: make COMMAND, where COMMAND is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.installed ## make the environment (the commands below do this themselves)

figures: $(VENV)/.installed ## draw every figure, from flows trained and data recorded here and now
	@for name in $(DATASETS); do $(BIN)/fdbook data record $$name --episodes 20 > /dev/null || exit 1; done
	$(BIN)/fdbook figures --out "$(OUT)" $(ARGS)

unit: $(VENV)/.installed-test ## run the unit tests that are not marked slow
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

test: $(VENV)/.installed-test ## run all unit tests, then every notebook
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)
	$(BIN)/python -m pytest --nbval -n $(JOBS) --dist loadfile notebooks/

book: $(VENV)/.installed-book ## build the site of the book from the notebooks as they are, without a network
	$(BIN)/python notebooks/site/build.py --out "$(BOOK)" --jobs $(JOBS)

lab: $(VENV)/.installed ## open the book in JupyterLab
	$(BIN)/jupyter lab $(ARGS) notebooks/

full-size: $(VENV)/.installed ## on a GPU: measure it, record data, train what SWEEP names, and keep the records in KEEP
	@[ "$(DEVICE)" != gpu ] || command -v nvidia-smi > /dev/null || { echo "There is no NVIDIA GPU here (no nvidia-smi); DEVICE=cpu does without." >&2; exit 1; }
	@if [ "$(DEVICE)" = gpu ]; then $(PIP) -e ".[cuda]"; fi
	@mkdir -p "$(KEEP)"
	[ -f "$(KEEP)/bench-seeds.json" ] || \
	$(BIN)/fdbook bench seeds --device $(DEVICE) --json "$(KEEP)/bench-seeds.part.json"
	@[ ! -f "$(KEEP)/bench-seeds.part.json" ] || mv "$(KEEP)/bench-seeds.part.json" "$(KEEP)/bench-seeds.json"
	$(BIN)/fdbook sweep "$(SWEEP)" --device $(DEVICE) --record; code=$$?; \
	$(BIN)/fdbook sweep "$(SWEEP)" --records "$(KEEP)"; exit $$code

lint: $(VENV)/.installed-test ## check code and notebooks with ruff, and types with pyrefly
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --summary=none

mutants: $(VENV)/.installed-test ## make mistakes on purpose, one at a time: do the tests notice each?
	$(BIN)/python tests/mutants.py --jobs $(JOBS) $(ARGS)

format: $(VENV)/.installed-test ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and every cache (figures, recorded data and the site stay)
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find fdbook tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v "$(PYTHON)" > /dev/null || { echo "fdbook needs Python 3.11 or newer, and there is no '$(PYTHON)' here: name one, as in make figures PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fdbook needs Python 3.11 or newer, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1): name a newer one, as in make figures PYTHON=python3.12" >&2; exit 1; }
	@echo "Making the environment $(VENV) ..."
	@"$(PYTHON)" -m venv "$(VENV)"
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing fdbook into $(VENV): about 1.4 GB, a minute or a few at first ..."
	@$(PIP) -e .
	@if "$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then $(PIP) --no-deps ogbench dm_control; fi
	@touch $@

$(VENV)/.installed-book: $(VENV)/.installed
	@echo "Installing what the site needs into $(VENV) ..."
	@$(PIP) -e ".[book]"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV) ..."
	@$(PIP) -e ".[test]"
	@touch $@
