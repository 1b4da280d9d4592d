"""What a report shows, as plain records: numbers, pictures that are text already, words that people chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sspruning.records import F64, I64, JSONValue

__all__ = [
    "Alternative",
    "Choice",
    "ClusterRow",
    "Contents",
    "CopyGroup",
    "Counts",
    "Curves",
    "Galleries",
    "Ledger",
    "MapCluster",
    "OutputFacts",
    "Picture",
    "SkippedSample",
    "StageTime",
    "Stops",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One sample with its thumbnail."""

    key: str
    shard: str
    row: int
    """Ordinal in its shard."""
    rank: int
    """Place in the order of keeping: kept when more than this many samples are kept. Without ranks, any such number."""
    score: float
    distance: float
    """1 - cosine to its prototype."""
    cluster: int
    reason: str
    kept: bool
    """In this selection."""
    image: str = ""
    """A data: URI; empty where there is no picture to show."""
    tiny: bool = False
    """The picture has so few pixels that they are shown as squares."""
    note: str = ""
    """Why there is no picture."""
    caption: str = ""
    """Text member of the sample, cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFacts:
    """A folder of pruned shards."""

    folder: str
    n_shards: int
    n_samples: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where every sample went."""

    n_shards: int
    n_samples: int
    n_embedded: int
    skipped: Mapping[str, int]
    """Samples that were not embedded, by reason."""
    quarantined: Mapping[str, str]
    """Problem of each shard that was put aside."""
    n_kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Embedded samples that are not kept, by reason; all duplicates as one."""
    output: OutputFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a selection was made."""

    keep: str
    """Name of the policy."""
    metric: str
    fraction: float
    balance: float
    floor: str
    nested: bool
    """True if ranks are good for every fraction."""
    ranked: bool = True
    """True if there are ranks."""
    n_survivors: int
    """Samples that no step took out: as many can be kept at most."""
    settings: Mapping[str, JSONValue]
    """All of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """The s fractions that the slider stops at."""

    fractions: F64
    """(s,) ascending."""
    counts: I64
    """(s,) samples that `select` keeps for each."""
    own: int
    """Index of the fraction of this selection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of samples, by group and by the first stop that keeps them.

    A table has a row for each group and s + 1 columns: column j counts the samples that stop j keeps and no smaller one
    does, the last those that no stop keeps. So sums of the first j + 1 columns are the kept counts of stop j, exactly.
    """

    stops: Stops
    edges: F64
    """(b + 1,) borders of the score bins, ascending."""
    clipped: bool
    """True if scores beyond the borders count in the outermost bins."""
    by_score: I64
    """(b, s + 1)."""
    finely: I64
    """(f, s + 1): the same for f narrower bins, a whole number of them to each of the others."""
    by_cluster: I64
    """(k, s + 1)."""

    def members(self) -> I64:
        """(k,) embedded samples of each cluster."""
        return self.by_cluster.sum(axis=1)

    def kept(self) -> I64:
        """(k,) samples of each cluster that this selection keeps."""
        return self.by_cluster[:, : self.stops.own + 1].sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What each of the s stops would come to; (s,) each."""

    balance: F64
    """Mean over pairs of clusters of the smaller kept count by the larger; 1: all keep the same number."""
    balance_before: float
    """The same of the clusters before anything is dropped."""
    empty: I64
    """Clusters with samples that keep none."""
    fewest: I64
    """Kept samples of the cluster that keeps fewest."""
    mean_score: F64
    """Of the kept samples."""
    tail_kept: F64
    """Share of the hardest hundredth of all samples that is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Galleries:
    """Samples that stand for many."""

    order: list[Picture]
    """Evenly spaced in the order of keeping; none without ranks."""
    typical: list[Picture]
    """Smallest scores first."""
    unusual: list[Picture]
    """Largest scores first."""
    last_kept: list[Picture]
    """Nearest to the cut first; none without ranks."""
    first_dropped: list[Picture]
    """Nearest to the cut first; none without ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """One cluster: its own samples from the prototype outwards."""

    cluster: int
    members: int
    kept: int
    why: str
    """Why this cluster is shown."""
    nearest: list[Picture]
    cut: list[Picture]
    """Its last kept and first dropped samples, in the order of keeping."""
    farthest: list[Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCluster:
    """A cluster on the map."""

    cluster: int
    x: float
    y: float
    """Principal components of its prototype."""
    picture: Picture | None = None
    """The sample nearest to its prototype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyGroup:
    """A sample and others that went as its duplicates."""

    stands: Picture | None
    copies: list[Picture]
    n_copies: int
    """All of them, shown or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSample:
    """A sample that was not embedded."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another choice of as many samples, beside this one."""

    name: str
    meaning: str
    replaced: int
    """Samples that this selection keeps and the other would not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """What one stage took."""

    stage: str
    done: int
    unit: str
    seconds: float
    memory: int | None = None
    """Peak resident bytes of the process, if it was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A whole report. What is None or empty is left out of the page."""

    name: str
    ledger: Ledger
    choice: Choice | None = None
    counts: Counts | None = None
    curves: Curves | None = None
    galleries: Galleries | None = None
    rows: list[ClusterRow] = field(default_factory=list)
    clusters: list[MapCluster] = field(default_factory=list)
    map_share: float = 0.0
    """Share of the spread between prototypes that the map shows."""
    copies: list[CopyGroup] = field(default_factory=list)
    n_copy_groups: int = 0
    skipped: list[SkippedSample] = field(default_factory=list)
    alternatives: list[Alternative] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    """Words of the command that makes this selection; the fraction stands behind --keep-fraction."""
    whole_command: str = ""
    """The command that does the whole run again, from the shards on; empty where the settings do not say enough."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Name and value of what the result depends on."""
    config: str = ""
    """YAML."""
    notes: list[str] = field(default_factory=list)
    """What is missing from the report, and why."""
    stages: list[StageTime] = field(default_factory=list)
    made: str = ""
    """When the report was made, in words."""
