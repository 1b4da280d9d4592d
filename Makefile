# The commands of CONTRIBUTING.md; .ci/run uses the same ones.
PYTHON ?= python

.PHONY: install trainers browser check test slow bench demo ci

install:  ## the package in place, with everything that tests and checks need
	$(PYTHON) -m pip install -e '.[dev]'

trainers:  ## what reads pruned shards; these three ask for far more, or older, packages than reading needs
	$(PYTHON) -m pip install --no-deps mosaicml-streaming lightly dinov2
	$(PYTHON) -m pip install brotli catalogue python-snappy transformers zstd megatron-energon

browser:  ## what drives the report in tests: Chromium, from Debian's packages if it is not there
	$(PYTHON) -m pip install playwright
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

check:  ## style, layout and types; seconds
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ty check sspruning

test:  ## every test but the slow ones
	$(PYTHON) -m pytest

slow:  ## the slow tests
	$(PYTHON) -m pytest -m slow

bench:  ## appends to tools/bench/results.csv; on a machine that does nothing else
	$(PYTHON) tools/bench/run.py

demo:
	$(PYTHON) -m sspruning demo

ci:  ## what a fresh machine does: clean clone, new environment, the README's own commands
	bash .ci/run
