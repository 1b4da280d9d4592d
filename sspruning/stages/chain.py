"""The chain of a selection: steps that take samples out, each seeing what the one before left, then a policy."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sspruning.config import SelectConfig
from sspruning.errors import StoreError, UsageError
from sspruning.filters import FILTERS, Dropped
from sspruning.filters import NEEDS_VECTORS as FILTERS_WITH_VECTORS
from sspruning.policies import COUNT_MATTERS, NEEDS_VECTORS, POLICIES, PRUNED_REASON
from sspruning.progress import Progress
from sspruning.records import F32, I64, Candidates
from sspruning.stages.candidates import Scored, gather, scratch_vectors
from sspruning.stages.exclude import EXCLUDE, check_exclude, exclude
from sspruning.stages.recluster import recluster

__all__ = ["Chained", "check_chain", "is_nested", "run_chain"]

RECLUSTER = "recluster"


@dataclass(slots=True)
class Chained:
    """What a chain says of all n samples, in store order."""

    rank: I64
    """(n,) a permutation: survivors as the policy ranks them, then what the last step took, then the one before it."""
    score: F32
    """(n,) what the policy saw; for samples that went before, what their step saw."""
    reason: np.ndarray
    """(n,) index into ``reasons``: why a sample goes, if it goes."""
    twin: I64
    """(n,) row of the sample that stands for a duplicate; -1 for all others."""
    reasons: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    """Samples that each step took, by its number and name."""


def check_chain(config: SelectConfig) -> None:
    """Refuse unknown steps, policies and options before hours of work are spent.

    Raises:
        UsageError: names what is known.
    """
    for name, options in _steps(config):
        FILTERS.check(name, also=[EXCLUDE, RECLUSTER])
        if name == EXCLUDE:
            check_exclude(options)
        elif name != RECLUSTER:
            FILTERS.check_options(name, options)
        elif set(options) - {"n_clusters"} or not isinstance(options.get("n_clusters", 1), int):
            raise UsageError(f"step {RECLUSTER!r} has one option, n_clusters, a whole number; got {options}")
    if config.keep in POLICIES:
        POLICIES.check_options(config.keep, config.options)


def _steps(config: SelectConfig) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of each step."""
    return [(name, dict(options)) for step in config.steps for name, options in step.items()]


def is_nested(config: SelectConfig) -> bool:
    """True if a smaller fraction keeps a subset: neither the policy nor a step looks at how many are kept."""
    aimed = any(options.get("share") is not None for _, options in _steps(config))
    return config.keep not in COUNT_MATTERS and not aimed


def run_chain(scored: Scored, count: int, folder: Path, progress: Progress) -> Chained:
    """`Chained` of a store: every step, then the policy.

    Args:
        scored: the store, its scores, and the section `select` to follow.
        count: samples that will be kept.
        folder: where embeddings are laid out while steps or a policy need them.
        progress: told what each step took.

    Raises:
        UsageError: an option out of its range, or fewer survivors than are to be kept.
        StoreError: a policy that does not rank every sample once.

    Cost:
        about 80 bytes of memory a sample; time as the steps and the policy say.
    """
    config = scored.config.select
    names = {name for name, _ in _steps(config)}
    wanted = config.keep in NEEDS_VECTORS or not names.isdisjoint({*FILTERS_WITH_VECTORS, RECLUSTER})
    with scratch_vectors(scored.store, folder) if wanted else nullcontext() as vectors:
        candidates = gather(scored, count, vectors, images=not names.isdisjoint(FILTERS))
        return _run(scored, candidates, progress)


def _run(scored: Scored, candidates: Candidates, progress: Progress) -> Chained:
    config, n, tie = scored.config.select, len(candidates), candidates.tie
    found = Chained(np.empty(n, np.int64), candidates.score.copy(), np.zeros(n, np.int16), np.full(n, -1, np.int64))
    rows = np.arange(n)
    for number, (name, options) in enumerate(_steps(config), start=1):
        with progress.stage(name, len(rows), "samples") as ticker:
            if name == RECLUSTER:
                candidates = recluster(candidates, scored.config, **options)
            else:
                if name == EXCLUDE:
                    dropped = exclude(scored.store, rows, progress, **options)
                else:
                    dropped = FILTERS.resolve(name)(candidates, **options)
                stay = _noted(dropped, candidates, rows, found)
                gone = np.delete(rows, stay)
                found.rank[gone[np.argsort(tie[gone], kind="stable")]] = np.arange(len(stay), len(rows))
                found.dropped[f"{number} {name}"] = len(gone)
                candidates, rows = candidates.take(stay), rows[stay]
            ticker.tick(len(candidates))
    if len(rows) < candidates.count:
        raise UsageError(_too_few(len(rows), candidates.count, n, found))
    ranks = POLICIES.resolve(config.keep)(candidates, **config.options)
    found.rank[rows] = _checked(ranks, len(rows), config.keep)
    found.score[rows] = candidates.score
    found.reason[rows] = len(found.reasons)
    found.reasons.append(PRUNED_REASON.get(config.keep, "pruned"))
    return found


def _noted(dropped: Dropped, candidates: Candidates, rows: I64, found: Chained) -> I64:
    """Indices of the candidates that a step leaves; notes why the others, which are ``rows`` of the store, go."""
    gone = rows[dropped.drop]
    found.reason[gone] = len(found.reasons)
    found.reasons.append(dropped.reason)
    found.score[gone] = candidates.score[dropped.drop]
    if dropped.twin is not None:
        found.twin[gone] = rows[dropped.twin[dropped.drop]]
    return np.flatnonzero(~dropped.drop)


def _too_few(left: int, count: int, n: int, found: Chained) -> str:
    taken = ", ".join(f"{step} took {gone:,}" for step, gone in found.dropped.items())
    return (
        f"{left:,} of {n:,} samples are left ({taken}), but {count:,} are to be kept; "
        f"ask for a fraction of at most {left / n:.4f}, or for milder steps"
    )


def _checked(ranks: I64, n: int, keep: str) -> I64:
    """``ranks`` if they are a permutation; a wrong policy must not lose samples."""
    if ranks.shape != (n,) or not (np.bincount(ranks, minlength=n) == 1).all():
        raise StoreError(f"policy {keep!r} did not rank every sample exactly once; this is a bug in the policy")
    return ranks
