"""Configuration: one frozen model a stage, strict YAML, ``section.key=value`` overrides.

Sections up to `write` decide what comes out; `execution` and `paths` decide where, and enter no fingerprint.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from sspruning.errors import ConfigError
from sspruning.recipes import filled
from sspruning.records import EncoderSpec, JSONValue
from sspruning.strict_yaml import parse_yaml

__all__ = [
    "ClusterConfig",
    "Config",
    "CorpusConfig",
    "EncoderConfig",
    "ExecutionConfig",
    "PathsConfig",
    "ScoreConfig",
    "SelectConfig",
    "WriteConfig",
    "load_config",
    "override",
]

CONFIG_CAP_BYTES = 1 << 20
SHOWN_CHARS = 200


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


Fraction = Annotated[float, BeforeValidator(_scientific), Field(gt=0, le=1, allow_inf_nan=False)]
Option = bool | int | float | str | None
Share = Annotated[float, BeforeValidator(_scientific), Field(ge=0, le=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def as_json(self) -> dict[str, JSONValue]:
        """The section as plain JSON, for fingerprints and files."""
        return cast("dict[str, JSONValue]", self.model_dump(mode="json"))


class CorpusConfig(_Section):
    """What is read."""

    input: Annotated[list[str], BeforeValidator(_as_list)] = []
    """Shards: paths, folders, globs, 'd/s-{000000..000099}.tar', 'A::B', '@list.txt'."""
    image_key: str = "jpg;png;jpeg;webp"
    """Suffixes of the member to embed, in order of preference, separated by semicolons."""
    allow_missing_end: bool = False
    """Accept archives without the end-of-archive marker (some old writers)."""
    preflight: bool = True
    """Read all tar headers before the work: counts, bytes and repeated keys are known first. Turn off on slow disks."""
    max_pixels: int = Field(50_000_000, gt=0, lt=1 << 63)
    """Images with more pixels are skipped as too_many_pixels."""
    max_member_bytes: int = Field(64 << 20, gt=0, lt=1 << 63)
    """Images with more bytes are skipped as image_too_large."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """``image_key`` as a tuple of lower-case suffixes."""
        return tuple(part.strip().lower().lstrip(".") for part in self.image_key.split(";") if part.strip())


class EncoderConfig(_Section):
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


class ClusterConfig(_Section):
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
    """Where FAISS runs; auto takes a GPU that passes a small search."""
    reuse: bool = False
    """New shards join the prototypes that are there, if the other settings are the same; how well they fit is told."""


class ScoreConfig(_Section):
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


class SelectConfig(_Section):
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


class WriteConfig(_Section):
    """What the output looks like."""

    samples_per_shard: int = Field(10_000, ge=1, lt=1 << 31)
    """Upper bound; shards are balanced, so all hold nearly the same number."""
    order: Literal["corpus", "shuffled", "easy-to-hard", "hard-to-easy"] = "corpus"
    """Order of the samples in the output."""
    seed: int = Field(0, ge=0, lt=1 << 31)
    """For `shuffled`."""


class ExecutionConfig(_Section):
    """Where the work runs. Never changes a byte of the result."""

    executor: str = "local"
    """A name of the table in ``sspruning.execution``."""
    workers: int | None = Field(None, ge=1, lt=1 << 16)
    """Processes; None takes one for each core, or one for each GPU."""
    timeout_s: float | None = Field(None, gt=0)
    """Seconds after which a single task is given up."""


class PathsConfig(_Section):
    """Where the artefacts go. Never changes a byte of the result."""

    run_dir: str | None = None
    """Folder of the run; None is ./runs/<name>."""
    output: str | None = None
    """Folder of the pruned shards; None is ./pruned."""


class Config(_Section):
    """A whole run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, and of its folder."""
    corpus: CorpusConfig = CorpusConfig()
    encoder: EncoderConfig = EncoderConfig()
    cluster: ClusterConfig = ClusterConfig()
    score: ScoreConfig = ScoreConfig()
    select: SelectConfig = SelectConfig()
    write: WriteConfig = WriteConfig()
    execution: ExecutionConfig = ExecutionConfig()
    paths: PathsConfig = PathsConfig()

    def recipe(self) -> dict[str, JSONValue]:
        """The part of the configuration that decides the result, as plain JSON."""
        return cast("dict[str, JSONValue]", self.model_dump(mode="json", exclude={"name", "execution", "paths"}))

    def to_yaml(self, *, recipe_only: bool = False) -> str:
        """The configuration as YAML text that `load_config` reads back."""
        return yaml.safe_dump(self.recipe() if recipe_only else self.as_json(), sort_keys=False, allow_unicode=True)


def load_config(path: Path | None, overrides: list[str] | None = None, *, base: Config | None = None) -> Config:
    """The configuration of a YAML file, with ``section.key=value`` overrides on top.

    Args:
        path: YAML file; None starts from ``base`` or the defaults.
        overrides: such as ``select.keep_fraction=0.7``; values are read as YAML.
        base: what to start from without a file.

    Raises:
        ConfigError: unreadable file, unknown or repeated key, value outside its range; names the key and the cure.
    """
    content: object = {}
    where = "configuration"
    if path is not None:
        where = str(path)
        try:
            if path.stat().st_size > CONFIG_CAP_BYTES:
                raise ConfigError(f"{path}: larger than {CONFIG_CAP_BYTES} bytes; not a configuration")
            content = parse_yaml(path.read_text(encoding="utf-8"), where) or {}
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text") from error
    elif base is not None:
        content = base.as_json()
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected sections such as 'corpus:' and 'select:', got {type(content).__name__}")
    content = {key: value for key, value in content.items() if value is not None}  # an empty section is the default
    for text in overrides or []:
        _apply(content, text)
    return _validated(content, where)


def override(config: Config, section: str, **values: object) -> Config:
    """``config`` with the given values of one section; None values are left as they are.

    Raises:
        ConfigError: a value is outside its range.
    """
    content = cast("dict[str, Any]", config.as_json())
    if section == "select" and values.get("recipe") is not None:
        _make_room(content)
    content[section].update({key: value for key, value in values.items() if value is not None})
    return _validated(content, "command line")


def _make_room(content: dict[str, Any]) -> None:
    """Forget what was chosen before a recipe: what the recipe says of it counts."""
    for key in ("recipe", "steps", "keep", "options", "balance"):
        content.get("select", {}).pop(key, None)


def _apply(content: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text!r}: expected section.key=value, for example select.keep_fraction=0.7")
    if key.strip() == "select.recipe":
        _make_room(content)
    *sections, last = key.strip().split(".")
    for name in sections:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {text!r}: {name!r} is a value, not a section")
    content[last] = parse_yaml(value, f"--set {text!r}") if value.strip() else None


def _validated(content: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(where, entry) for entry in error.errors())) from None


def _shown(value: object) -> str:
    """``value`` as far as a message has room for it."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def _problem(where: str, entry: Any) -> str:
    """One line for one problem: where, what, got, and the nearest known key."""
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] != "extra_forbidden":
        return f"{where}: {key}: {entry['msg']}; got {_shown(entry['input'])}"
    known = list(Config.model_fields)
    if len(entry["loc"]) == 2 and (field := Config.model_fields.get(str(entry["loc"][0]))) is not None:
        known = list(cast("type[BaseModel]", field.annotation).model_fields)
    close = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{where}: unknown key {key!r}.{hint} Known here: {', '.join(known)}."


def default_workers(device: str) -> int:
    """Worker processes to use when none are asked for: one for each usable core, or one for each GPU in sight."""
    if device in {"auto", "cuda"} and Path("/dev/nvidia0").exists():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return max(1, len(visible.split(","))) if visible else len(list(Path("/dev").glob("nvidia[0-9]*")))
    if device not in {"auto", "cpu"}:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
