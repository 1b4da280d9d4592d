"""Scored store to advice: which policy and fraction the evidence speaks for, and why. All of it in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sspruning.config import SelectConfig
from sspruning.metrics.prototype_distance import TINY_CLUSTER
from sspruning.policies.radix import score_codes
from sspruning.records import F32, I64, Scores
from sspruning.stages.cluster import MIN_POINTS_PER_CLUSTER
from sspruning.stages.import_scores import IMPORTED
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, score_path
from sspruning.storage.store import Store

__all__ = ["AUTO", "Advice", "Observed", "Reason", "advise", "known_to_lose", "observe", "order_statistics"]

AUTO = "auto"  # the value of select.keep that asks for this advice

# What decides. Each number with its source.
RANDOM_BELOW = 0.5  # fraction below which scores lose to random: CCS, arXiv:2210.15809; arXiv:2302.06960
HARD_FROM = 0.7  # fraction from which keep-hard is advised: ours, between RANDOM_BELOW and the 0.8 of arXiv:2206.14486
PLENTY = 10_000  # samples; fewer are scarce. Ours: a fifth of CIFAR-10, on all of which arXiv:2206.14486 sees hard win
USUAL_FRACTION = 0.8  # advised where none is asked for: 80 % of ImageNet matches all of it, arXiv:2206.14486
SCARCE_FRACTION = 0.9  # the same for scarce data, which can spare less: arXiv:2206.14486, theory
BALANCE = 0.5  # share of equal pruning granted to every cluster: 50 % class balance, arXiv:2206.14486
# MIN_POINTS_PER_CLUSTER = 32 samples for each prototype: the same number that chooses k, in cluster.py
# TINY_CLUSTER = 2 members, which say nothing of their prototype: the same number as in prototype_distance.py

# What is warned of. Shares of all samples or of all prototypes.
TINY_SHARE = 0.01  # of the prototypes are empty or tiny; ours
HIGH, TOP = 0.9, 0.999  # where the hard end and its tip begin
HEAVY_TAIL = 5.0  # (TOP - median) / (HIGH - median): 2.4 for a normal, 3.9 for an exponential distribution, computed
AT_PROTOTYPE = 1e-6  # cosine distance; rounding to float16 moves a unit row by 1.2e-7 at most, computed
DUPLICATE_SHARE = 0.01  # of the samples lie on their prototype together with others; ours

# What is cited.
CCS = "CCS, arXiv:2210.15809, forgetting scores: 95.36 % accuracy at 70 % kept, 34.03 % at 10 %"
AYED = "Ayed & Hayou, arXiv:2302.06960: pruning by scores alone fails when little is kept"
IMAGENET = "Sorscher et al., arXiv:2206.14486: 80 % of ImageNet, chosen so with 50 % class balance, matches all of it"
THEORY = (
    "Sorscher et al., arXiv:2206.14486, theory and CIFAR-10: with little data keep-hard is worse than random and "
    "keep-easy better; the order turns as data grow"
)
NOISY_END = "Paul et al., arXiv:2107.07075, and CCS, arXiv:2210.15809: both cut off the very hardest, most of it noise"
DUPLICATES = "SemDeDup, arXiv:2303.09540, and D4, arXiv:2308.12284: duplicates make clusters of their own"
DIGITS = "measured: `sspruning demo`, five seeds, README.md"
CIFAR = "measured, three seeds: 75.8 against 76.1 % accuracy, a difference of -0.3 ± 1.7, tools/prove/README.md"
CIFAR_LOW = "measured on CIFAR-10, three seeds: 64.8 against 68.2 % at 0.3 kept, tools/prove/README.md"
OURS = "a rule of this tool, not measured"


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence of an advice, and what it rests on."""

    sentence: str
    evidence: str
    """Paper with its arXiv id, or where it was measured, or that it was not."""

    def __str__(self) -> str:
        return f"{self.sentence} [{self.evidence}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What an advice looks at: numbers of a scored store."""

    n: int
    """Embedded samples."""
    cluster_sizes: I64
    """(k,) samples for each prototype."""
    metric: str
    median: float
    """Score of the middle sample; larger = harder."""
    high: float
    """Score below which a share of HIGH lies."""
    top: float
    """Score below which a share of TOP lies."""
    duplicates: int
    """Samples that lie on their prototype and are more than TINY_CLUSTER there."""

    @property
    def per_cluster(self) -> float:
        """Samples for each prototype, on average."""
        return self.n / max(len(self.cluster_sizes), 1)

    @property
    def tail(self) -> float:
        """How much longer the tip of the hard end is than the hard end; 0 where there is none, or too few samples."""
        if self.top <= self.median or self.n * (1 - TOP) < 1:
            return 0.0
        return (self.top - self.median) / (self.high - self.median) if self.high > self.median else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to keep, and why."""

    keep: str
    """A name of the table in ``sspruning.policies``."""
    keep_fraction: float
    """In (0, 1]."""
    balance: float
    """Cluster floor; plays no part for `random`."""
    reasons: tuple[Reason, ...]
    """At least one."""
    warnings: tuple[Reason, ...] = ()
    """What to look at first."""

    @property
    def options(self) -> str:
        """The options of `sspruning select` that do this."""
        floor = "" if self.keep == "random" else f" --balance {self.balance}"
        return f"--keep {self.keep} --keep-fraction {self.keep_fraction}{floor}"

    @property
    def numbered(self) -> list[str]:
        """The reasons as lines for people."""
        return [f"  {number}. {reason}" for number, reason in enumerate(self.reasons, start=1)]


def known_to_lose(config: SelectConfig) -> str | None:
    """A warning about a choice that is known to lose, with the reason and the alternative; None if there is none."""
    if config.keep == "hard" and config.keep_fraction < RANDOM_BELOW:
        return (
            f"warning: keeping the hardest {config.keep_fraction:.0%} loses to a random subset in the literature "
            f"({CCS}): the hard end "
            f"of a small subset is mostly noise. Keep {RANDOM_BELOW} or more, or use --keep random"
        )
    return None


def advise(observed: Observed, keep_fraction: float | None = None) -> Advice:
    """`Advice` from numbers alone; the same numbers give the same advice.

    Args:
        observed: the scored store.
        keep_fraction: what has to be kept, in (0, 1]; None leaves that to the advice as well.
    """
    fraction, reasons = keep_fraction, []
    if fraction is None:
        scarce = observed.n < PLENTY
        fraction = SCARCE_FRACTION if scarce else USUAL_FRACTION
        why = f"{observed.n:,} samples are scarce, so little can be spared" if scarce else "a share known to do no harm"
        reasons.append(Reason(f"Keep a fraction of {fraction}: {why}.", THEORY if scarce else IMAGENET))
    keep, why_keep = _policy(observed, fraction)
    return Advice(
        keep=keep,
        keep_fraction=fraction,
        balance=BALANCE,
        reasons=(*reasons, *why_keep),
        warnings=tuple(_warnings(observed)),
    )


def _policy(observed: Observed, fraction: float) -> tuple[str, list[Reason]]:
    """Name of the policy, and why; the first rule that applies decides."""
    n, per_cluster = observed.n, observed.per_cluster
    if observed.metric == "random":
        return "random", [Reason("Keep random: scores that are drawn at random know no better.", OURS)]
    if fraction < RANDOM_BELOW:
        sentence = (
            f"Keep random: a fraction of {fraction} is below {RANDOM_BELOW}, where choosing by score loses to it."
        )
        return "random", [Reason(sentence, f"{CCS}; {AYED}; {CIFAR_LOW}")]
    if per_cluster < MIN_POINTS_PER_CLUSTER and observed.metric != IMPORTED:
        return "random", [
            Reason(
                f"Keep random: {per_cluster:.1f} samples for each prototype are below {MIN_POINTS_PER_CLUSTER}, so the "
                "distance to it says little; cluster again with fewer prototypes.",
                OURS,
            )
        ]
    if n < PLENTY:
        return "random", [
            Reason(f"Keep random: {n:,} samples are scarce (below {PLENTY:,}), and the evidence disagrees.", OURS),
            Reason("In theory typical samples teach more then (--keep easy).", THEORY),
            Reason("On 1,437 simple digits keep-hard and random came out equal: compare with your own.", DIGITS),
        ]
    if fraction < HARD_FROM:
        return "random", [
            Reason(
                f"Keep random: between {RANDOM_BELOW} and {HARD_FROM} no policy is known to win on every corpus; "
                "take hard only if it beats random on yours.",
                f"{IMAGENET}; {CCS}",
            )
        ]
    return "hard", [
        Reason(f"Keep hard: {n:,} samples are plentiful; a fraction of {fraction} drops redundant ones.", IMAGENET),
        Reason(
            "On CIFAR-10 (small network, 8 epochs) hard and random came out equal at 0.7: compare with random.",
            CIFAR,
        ),
        Reason(f"Balance {BALANCE}: without a floor whole clusters die out, and the rare becomes rarer.", IMAGENET),
    ]


def _warnings(observed: Observed) -> Iterator[Reason]:
    """What may be wrong with the data, the prototypes or the scores."""
    sizes = observed.cluster_sizes
    empty, tiny = int((sizes == 0).sum()), int(((sizes > 0) & (sizes <= TINY_CLUSTER)).sum())
    if observed.per_cluster < MIN_POINTS_PER_CLUSTER:
        yield Reason(
            f"Only {observed.per_cluster:.1f} samples for each of {len(sizes):,} prototypes, expected "
            f"{MIN_POINTS_PER_CLUSTER}: lower --n-clusters.",
            OURS,
        )
    if empty + tiny > TINY_SHARE * len(sizes):
        yield Reason(
            f"{empty:,} of {len(sizes):,} clusters are empty and {tiny:,} have one or two members: lower --n-clusters.",
            OURS,
        )
    if observed.tail > HEAVY_TAIL:
        yield Reason(
            f"The hardest {1 - TOP:.1%} stand out ({observed.tail:.1f} times as far above the median as the hardest "
            f"{1 - HIGH:.0%}): they may be broken or off-topic images, so look at the highest scores before keep-hard, "
            "or take them out with --step outliers.",
            NOISY_END,
        )
    if observed.duplicates > DUPLICATE_SHARE * observed.n:
        yield Reason(
            f"{observed.duplicates:,} of {observed.n:,} samples lie exactly on their prototype: probably duplicates, "
            "which keep-easy would keep first; take them out with --step 'dedup threshold=0.99' --step recluster.",
            DUPLICATES,
        )


def observe(store: Store, scores: Scores, assignments: dict[str, Path]) -> Observed:
    """`Observed` numbers of a scored store.

    Args:
        store: which samples there are.
        scores: their scores.
        assignments: file with the prototype of each row, by shard.

    Raises:
        StoreError: a column is missing or damaged.

    Cost:
        two passes over the scores and one over the assignments; memory for one part at a time.
    """

    def columns() -> Iterator[F32]:
        for record in store.records():
            yield load_column(score_path(Path(scores.folder), record.shard_id), record.n_rows, np.dtype("<f4"))

    median, high, top = order_statistics(columns, (0.5, HIGH, TOP))
    duplicates = 0
    for record in store.records():
        rows = load_column(assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
        shared = scores.cluster_sizes[rows["label"]] > TINY_CLUSTER
        duplicates += int((shared & (rows["cosine_distance"] <= AT_PROTOTYPE)).sum())
    return Observed(
        n=scores.n_rows,
        cluster_sizes=scores.cluster_sizes,
        metric=scores.metric,
        median=median,
        high=high,
        top=top,
        duplicates=duplicates,
    )


def order_statistics(columns: Callable[[], Iterable[F32]], shares: tuple[float, ...]) -> list[float]:
    """For each share the value at rank floor(share * n) of all n values in ascending order; exact, not interpolated.

    A radix selection: one pass counts the upper 16 bits, a second the lower ones where they matter.

    Args:
        columns: called twice; gives all values piece by piece, finite, at least one in all.
        shares: in [0, 1].

    Cost:
        O(n) time; half a megabyte for each share, whatever n is.
    """
    upper = np.zeros(1 << 16, np.int64)
    for values in columns():
        upper += np.bincount(score_codes(values) >> 16, minlength=1 << 16)
    ends = np.cumsum(upper)
    ranks = [min(int(share * ends[-1]), int(ends[-1]) - 1) for share in shares]
    bins = np.searchsorted(ends, ranks, side="right").tolist()
    lower = np.zeros((len(shares), 1 << 16), np.int64)
    for values in columns():
        codes = score_codes(values)
        for row, at in enumerate(bins):
            lower[row] += np.bincount(codes[codes >> 16 == at] & 0xFFFF, minlength=1 << 16)
    found = []
    for row, (at, rank) in enumerate(zip(bins, ranks, strict=True)):
        within = rank - int(ends[at] - upper[at])
        low = int(np.searchsorted(np.cumsum(lower[row]), within, side="right"))
        code = np.array([at << 16 | low], np.uint32)
        bits = np.where(code >> 31, code & np.uint32(0x7FFFFFFF), ~code)
        found.append(float(bits.astype("<u4").view("<f4")[0]))
    return found
