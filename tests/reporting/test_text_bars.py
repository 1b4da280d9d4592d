"""The histogram for terminals counts every sample once."""

import re

import numpy as np

from sspruning.reporting.contents import Counts, Stops
from sspruning.reporting.text_bars import text_bars


def test_lines_hold_all_samples_and_bars_are_in_proportion():
    table = np.zeros((60, 3), np.int64)
    table[:, 0], table[:, 2] = np.arange(60), 2
    counts = Counts(
        stops=Stops(fractions=np.array([0.5, 0.9]), counts=np.array([1, 2]), own=0),
        edges=np.linspace(0, 6, 61),
        clipped=False,
        by_score=table,
        finely=table,
        by_cluster=table,
    )
    lines = text_bars(counts, rows=10, width=40)
    assert len(lines) == 10
    found = [re.search(r"([\d.]+) to ([\d.]+)  ([#.]*) *  ([\d,]+) kept of ([\d,]+)", line).groups() for line in lines]
    assert [float(start) for start, *_ in found] == [0, 0.6, 1.2, 1.8, 2.4, 3.0, 3.6, 4.2, 4.8, 5.4]
    kept, total = ([int(one[place]) for one in found] for place in (3, 4))
    assert (sum(kept), sum(total)) == (table[:, 0].sum(), table.sum())
    assert len(found[-1][2]) == 40
    assert found[-1][2].count("#") == round(40 * kept[-1] / total[-1])
