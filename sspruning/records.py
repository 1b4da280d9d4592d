"""The nouns that stages hand each other: small frozen records, arrays typed by what they hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEFECTS",
    "F16",
    "F32",
    "F64",
    "I32",
    "I64",
    "U8",
    "U32",
    "U64",
    "BoolArray",
    "Candidates",
    "EmbedReport",
    "EmbeddingChunk",
    "EncoderSpec",
    "JSONValue",
    "Manifest",
    "Output",
    "OutputSample",
    "OutputShard",
    "Prototypes",
    "Scores",
    "ScoringChunk",
    "Selection",
    "ShardRef",
    "Vectors",
]

F16: TypeAlias = NDArray[np.float16]
F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint8]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
BoolArray: TypeAlias = NDArray[np.bool_]
JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"

DEFECTS = {"blank": 1, "tiny": 2, "warned": 4}
"""Bits of what was odd about an image when it was embedded; FORMAT.md says when each is set."""


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One input shard: where it is and what it looked like when it was listed."""

    shard_id: str
    """Name inside a store, unique in a corpus: the file's stem, with folders in front where stems repeat."""
    path: str
    """Absolute local path, or URL."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time in nanoseconds since the epoch; of a URL, a number made from its ETag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What to build in a worker to turn images into embeddings. Small and picklable."""

    name: str = "shipped"
    """`shipped`, `timm`, `card`, `custom` or `pixels` of the table in ``sspruning.encoders``, or a preset's name."""
    model: str | None = None
    """timm model name; for `timm` only. A preset sets it."""
    checkpoint: str | None = None
    """Local safetensors or state-dict file that replaces timm's own pretrained weights; for `card` the card."""
    factory: str | None = None
    """``package.module:function`` for `custom`."""
    image_size: int | None = None
    """Side of the square input in pixels; None takes the model's own."""
    batch_size: int = 128
    """Images per forward pass. Part of the store's fingerprint: it can move the last bit of an embedding."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "auto"
    """auto (decided by a probe), float32 or bfloat16 (autocast)."""
    channels_last: bool = True
    """Run convolutions in the channels-last memory format."""
    compile: bool = False
    """Run the model through torch.compile: minutes of warm-up, worth it for long jobs on a GPU."""


@dataclass(frozen=True, slots=True)
class EmbeddingChunk:
    """Consecutive rows of a store."""

    keys: list[str]
    embeddings: F16
    """(m, d) float16, unit length."""
    scores: F32 | None = None
    """(m,) float32, larger = harder; None unless scores were asked for."""


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Centroids of a clustering and how they came about."""

    centroids: F32
    """(k, d) float32; unit norm when ``spherical``."""
    spherical: bool
    objective: F64
    """(iterations,) float64: the clusterer's objective after each iteration; falls if Euclidean, rises if spherical."""
    sample_size: int
    """Rows that the clustering saw."""
    fingerprint: str = ""
    """Hex digest of everything that these centroids depend on."""
    info: dict[str, JSONValue] = field(default_factory=dict)
    """What people want to know: the reason for k, seed, versions-free settings."""
    parts: tuple[str, ...] = ()
    """First 16 digits of the fingerprint of each part that was there: what is new later is told by it."""

    @property
    def k(self) -> int:
        """Number of prototypes."""
        return int(self.centroids.shape[0])


@dataclass(frozen=True, slots=True)
class ScoringChunk:
    """What a metric sees of m samples: no metric has to search prototypes again."""

    label: I32
    """(m,) nearest prototype."""
    distance: F32
    """(m,) distance to it, in the chosen geometry."""
    second_label: I32
    """(m,) second nearest prototype; equal to ``label`` when k = 1."""
    second_distance: F32
    """(m,) distance to the second nearest prototype; equal to ``distance`` when k = 1."""
    cluster_size: I64
    """(m,) number of samples of the whole store that share ``label``."""
    tie: U64
    """(m,) seeded hash of the sample's key: uniform, independent of order and worker count."""


