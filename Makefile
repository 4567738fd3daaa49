# Any target makes .venv first if it is missing. Variables of a sweep, with their defaults:
ALGO     ?= PCL
DATASET  ?= RotatedDigits
TRIALS   ?= 3
HPARAMS  ?= 1
STEPS    ?=
DATA     ?=
TABLE    ?=
BASELINE ?=
OUT      ?= runs/$(or $(TABLE),$(subst $() $(),+,$(strip $(DATASET))))
LAUNCHER ?= pool
AVERAGING ?=
ARGS     ?=
PYTHON   ?= python3

VENV := .venv
PY   := $(VENV)/bin/python
PYTEST := $(PY) -m pytest -n auto --dist loadfile
export DATA

.DEFAULT_GOAL := help
.PHONY: help sweep table report list test test-all check format chaos bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | column -t -s '|'
	@echo 'variables: ALGO DATASET TRIALS HPARAMS STEPS TABLE BASELINE DATA OUT LAUNCHER AVERAGING ARGS (passed on as it is)'

# Made again when the dependencies change; a second call installs nothing.
$(VENV)/.installed: setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'error: dgbench needs Python 3.10 or newer; set PYTHON=python3.x' >&2; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

sweep: $(VENV)/.installed  ## train ALGO on DATASET, every held-out domain, TRIALS seeds; print the table
	$(PY) -m dgbench.sweep launch --algorithms $(ALGO) --datasets $(DATASET) --n_trials $(TRIALS) \
	  --n_hparams $(HPARAMS) --output_dir '$(OUT)' --launcher $(LAUNCHER) \
	  $(if $(STEPS),--steps $(STEPS)) $(if $(DATA),--data_dir "$$DATA") \
	  $(if $(AVERAGING),--averaging $(AVERAGING)) $(ARGS); \
	  status=$$?; [ $$status -gt 1 ] || $(PY) -m dgbench.collect_results --input_dir '$(OUT)'; exit $$status

table: $(VENV)/.installed  ## print the table of OUT again; TABLE=pcl_pacs: a paper's table, missing runs launched
	$(if $(TABLE),$(PY) -m dgbench.paper_table $(TABLE) --output_dir '$(OUT)' --launcher $(LAUNCHER) \
	  $(if $(DATA),--data_dir "$$DATA"),$(PY) -m dgbench.collect_results --input_dir '$(OUT)') $(ARGS)

report: $(VENV)/.installed  ## write report.html: tables, figures and verdicts of results/ and of OUT
	$(PY) -m dgbench.report --input_dir results $(wildcard $(OUT)) --output report.html \
	  $(if $(DATA),--data_dir "$$DATA") $(ARGS)

list: $(VENV)/.installed  ## algorithms, data sets, tasks, sweeps
	@$(PY) -m dgbench.list $(ARGS)

test: $(VENV)/.installed  ## the fast tests
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.installed  ## all tests
	$(PYTEST) -m "" $(ARGS)

check: $(VENV)/.installed  ## lint, format, types and the fast tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST) $(ARGS)

format: $(VENV)/.installed  ## format and fix the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

chaos: $(VENV)/.installed  ## 200 kill -9 and other faults over a sweep by pools; its table must not change
	$(PY) tests/chaos.py $(ARGS)

bench: $(VENV)/.installed  ## the cost of the harness, as ratios; BASELINE=FILE.json: mark what got worse
	$(if $(DATA),DGBENCH_DATA="$$DATA") $(PY) -m dgbench.bench $(if $(BASELINE),--baseline '$(BASELINE)') $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
