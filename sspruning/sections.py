"""Sections of the configuration: one frozen model for each stage, every key with its meaning and its limits."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sspruning.errors import UsageError
from sspruning.recipes import filled
from sspruning.records import EncoderSpec, JSONValue
from sspruning.trainers import DEFAULT_INDEX, TRAINERS

__all__ = [
    "ClusterConfig",
    "CorpusConfig",
    "EncoderConfig",
    "ExecutionConfig",
    "PathsConfig",
    "ScoreConfig",
    "Section",
    "SelectConfig",
    "WriteConfig",
]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _scientific(value: object) -> object:
    """Read ``1e-4`` as a number: YAML 1.1 takes it for a string."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _split(value: object) -> object:
    """Names in one text, such as ``jpg;txt`` or ``timm,dali``, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.replace(";", ",").split(",") if part.strip()]
    return value


def _suffix(text: str) -> str:
    """A suffix as keys and suffixes are compared: lower case, without the first dot."""
    suffix = text.strip().lower().removeprefix(".")
    if not suffix or any(character in suffix for character in "/\0\n") or suffix.startswith("__"):
        raise ValueError(f"{text!r} is no suffix of a member; expected one such as 'jpg' or 'seg.png'")
    return suffix


Fraction = Annotated[float, BeforeValidator(_scientific), Field(gt=0, le=1, allow_inf_nan=False)]
Option = bool | int | float | str | None
Share = Annotated[float, BeforeValidator(_scientific), Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections share: unknown keys are refused, and nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def as_json(self) -> dict[str, JSONValue]:
        """The section as plain JSON, for fingerprints and files."""
        return cast("dict[str, JSONValue]", self.model_dump(mode="json"))


class CorpusConfig(Section):
    """What is read."""

    input: Annotated[list[str], BeforeValidator(_as_list)] = []
    """Shards: paths, folders, globs, 'd/s-{000000..000099}.tar', 'A::B', '@list.txt'; s3://, gs://, hf://, https://."""
    image_key: str = "jpg;png;jpeg;webp"
    """Suffixes of the member to embed, in order of preference, separated by semicolons."""
    allow_missing_end: bool = False
    """Accept archives without the end-of-archive marker (some old writers)."""
    preflight: bool = True
    """Read all tar headers before the work: counts, bytes and repeated keys are known first. Turn off on slow disks.
    Of remote shards only the first headers of up to 64 are read, in search of repeated keys."""
    max_pixels: int = Field(50_000_000, gt=0, lt=1 << 63)
    """Images with more pixels are skipped as too_many_pixels."""
    max_member_bytes: int = Field(64 << 20, gt=0, lt=1 << 63)
    """Images with more bytes are skipped as image_too_large."""
    decode_timeout_s: float = Field(60, gt=0, le=86400)
    """Seconds; images that a worker process decodes for longer are skipped as decode_timeout."""
    decode_memory_bytes: int = Field(4 << 30, ge=0, lt=1 << 63)
    """What a worker may use beside its encoder; images that need more are skipped as too_much_memory. 0: no limit."""
    repeated_keys: Literal["refuse", "prefix"] = "refuse"
    """What to do when shards share keys. prefix: every key becomes SHARD/KEY, in the store and in what is written."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """``image_key`` as a tuple of lower-case suffixes."""
        return tuple(part.strip().lower().lstrip(".") for part in self.image_key.split(";") if part.strip())


class EncoderConfig(Section):
    """What turns images into embeddings; the fields of `sspruning.records.EncoderSpec`, which documents them."""

    name: str = "shipped"
    model: str | None = None
    checkpoint: str | None = None
    factory: str | None = None
    image_size: int | None = Field(None, ge=8, le=4096)
    batch_size: int = Field(128, ge=1, le=65536)
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    compile: bool = False

    def spec(self) -> EncoderSpec:
        """The record that workers build the encoder from; ``model`` alone implies the encoder `timm`."""
        fields = self.model_dump()
        if self.name == "shipped" and (self.model is not None or self.checkpoint is not None):
            fields["name"] = "timm"
        elif self.name == "shipped" and self.factory is not None:
            fields["name"] = "custom"
        return EncoderSpec(**fields)


class ClusterConfig(Section):
    """How prototypes are found."""

    name: str = "faiss_kmeans"
    """A name of the table in ``sspruning.clusterers``."""
    n_clusters: int | None = Field(None, ge=1, lt=1 << 31)
    """Number of prototypes; None takes about sqrt(n), at least 16, at most 50,000, and at least 32 samples each."""
    niter: int = Field(20, ge=1, lt=1 << 31)
    """Lloyd iterations; the FAISS FAQ sees no gain beyond 20."""
    spherical: bool = True
    """Unit-norm centroids (cosine geometry). False: plain Euclidean k-means."""
    init: Literal["afk-mc2", "k-means++", "random"] = "afk-mc2"
    """How centroids start. AFK-MC2 gave a lower objective than random for about 10 % more time (k=1000, d=384)."""
    points_per_centroid: int = Field(512, ge=1, lt=1 << 31)
    """The sample holds at most this many points for each centroid; all of them are used."""
    seed: int = Field(0, ge=0, lt=1 << 31)
    """Decides the sample and the start."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where FAISS runs, for scores too; auto takes a GPU that passes a small search."""
    full_rounds: int = Field(0, ge=0, le=1000)
    """Further Lloyd rounds over all embeddings, by all workers, after the clustering of the sample; 0: none."""
    reuse: bool = False
    """New shards join the prototypes that are there, if the other settings are the same; how well they fit is told."""


