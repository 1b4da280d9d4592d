"""What fault tests share: the nursery of processes, small corpora, and a table of what became of every case."""

import pytest

pytest.register_assert_rewrite("faults.harness")

from faults.harness import Nursery  # noqa: E402 - its assertions are to say what they compared


@pytest.fixture(scope="session")
def nursery():
    """A `Nursery`."""
    with Nursery() as made:
        yield made
