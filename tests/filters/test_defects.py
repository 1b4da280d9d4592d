"""Odd images go by the bits that were set when they were embedded."""

from dataclasses import replace

import numpy as np
import pytest
from planted import planted

from sspruning.errors import UsageError
from sspruning.filters.defects import defects
from sspruning.records import DEFECTS

CANDIDATES = replace(planted(0, sizes=(8,)).candidates, defects=np.arange(8, dtype=np.uint8))
"""Every combination of the three bits, by row number."""


def test_every_defect_drops_its_image_unless_told_otherwise():
    gone = defects(CANDIDATES)
    assert gone.drop.tolist() == [False] + [True] * 7
    assert gone.reason == "defect"
    assert gone.twin is None


@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_one_defect_is_looked_for_at_a_time(name):
    drop = defects(CANDIDATES, **{other: other == name for other in DEFECTS}).drop
    assert drop.tolist() == [bool(row & DEFECTS[name]) for row in range(8)]


def test_every_named_defect_has_an_option_and_without_any_nothing_goes():
    assert not defects(CANDIDATES, **dict.fromkeys(DEFECTS, False)).drop.any()


def test_a_bit_without_a_name_drops_nothing():
    assert not defects(replace(CANDIDATES, defects=np.full(8, 128, np.uint8))).drop.any()


def test_it_refuses_to_leave_nothing_and_says_what_was_found():
    every = replace(CANDIDATES, defects=np.array([1, 1, 1, 2, 3, 4, 5, 1], np.uint8))
    with pytest.raises(UsageError, match=r"none of 8 samples \(blank 6, tiny 2, warned 2\)"):
        defects(every)
    assert defects(every, blank=False).drop.sum() == 4


def test_missing_defects_are_named():
    with pytest.raises(UsageError, match="which these candidates lack"):
        defects(replace(CANDIDATES, defects=None))