class ScoreConfig(Section):
    """How hardness is measured."""

    metric: str = "prototype_distance"
    """A name of the table in ``sspruning.metrics``, or imported: the scores of ``table``."""
    table: str | None = None
    """Parquet or npz file of key -> score, larger = harder; for `imported`. Its content counts, not its place."""
    column: str | None = None
    """Column of its scores; None takes `score`, or the only one that holds numbers."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Geometry of distances to prototypes."""
    seed: int = Field(0, ge=0, lt=1 << 31)
    """For metrics that draw."""


class SelectConfig(Section):
    """Which samples stay: steps that take samples out, one after the other, then a policy that keeps the fraction."""

    recipe: str | None = None
    """A name of ``sspruning.recipes``, which gives every key of this section that is not set itself; "": none."""
    steps: list[dict[str, dict[str, Option]]] = []
    """Each one name of the table in ``sspruning.filters``, or recluster, with options: ``- dedup: {share: 0.8}``."""
    keep: str = "hard"
    """A name of the table in ``sspruning.policies``; or auto: what `advise` would keep."""
    options: dict[str, Option] = {}
    """Options of that policy."""
    keep_fraction: Fraction = 0.8
    """Share of the embedded samples that stays; exactly round(keep_fraction * embedded) are kept."""
    balance: Share = 0.5
    """Every cluster keeps at least this share of what equal pruning would leave it; 0: off. Paper: 0.5."""
    floor: Literal["proportional", "uniform"] = "proportional"
    """Equal pruning means: in proportion to the cluster's size, or the same number for each cluster."""
    seed: int = Field(0, ge=0, lt=1 << 31)
    """Breaks ties, and draws for policies that draw."""

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, given: object) -> object:
        """What the recipe says, under what is set itself."""
        return filled(given) if isinstance(given, dict) else given

    @field_validator("steps", mode="before")
    @classmethod
    def _one_name_each(cls, given: object) -> object:
        """Steps without options may be written as their name alone, or as a name with nothing behind it."""
        if not isinstance(given, list):
            return given
        steps = [{step: {}} if isinstance(step, str) else step for step in given]
        if any(isinstance(step, dict) and len(step) != 1 for step in steps):
            raise ValueError("each step is one name with its options, such as '- dedup: {threshold: 0.95}'")
        return [
            {name: options or {} for name, options in step.items()} if isinstance(step, dict) else step
            for step in steps
        ]


