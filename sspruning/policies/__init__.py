"""Which samples stay? One pure function a policy: it ranks all samples, and a fraction keeps the first ranks.

Ranking makes every policy exact (the first K ranks are K samples) and nested (fewer ranks are a subset).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sspruning.records import F32, I32, I64, U64
from sspruning.registry import Registry

__all__ = ["POLICIES", "PRUNED_REASON", "Candidates", "Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Everything a policy may look at, for all n samples in store order."""

    score: F32
    """(n,) larger = harder."""
    cluster: I32
    """(n,) prototype of each sample."""
    tie: U64
    """(n,) seeded hash of the key: breaks ties, draws at random; independent of order and worker count."""
    balance: float
    """Share of equal pruning that every cluster is granted, in [0, 1]."""
    floor: Literal["proportional", "uniform"]
    """Whether equal pruning means by cluster size, or the same number for each cluster."""


class Policy(Protocol):
    """A policy: the order in which samples are kept."""

    def __call__(self, candidates: Candidates) -> I64:
        """(n,) int64, a permutation of 0 .. n-1: the sample with rank r is kept when more than r samples are kept."""
        ...


POLICIES: Registry[Policy] = Registry(
    "policy",
    {
        "hard": "sspruning.policies.keep_hardest:keep_hardest",
        "easy": "sspruning.policies.keep_easiest:keep_easiest",
        "random": "sspruning.policies.keep_random:keep_random",
    },
)

PRUNED_REASON = {"hard": "pruned_easy", "easy": "pruned_hard", "random": "pruned_random"}
"""What ``selection.parquet`` says of the samples that a policy drops."""
