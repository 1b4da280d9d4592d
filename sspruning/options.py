"""Options of the command line that verbs share, or that would crowd them, and how they change a store's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sspruning.errors import UsageError

if TYPE_CHECKING:
    from sspruning.config import Config

__all__ = [
    "Balance",
    "BatchSize",
    "Checkpoint",
    "Cls",
    "Column",
    "Device",
    "DryRun",
    "EncoderName",
    "Executor",
    "Factory",
    "Floor",
    "FormOption",
    "ImageKey",
    "ImageSize",
    "Import",
    "Index",
    "Keep",
    "KeepFraction",
    "KeepFractions",
    "Members",
    "MinShards",
    "Model",
    "NClusters",
    "NumGpusPerWorker",
    "NumShards",
    "NumWorkers",
    "OutputOrNone",
    "Overwrite",
    "PolicyOption",
    "RayAddress",
    "Recipe",
    "RenameSuffix",
    "RepeatedKeys",
    "SamplesPerShard",
    "Seed",
    "Set",
    "Shards",
    "Step",
    "StoreDir",
    "WorkerIndex",
    "Workers",
    "choice",
    "execution",
    "fractions",
    "overridden",
    "pairs",
    "place",
    "stored",
    "whole_numbers",
    "writing",
]

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-j", help="Worker processes. Default: one for each core, or each GPU.")
]
Executor = Annotated[
    str | None, typer.Option("--executor", help="Where work runs: local (processes here), ray (a cluster), inline.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Head of a Ray cluster; auto: the one that runs here; local: a new one. Implies --executor ray.",
    ),
]
NumGpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--num-gpus-per-worker", help="GPUs that each worker has for itself. Default: 1 if there are any, else 0."
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        min=1,
        help="Tasks that share the shards. Default: what SLURM (array, srun) or torchrun says; 1: do all here.",
    ),
]
WorkerIndex = Annotated[int | None, typer.Option("--worker-index", min=0, help="Which of these tasks this is, from 0.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of this step.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, with counts and bytes, and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace shards of another selection in the output.")]
StoreDir = Annotated[Path, typer.Argument(metavar="DIR", help="The store, or the run folder that holds one.")]
Shards = Annotated[
    list[str],
    typer.Argument(
        metavar="SHARDS...",
        help="Tar files, folders, globs, 'd/s-{000000..000099}.tar', A::B, @list.txt; local or s3://; quote patterns.",
    ),
]


EncoderName = Annotated[
    str | None, typer.Option(help="shipped, timm, card, custom, pixels, or a preset such as dinov2-vits14.")
]

Model = Annotated[str | None, typer.Option(help="timm model name (encoder timm).")]

Checkpoint = Annotated[
    str | None, typer.Option(help="Local safetensors or state-dict file for the model, or the card (encoder card).")
]

Factory = Annotated[str | None, typer.Option(help="package.module:function for the encoder custom.")]

ImageSize = Annotated[int | None, typer.Option(help="Side of the input in pixels. Default: the model's own.")]

ImageKey = Annotated[str | None, typer.Option(help="Image suffixes in order of preference.")]

BatchSize = Annotated[int | None, typer.Option(help="Images in a forward pass.")]

Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")]

Keep = Annotated[
    str | None, typer.Option(help="Policy: hard, easy, random, coverage, ...; or auto: what `advise` would keep.")
]

Recipe = Annotated[
    str | None, typer.Option(help="A published chain of steps and policy: semdedup, d4, ccs, ...; see the README.")
]

Step = Annotated[
    list[str] | None,
    typer.Option(
        "--step",
        metavar="'NAME OPTION=VALUE ...'",
        help="Before the policy: dedup, outliers, defects, recluster; may be repeated, in order; none: no steps.",
    ),
]

PolicyOption = Annotated[
    list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="Option of the policy; may be repeated.")
]

FormOption = Annotated[
    list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="Option of the form; may be repeated.")
]

KeepFractions = Annotated[
    str | None,
    typer.Option(
        "--keep-fraction",
        metavar="F[,F...]",
        help="Share of samples that stays, in (0, 1]; several, with commas, make one selection each.",
    ),
]

KeepFraction = Annotated[float | None, typer.Option(help="Share of samples that stays, in (0, 1].")]

Balance = Annotated[
    float | None, typer.Option(help="Share of equal pruning that every cluster is granted; 0 turns it off.")
]

Floor = Annotated[str | None, typer.Option(help="proportional or uniform.")]

SamplesPerShard = Annotated[int | None, typer.Option(help="Upper bound for the output shards, which are balanced.")]

NumShards = Annotated[int | None, typer.Option(help="Exactly so many output shards, all of nearly the same size.")]

MinShards = Annotated[
    int | None, typer.Option(help="At least so many output shards: one for each loader worker of each machine.")
]

Cls = Annotated[
    str | None, typer.Option("--cls", help="Member cls: keep, cluster (number of the prototype), zero or none.")
]

RenameSuffix = Annotated[
    list[str] | None,
    typer.Option(metavar="OLD=NEW", help="Rename members, such as jpeg=jpg; may be repeated; none: rename nothing."),
]

Members = Annotated[
    str | None, typer.Option(metavar="'jpg;txt'", help="Write these members only, by suffix after renaming; or all.")
]

Index = Annotated[
    str | None,
    typer.Option(metavar="NAME,NAME", help="Trainers whose index files are written: timm, dali, ...; all or none."),
]

RepeatedKeys = Annotated[
    str | None, typer.Option(help="If shards share keys: refuse, or prefix each key with its shard's name.")
]

OutputOrNone = Annotated[
    str | None, typer.Option("--output", "-o", help="Also write the pruned shards there: a folder or a URL.")
]

NClusters = Annotated[
    int | None,
    typer.Option("--n-clusters", "--num-clusters", help="Prototypes. Default: near the square root of n."),
]

Import = Annotated[
    Path | None,
    typer.Option("--import", metavar="FILE", help="Take the scores of a parquet or npz table: key, score."),
]

Column = Annotated[str | None, typer.Option(help="Column of the imported scores. Default: score, or the only number.")]


def place(text: str) -> str | Path:
    """A URL as it was given; anything else as a path."""
    from sspruning.storage.urls import is_url

    return text if is_url(text) else Path(text)


def pairs(words: list[str], flag: str) -> dict[str, Any]:
    """NAME=VALUE words as values, read as YAML."""
    from sspruning.strict_yaml import parse_yaml

    found = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            raise UsageError(f"{flag} {word!r}: expected NAME=VALUE")
        found[name] = parse_yaml(value, f"{flag} {word!r}")
    return found


def choice(keep: str | None, recipe: str | None, steps: list[str] | None, options: list[str] | None) -> dict[str, Any]:
    """What the flags say of the section `select`. A policy by name alone forgets an earlier recipe and its steps."""
    found: dict[str, Any] = {"keep": keep, "recipe": recipe}
    if keep is not None and recipe is None:
        found["recipe"] = ""
    if steps is not None:
        split = [step.split() for step in steps if step != "none"]
        found["steps"] = [{name: pairs(words, f"--step {name}")} for name, *words in split]
    if options is not None:
        found["options"] = pairs(options, "--option")
    return found


def execution(
    workers: int | None, executor: str | None, ray_address: str | None, num_gpus_per_worker: float | None
) -> dict[str, Any]:
    """What the flags say of the section `execution`.

    Raises:
        UsageError: an address for an executor that has none.
    """
    if ray_address is not None and executor not in {None, "ray"}:
        raise UsageError(f"--ray-address belongs to --executor ray, but --executor is {executor!r}")
    return {
        "workers": workers,
        "executor": "ray" if ray_address is not None else executor,
        "ray_address": ray_address,
        "num_gpus_per_worker": num_gpus_per_worker,
    }


def writing(
    samples_per_shard: int | None,
    num_shards: int | None,
    min_shards: int | None,
    cls: str | None,
    rename_suffix: list[str] | None,
    members: str | None,
    index: str | None,
) -> dict[str, Any]:
    """What the flags say of the section `write`.

    Raises:
        UsageError: both ways to say how many shards, or a renaming that is none.
    """
    if samples_per_shard is not None and num_shards is not None:
        raise UsageError("--samples-per-shard and --num-shards both say how many shards to write; give one of them")
    found: dict[str, Any] = {"samples_per_shard": samples_per_shard, "num_shards": num_shards, "min_shards": min_shards}
    found |= {"cls": cls, "members": members, "index": index}
    if rename_suffix is not None:
        renamed = [word.partition("=") for word in rename_suffix if word != "none"]
        wrong = next(("".join(parts) for parts in renamed if not all(part.strip() for part in parts)), None)
        if wrong is not None:
            raise UsageError(f"--rename-suffix {wrong!r}: expected OLD=NEW, such as jpeg=jpg")
        found["rename_suffix"] = {old: new for old, _, new in renamed}
    return found


def whole_numbers(text: str, flag: str) -> list[int]:
    """The numbers of a flag that holds several with commas."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: expected whole numbers with commas, such as 100,300,1000") from error


def fractions(text: str | None) -> list[float]:
    """The numbers of a --keep-fraction, which may hold several with commas."""
    try:
        return [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"--keep-fraction {text!r}: expected a number such as 0.7, or several with commas") from error


def overridden(config: Config, sections: dict[str, dict[str, Any]], sets: list[str] | None) -> Config:
    """``config`` with flags, then ``--set``, on top."""
    from sspruning.config import load_config, override

    for section, values in sections.items():
        config = override(config, section, **values)
    return load_config(None, sets, base=config) if sets else config


def stored(folder: Path, sections: dict[str, dict[str, Any]], sets: list[str] | None) -> Config:
    """Settings last used for a store, with flags and ``--set`` on top."""
    from sspruning.stages.workspace import Workspace

    return overridden(Workspace.of(folder).load_config(), sections, sets)
