"""GPUs of this machine: which are in sight, and which of them the worker in a slot gets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

__all__ = ["gpus_of_slot", "visible_gpus"]


def visible_gpus(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """GPUs that a process started here would see, by the names that CUDA_VISIBLE_DEVICES takes; loads no driver.

    Args:
        devices: folder with an entry ``nvidiaN`` for each GPU.
    """
    names = [str(number) for number, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names and chosen is not None:
        names = list(takewhile(lambda name: name not in {"", "-1"}, map(str.strip, chosen.split(","))))  # as CUDA does
    return tuple(names)


def gpus_of_slot(slot: int, gpus: Sequence[str], each: float) -> tuple[str, ...]:
    """GPUs of the worker in a slot; slots take turns, so that workers share GPUs only when there are too few.

    Args:
        slot: number of the worker, from 0.
        gpus: names of those in sight; none gives none.
        each: GPUs for a worker, above 0; below 1, several workers share one.
    """
    if not gpus:
        return ()
    count = min(math.ceil(each), len(gpus))
    return tuple(gpus[(slot * count + at) % len(gpus)] for at in range(count))
