"""Images that were odd when they were embedded."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.filters import Dropped
from sspruning.records import DEFECTS, Candidates

__all__ = ["defects"]


def defects(candidates: Candidates, *, blank: bool = True, tiny: bool = True, warned: bool = True) -> Dropped:
    """`Dropped` of the samples whose image has one of the chosen defects, as `DEFECTS` numbers them.

    Args:
        candidates: defects of n samples.
        blank: drop blank and nearly constant images.
        tiny: drop images with a very short side.
        warned: drop images of which the decoder warned.

    Raises:
        UsageError: the candidates lack defects, or nothing would be left.

    Cost:
        O(n).
    """
    if candidates.defects is None:
        raise UsageError("filter 'defects' reads what was odd about images, which these candidates lack")
    chosen = [name for name, wanted in (("blank", blank), ("tiny", tiny), ("warned", warned)) if wanted]
    drop = (candidates.defects & np.uint8(sum(DEFECTS[name] for name in chosen))) > 0
    if len(drop) and drop.all():
        counts = ", ".join(f"{name} {np.count_nonzero(candidates.defects & DEFECTS[name])}" for name in chosen)
        raise UsageError(
            f"filter 'defects' would leave none of {len(drop)} samples ({counts}); turn off what is no defect here"
        )
    return Dropped(drop, "defect")
