"""Which samples stay? One pure function a policy: it ranks all samples, and a fraction keeps the first ranks.

Ranking makes every policy exact: the first K ranks are K samples. Most are nested as well: their ranks do not depend on
K, so a smaller fraction keeps a subset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sspruning.records import I64, Candidates
from sspruning.registry import Registry

if TYPE_CHECKING:
    from sspruning.policies.radix import Rule, Stream

__all__ = ["COUNT_MATTERS", "NEEDS_VECTORS", "POLICIES", "PRUNED_REASON", "RULES", "Candidates", "Policy"]


class Policy(Protocol):
    """A policy: the order in which samples are kept. Options are keyword arguments with defaults."""

    def __call__(self, candidates: Candidates) -> I64:
        """(n,) int64, a permutation of 0 .. n-1: the sample with rank r is kept when more than r samples are kept."""
        ...


class RuleMaker(Protocol):
    """A policy that finds what it keeps by passes over the samples; takes the policy's options."""

    def __call__(self, stream: Stream) -> Rule:
        """`Rule` that keeps the samples whose rank in the policy is below ``stream.count``."""
        ...


POLICIES: Registry[Policy] = Registry(
    "policy",
    {
        "hard": "sspruning.policies.keep_hardest:keep_hardest",
        "easy": "sspruning.policies.keep_easiest:keep_easiest",
        "random": "sspruning.policies.keep_random:keep_random",
        "stratified-random": "sspruning.policies.stratified_random:stratified_random",
        "moderate": "sspruning.policies.moderate:moderate",
        "ccs": "sspruning.policies.coverage_centric:coverage_centric",
        "density": "sspruning.policies.density:density",
        "coverage": "sspruning.policies.coverage:coverage",
        "hierarchical": "sspruning.policies.hierarchical:hierarchical",
        "d2": "sspruning.policies.message_passing:message_passing",
    },
)

RULES: Registry[RuleMaker] = Registry(
    "rule",
    {
        "hard": "sspruning.policies.keep_hardest:hardest_rule",
        "easy": "sspruning.policies.keep_easiest:easiest_rule",
        "random": "sspruning.policies.keep_random:random_rule",
        "stratified-random": "sspruning.policies.stratified_random:stratified_random_rule",
        "moderate": "sspruning.policies.moderate:moderate_rule",
        "ccs": "sspruning.policies.coverage_centric:coverage_centric_rule",
    },
)
"""The same policies without ranks, for more samples than ought to be held: they keep exactly the same ones."""

PRUNED_REASON = {
    "hard": "pruned_easy",
    "easy": "pruned_hard",
    "random": "pruned_random",
    "stratified-random": "pruned_random",
    "moderate": "pruned_far_from_median",
    "ccs": "pruned_stratum_full",
    "density": "pruned_over_budget",
    "coverage": "pruned_covered",
    "hierarchical": "pruned_over_budget",
    "d2": "pruned_covered",
}
"""What ``selection.parquet`` says of the samples that a policy drops."""

NEEDS_VECTORS: frozenset[str] = frozenset({"coverage", "d2"})
"""Policies that read embeddings, not only scores and clusters."""

COUNT_MATTERS: frozenset[str] = frozenset({"density", "coverage"})
"""Policies whose ranks depend on how many are kept: their sets are not nested."""
