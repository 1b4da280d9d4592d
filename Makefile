# The commands of CONTRIBUTING.md; .ci/run uses the same ones.
PYTHON ?= python

.PHONY: install trainers browser remote check test slow faults hostile fuzz bench demo ci

install:  ## the package in place, with everything that tests and checks need
	$(PYTHON) -m pip install -e '.[dev]'

trainers:  ## what reads pruned shards; these three ask for far more, or older, packages than reading needs
	$(PYTHON) -m pip install --no-deps mosaicml-streaming lightly dinov2
	$(PYTHON) -m pip install brotli catalogue python-snappy transformers zstd megatron-energon

browser:  ## what drives the report in tests: Chromium, from Debian's packages if it is not there
	$(PYTHON) -m pip install playwright
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

remote:  ## what reads shards from buckets, and a server that is one in tests
	$(PYTHON) -m pip install -e '.[remote]' 'moto[s3]' flask flask-cors

check:  ## style, layout and types; seconds
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ty check sspruning

test:  ## every test but the slow ones
	$(PYTHON) -m pytest

slow:  ## the slow tests
	$(PYTHON) -m pytest -m slow

faults:  ## every verb stopped at every call of the commit protocol; half an hour
	$(PYTHON) -m pytest tests/faults -m "" --dist worksteal

hostile:  ## every hostile input there is a rule for, as a table
	$(PYTHON) -m pytest tests/hostile -n 0 -m "" --hostile-table

fuzz:  ## a minute of random shards, a minute of random parts; needs atheris
	$(PYTHON) tools/fuzz/fuzz_tar_scan.py -max_total_time=60
	$(PYTHON) tools/fuzz/fuzz_store.py -max_total_time=60

bench:  ## appends to tools/bench/results.csv; on a machine that does nothing else
	$(PYTHON) tools/bench/run.py

demo:
	$(PYTHON) -m sspruning demo

ci:  ## what a fresh machine does: clean clone, new environment, the README's own commands
	bash .ci/run
