"""The verb for people who train: check-trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sspruning import options as opt
from sspruning import terminal as say
from sspruning.errors import QuarantineError

if TYPE_CHECKING:
    from pathlib import Path

    from sspruning.stages.check_trainer import TrainerCheck

__all__ = ["check_trainer_command"]

WAYS = {"by rule": "by its documented rule", "no package": "not installed", "no index": "no index files"}


@say.verb
def check_trainer_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Pruned shards.")],
    timm: Annotated[bool, typer.Option("--timm", help="timm's webdataset reader.")] = False,
    open_clip: Annotated[bool, typer.Option("--open-clip", help="open_clip's data loader; needs captions.")] = False,
    webdataset: Annotated[bool, typer.Option("--webdataset", help="webdataset.WebDataset.")] = False,
    hf: Annotated[bool, typer.Option("--hf", help="Hugging Face datasets, torchtitan.")] = False,
    wids: Annotated[bool, typer.Option("--wids", help="wids, random access.")] = False,
    dino: Annotated[bool, typer.Option("--dino", help="DINOv2 and DINOv3.")] = False,
    dali: Annotated[bool, typer.Option("--dali", help="NVIDIA DALI.")] = False,
    energon: Annotated[bool, typer.Option("--energon", help="Megatron Energon.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="SHARDS", help="Read the first shards only.")] = None,
) -> None:
    """Let trainers read the pruned shards, compare the samples they see, and print how to start them.

    Without a trainer, all of them. Exit 3 if one does not read every sample, or if one that was named lacks its index
    files; one that is not installed is no failure, nor is one, unless it was named, that such shards cannot train.
    """
    from sspruning.stages.check_trainer import check_trainer

    flags = {
        "timm": timm,
        "open_clip": open_clip,
        "webdataset": webdataset,
        "hf": hf,
        "wids": wids,
        "dino": dino,
        "dali": dali,
        "energon": energon,
    }
    named = [name for name, wanted in flags.items() if wanted]
    place = opt.place(folder)
    checks = check_trainer(place, named, limit=limit, progress=say.console())
    _told(checks, place, limit)
    failed = [
        check.name
        for check in checks
        if (check.ok is False and (named or not check.obstacles)) or (named and check.way == "no index")
    ]
    if failed:
        raise QuarantineError(f"{place}: not read whole by {', '.join(failed)}; the lines above say why")


@say.tells("trainers")
def _told(checks: list[TrainerCheck], folder: str | Path, limit: int | None) -> None:
    """All that came of the checks."""
    part = "" if limit is None else f" in the first {limit:,} shards"
    say.line(f"{checks[0].n_samples:,} samples{part} of {folder}")
    _table(checks)
    for check in checks:
        _details(check)


def _table(checks: list[TrainerCheck]) -> None:
    """A row for each trainer."""
    say.line("  trainer           samples read  seconds  checked")
    for check in checks:
        if check.ok is None:
            say.line(f"  {check.name:<12} {'-':>17}  {'-':>7}  no: {WAYS[check.way]}")
            continue
        how = WAYS.get(check.way, f"by running {check.version or check.title}")
        told = "" if check.keys_told or check.problem else ", which tells no keys: counted"
        read = f"{check.n_read:,} of {check.n_samples:,}"
        say.line(f"  {check.name:<12} {read:>17}  {check.seconds:7.1f}  {how}{told}")


def _details(check: TrainerCheck) -> None:
    """What to know and to type for one trainer."""
    say.line(check.title)
    if check.problem:
        say.line(f"  {check.problem}")
    if check.ok is not None:
        _difference("not read", check.n_lost, check.lost)
        _difference("too many", check.n_strange, check.strange)
    if check.heard and not check.ok:
        say.line(f"  it said: {check.heard}")
    for obstacle in check.obstacles:
        say.line(f"  {obstacle}")
    for text in check.command.splitlines():
        say.line(f"  $ {text}" if text.startswith("python ") else f"  >>> {text}")
    if check.remark:
        say.line(f"  {check.remark}")


def _difference(what: str, count: int, keys: list[str]) -> None:
    if count:
        named = f": {', '.join(keys)}{', ...' if count > len(keys) else ''}" if keys else ""
        say.line(f"  {what}: {count:,} samples{named}")
