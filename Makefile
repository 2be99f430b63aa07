# `make demo` sets up and runs the main job; `make test` sets up and passes the tests.  All else is by hand.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo gpu test pytest lint docs format report bench clean

setup: $(STAMP)

# The stamp makes a second `make setup` do nothing until the requirements change.  What is imported
# is compiled then, and kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/prunebench run -m +experiment=demo
	$(BIN)/prunebench report --experiment demo --format md --output results/demo.md
	$(BIN)/prunebench report --experiment demo

# Side by side with `make -j2 test`, as CI does.
test: lint pytest

# A worker a core, one thread each: threads of two workers would wait for each other.
pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

# Needs CUDA; starts nothing after 570 s, no hub; leaves results/gpu-report.md, made to be sent.
gpu: setup
	$(BIN)/prunebench doctor --gpu

lint: setup
	$(BIN)/ruff check harness hydra_plugins tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, build/site/index.html; a warning (a lost link, a page that no list names) is an error.
docs: setup
	rm -rf build/site
	$(BIN)/sphinx-build -q -W --keep-going -c docs . build/site

format: setup
	$(BIN)/ruff check --fix harness hydra_plugins tests
	$(BIN)/ruff format harness hydra_plugins tests

report: setup
	$(BIN)/prunebench report

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find harness tests -name __pycache__ -type d -prune -exec rm -rf {} +
