"""Options of the command line that verbs share, or that would crowd them, and how they change a store's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sspruning.config import Config

__all__ = [
    "Balance",
    "BatchSize",
    "Checkpoint",
    "Column",
    "Device",
    "DryRun",
    "EncoderName",
    "Executor",
    "Factory",
    "Floor",
    "ImageKey",
    "ImageSize",
    "Import",
    "Keep",
    "KeepFraction",
    "Model",
    "NClusters",
    "OutputOrNone",
    "Overwrite",
    "SamplesPerShard",
    "Seed",
    "Set",
    "Shards",
    "StoreDir",
    "Workers",
    "overridden",
    "stored",
]

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-j", help="Worker processes. Default: one for each core, or each GPU.")
]
Executor = Annotated[str | None, typer.Option("--executor", help="Where work runs: local, inline.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of this step.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, with counts and bytes, and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace shards of another selection in the output.")]
StoreDir = Annotated[Path, typer.Argument(metavar="DIR", help="The store, or the run folder that holds one.")]
Shards = Annotated[
    list[str],
    typer.Argument(
        metavar="SHARDS...",
        help="Tar files, folders, globs, 'd/s-{000000..000099}.tar', A::B or @list.txt; quote patterns.",
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

Keep = Annotated[str | None, typer.Option(help="hard, easy, random, or auto: what `advise` would keep.")]

KeepFraction = Annotated[float | None, typer.Option(help="Share of samples that stays, in (0, 1].")]

Balance = Annotated[
    float | None, typer.Option(help="Share of equal pruning that every cluster is granted; 0 turns it off.")
]

Floor = Annotated[str | None, typer.Option(help="proportional or uniform.")]

SamplesPerShard = Annotated[int | None, typer.Option(help="Upper bound for the output shards.")]

OutputOrNone = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the pruned shards there.")]

NClusters = Annotated[
    int | None,
    typer.Option("--n-clusters", "--num-clusters", help="Prototypes. Default: near the square root of n."),
]

Import = Annotated[
    Path | None,
    typer.Option("--import", metavar="FILE", help="Take the scores of a parquet or npz table: key, score."),
]

Column = Annotated[str | None, typer.Option(help="Column of the imported scores. Default: score, or the only number.")]


def overridden(config: Config, sections: dict[str, dict[str, Any]], sets: list[str] | None) -> Config:
    """``config`` with flags, then ``--set``, on top."""
    from sspruning.config import load_config, override

    for section, values in sections.items():
        config = override(config, section, **values)
    return load_config(None, sets, base=config) if sets else config


def stored(folder: Path, sections: dict[str, dict[str, Any]], sets: list[str] | None) -> Config:
    """Settings last used for a store, with flags and ``--set`` on top."""
    from sspruning.stages.run import Workspace

    return overridden(Workspace.of(folder).load_config(), sections, sets)