class WriteConfig(Section):
    """What the output looks like."""

    samples_per_shard: int = Field(10_000, ge=1, lt=1 << 31)
    """Upper bound; shards are balanced, so all hold nearly the same number. Does not count where num_shards is set."""
    num_shards: int | None = Field(None, ge=1, lt=1 << 31)
    """Exactly so many shards, whatever samples_per_shard says; None: as few as samples_per_shard allows."""
    min_shards: int = Field(1, ge=1, lt=1 << 31)
    """At least so many, with fewer samples each: a loader needs one for each of its workers on every machine."""
    order: Literal["corpus", "shuffled", "easy-to-hard", "hard-to-easy"] = "corpus"
    """Order of the samples in the output."""
    seed: int = Field(0, ge=0, lt=1 << 31)
    """For `shuffled`."""
    cls: Literal["keep", "cluster", "zero", "none"] = "keep"
    """The member `cls`: as it is; the number of the sample's prototype; 0; or left out."""
    rename_suffix: dict[str, str] = {}
    """New suffixes by old ones: ``{jpeg: jpg}``; payloads stay as they are."""
    members: Annotated[list[str] | None, BeforeValidator(_split)] = None
    """Suffixes, after renaming, of the members that are written; None or all: every one. ``cls`` is apart from this."""
    index: Annotated[list[str], BeforeValidator(_split)] = list(DEFAULT_INDEX)
    """Trainers whose index files are written: names of ``sspruning.trainers``, or all; ``[]`` or none: none."""

    @field_validator("rename_suffix")
    @classmethod
    def _suffixes(cls, given: dict[str, str]) -> dict[str, str]:
        return {_suffix(old): _suffix(new) for old, new in sorted(given.items())}

    @field_validator("members")
    @classmethod
    def _members(cls, given: list[str] | None) -> list[str] | None:
        if given == []:
            raise ValueError("name the suffix of the image at least, or leave it out to write all members")
        return None if given is None or "all" in given else sorted({_suffix(name) for name in given})

    @field_validator("index")
    @classmethod
    def _known_trainers(cls, given: list[str]) -> list[str]:
        """The names, each once, in the order of the table."""
        wanted = set(TRAINERS if "all" in given else given) - {"all", "none"}
        try:
            for name in sorted(wanted):
                TRAINERS.check(name, also=["all", "none"])
        except UsageError as error:
            raise ValueError(str(error)) from error
        return [name for name in TRAINERS if name in wanted]

    @model_validator(mode="after")
    def _enough(self) -> WriteConfig:
        if self.num_shards is not None and self.num_shards < self.min_shards:
            raise ValueError(f"num_shards is {self.num_shards}, but min_shards asks for at least {self.min_shards}")
        return self


class ExecutionConfig(Section):
    """Where the work runs. Never changes a byte of the result."""

    executor: str = "local"
    """A name of the table in ``sspruning.execution``: local, ray or inline."""
    workers: int | None = Field(None, ge=1, lt=1 << 16)
    """Processes; None takes one for each core, or one for each GPU: of this machine, with ray of the whole cluster."""
    timeout_s: float | None = Field(None, gt=0)
    """Seconds after which a single task is given up."""
    ray_address: str | None = None
    """With ray: HOST:PORT of a cluster's head; auto for the one that runs on this machine; local for a new one, on this
    machine alone and for as long as the command runs. None: auto if there is one, else local."""
    num_gpus_per_worker: float | None = Field(None, ge=0, le=1024, allow_inf_nan=False)
    """GPUs that a worker has for itself; below 1, several workers share one. None takes 1 where the encoder's device
    is auto or cuda and there are GPUs, else 0. At 0 every worker sees all of them."""


class PathsConfig(Section):
    """Where the artefacts go, and who is told how far a run is. Never changes a byte of the result."""

    run_dir: str | None = None
    """Folder of the run; None is ./runs/<name>."""
    output: str | None = None
    """Folder of the pruned shards, or URL such as s3://bucket/pruned; None is ./pruned."""
    prometheus: str | None = None
    """File NAME.prom that `run` and `embed` keep up to date for node_exporter's textfile collector; None: none."""
    tensorboard: str | None = None
    """Folder for TensorBoard's event files of `run` and `embed`; None: none. Needs the package tensorboard."""
    wandb: str | None = None
    """Project of Weights & Biases that `run` and `embed` report to; None: none. Needs the package wandb."""
