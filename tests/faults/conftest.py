"""What fault tests share: the nursery of processes, a ground to work on, and a table of what became of every test."""

import pytest
from faults.harness import Ground, Nursery
from outcome_table import OutcomeTable

TABLE = OutcomeTable("tests/faults/")


def pytest_runtest_logreport(report):
    TABLE.add(report)


def pytest_terminal_summary(terminalreporter):
    TABLE.write(terminalreporter, "what became of every fault")


@pytest.fixture(scope="session")
def nursery():
    """A `Nursery`."""
    with Nursery() as made:
        yield made


@pytest.fixture(scope="session")
def ground(tmp_path_factory, nursery):
    """A `Ground` with small corpora."""
    return Ground(tmp_path_factory.mktemp("ground"), nursery)
