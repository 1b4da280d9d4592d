"""What people should know about the pruned shards before they train: sets of members, and what trainers would miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sspruning.records import Output
from sspruning.trainers import TRAINERS

__all__ = ["notes_on"]

SHOWN = 4  # sets of suffixes that a note names


def notes_on(output: Output, index: Sequence[str]) -> Iterator[str]:
    """Notes on samples with unlike members, and on what keeps the trainers of ``index`` from seeing every sample."""
    if len(output.suffixes) > 1 and "hf" not in index:  # that trainer says so itself
        yield _unlike(output)
    for name in index:
        trainer = TRAINERS.resolve(name)
        for obstacle in trainer.obstacles(output):
            yield f"{trainer.title}: {obstacle}"


def _unlike(output: Output) -> str:
    """How the samples' members differ, and how they would not."""
    kinds = output.suffixes
    shown = ", ".join(f"{count:,} with {kind}" for kind, count in list(kinds.items())[:SHOWN])
    more = f" and {len(kinds) - SHOWN} more sets" if len(kinds) > SHOWN else ""
    common = set.intersection(*(set(kind.split(";")) for kind in kinds))
    cure = f"--members '{';'.join(sorted(common))}'" if common & set(output.image_key) else "--members, --rename-suffix"
    return (
        f"samples have not all the same members: {shown}{more}; Hugging Face datasets wants one set in all of a shard: "
        f"write again with {cure}"
    )