class Vectors:
    """Rows of embeddings that are read when they are asked for: an array, or a memory map larger than memory."""

    def __init__(self, array: F16 | F32, rows: I64 | None = None) -> None:
        """Look at ``rows`` of an (n, d) array; None: at all of it. Nothing is read yet."""
        self._array = array
        self._rows = rows

    def __len__(self) -> int:
        return len(self._array) if self._rows is None else len(self._rows)

    @property
    def dim(self) -> int:
        """Dimensions."""
        return int(self._array.shape[1])

    def __getitem__(self, rows: slice | I64) -> F32:
        """(m, d) float32 copies of the given rows, exactly the stored values."""
        found = self._array[rows] if self._rows is None else self._array[self._rows[rows]]
        return np.array(found, np.float32)

    def take(self, rows: I64) -> Vectors:
        """The same for some of the rows, still unread."""
        return Vectors(self._array, rows if self._rows is None else self._rows[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Everything that a filter or a policy may look at, for n samples in store order."""

    score: F32
    """(n,) larger = harder."""
    cluster: I32
    """(n,) prototype of each sample."""
    second_cluster: I32
    """(n,) second nearest prototype; the nearest where there is one only."""
    distance: F32
    """(n,) cosine distance to the own prototype."""
    tie: U64
    """(n,) seeded hash of the key: breaks ties, draws at random; independent of order and worker count."""
    centroids: F32
    """(k, d) prototypes."""
    count: int
    """Samples that will be kept. Nested policies do not look at it."""
    balance: float = 0.0
    """Share of equal pruning that every cluster is granted, in [0, 1]."""
    floor: Literal["proportional", "uniform"] = "proportional"
    """Whether equal pruning means by cluster size, or the same number for each cluster."""
    vectors: Vectors | None = None
    """(n, d) unit embeddings; None for what does not ask for them."""
    content: U64 | None = None
    """(n,) hash of the image's bytes: equal images, equal numbers; None for what does not ask for it."""
    defects: U8 | None = None
    """(n,) bits of `DEFECTS`; None for what does not ask for them."""

    def __len__(self) -> int:
        return len(self.score)

    def take(self, rows: I64) -> Candidates:
        """The same for some of the samples."""
        columns = {
            name: None if (held := getattr(self, name)) is None else held[rows]
            for name in ("score", "cluster", "second_cluster", "distance", "tie", "content", "defects")
        }
        vectors = None if self.vectors is None else self.vectors.take(rows)
        return replace(self, **columns, vectors=vectors)


@dataclass(frozen=True, slots=True)
class Scores:
    """Hardness of every embedded sample, kept as one column file a shard."""

    folder: str
    """Where the score columns lie."""
    assignment_folder: str
    """Where the prototype assignments lie."""
    n_rows: int
    cluster_sizes: I64
    """(k,) samples for each prototype."""
    fingerprint: str
    metric: str
    summary: dict[str, float]
    """min, mean and max of the scores, and mean distance to the prototype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which samples stay: the facts of a ``selection.parquet``."""

    n_embedded: int
    n_kept: int
    fingerprint: str
    settings: dict[str, JSONValue]
    """keep, keep_fraction, balance, floor, seed, metric, distance, n_clusters; asked = auto if `keep` came of that."""
    path: str = ""
    """The file with one row for each embedded sample."""
    ranked: bool = True
    """Whether it says the rank of each sample. Of very many samples it says only which are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a folder of pruned shards holds."""

    n_kept: int
    n_embedded: int
    fingerprint: str
    shards: list[dict[str, JSONValue]]
    """name, sha256, size, n_samples, samples_digest, suffixes of each output shard, in order."""
    path: str = ""
    """The folder."""


class OutputSample(NamedTuple):
    """A sample as it stands in a pruned shard."""

    key: str
    members: list[tuple[str, int, int]]
    """(suffix, first byte of the payload in the shard, bytes of it) of each member, in archive order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputShard:
    """A pruned shard that stands."""

    name: str
    """File name, such as shard-000000.tar."""
    n_samples: int
    size: int
    """Bytes."""
    suffixes: dict[str, int]
    """Samples by their set of suffixes, sorted and joined: {"cls;jpg": 9990, "jpg": 10}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A folder of pruned shards as trainers' index files speak of it."""

    folder: str
    shards: list[OutputShard]
    image_key: tuple[str, ...]
    """Suffixes of the member that was embedded, in order of preference."""

    @property
    def n_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.n_samples for shard in self.shards)

    @property
    def suffixes(self) -> dict[str, int]:
        """Samples by their set of suffixes, in all shards; the most frequent set first."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.suffixes)
        return dict(total.most_common())


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What an embedding job did."""

    n_shards: int
    n_samples: int
    n_embedded: int
    skipped: dict[str, int]
    """Samples that were not embedded, by reason."""
    quarantined: dict[str, str]
    """Problem of each shard that was put aside."""
    done_now: int
    """Shards embedded by this call; the others were up to date."""
    notes: list[str] = field(default_factory=list)
    n_left: int = 0
    """Of a task that has a share of the shards, which the other counts are about: shards that others have not done."""
