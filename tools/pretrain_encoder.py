#!/usr/bin/env python
"""Pretrain an encoder on the images of webdataset shards, without labels: shards in, weights and a card out.

    python tools/pretrain_encoder.py 'shards/train-*.tar' --out runs/encoder --epochs 30
    python tools/pretrain_encoder.py 'cifar10/train-*.tar' --out runs/shipped --config configs/pretrain-shipped.yaml

The --out folder then holds encoder.safetensors and encoder.json (renewed each epoch), checkpoint.pt and log.jsonl.
Stop it at any time; the same command goes on from the last whole epoch and ends with the same weights. Full and pruned
shards are read alike; weights of a selection decide how often an image is seen. `sspruning embed --encoder card
--checkpoint encoder.json` uses the result.
"""

from __future__ import annotations

import argparse
import ast
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from pretrain.export import export_trunk
from pretrain.images import find_selection, load_images, read_weights
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Settings, read_settings
from pretrain.training import Trainer

from sspruning.errors import SSPruningError, UsageError

NAME = "encoder"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of the command line. Those that bear a name of `Settings` are None unless given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("shards", nargs="+", help="files, folders, globs or brace patterns, as for `sspruning embed`")
    add("--out", type=Path, required=True, help="folder of the run; continued if it holds a checkpoint")
    add("--config", type=Path, help="YAML file with settings; options given here win over it")
    add("--image-key", default="jpg;png;jpeg;webp", help="suffixes of the image, in order of preference")
    add("--selection", help="selection.parquet with weights, or none (default: the one beside pruned shards)")
    add("--keep-every", type=int, default=0, metavar="N", help="also keep the encoder of every N-th epoch")
    add("--memory-gb", type=float, default=8.0, help="the decoded images may take this much (default %(default)s)")
    add("--data", default="", help="a line about the images for the card (default: their number)")
    default = Settings()

    def setting(name: str, text: str, **kwargs: Any) -> None:
        shown = getattr(default, name)
        add(f"--{name.replace('_', '-')}", help=f"{text} (default: {'none' if shown is None else shown})", **kwargs)

    setting("objective", "what is learnt", choices=sorted(OBJECTIVES))
    setting("model", "timm model name")
    setting("model_kwargs", "for timm, e.g. channels=48,96,192,384", nargs="*", metavar="K=V")
    setting("init", "weights of an earlier run to start from")
    setting("image_size", "side at which the encoder is used", type=int)
    setting("crop_px", "side of the training crops; default the image size", type=int)
    setting("cache_px", "side at which images are held in memory; default the image size", type=int)
    setting("min_scale", "least share of the image in a crop", type=float)
    setting("local_crops", "small crops besides the two large ones", type=int)
    setting("local_px", "side of the small crops", type=int)
    setting("mean", "of the normalisation, per channel in 0..1", type=float, nargs=3)
    setting("std", "of the normalisation, per channel", type=float, nargs=3)
    setting("epochs", "passes over the images", type=int)
    setting("batch_size", "images a step", type=int)
    setting("norm_batch", "views that batch norm sees at once", type=int)
    setting("optimizer", "sgd or muon")
    setting("learning_rate", "peak rate of sgd", type=float)
    setting("matrix_rate", "peak rate of muon", type=float)
    setting("weight_decay", "of kernels and matrices", type=float)
    setting("temperature", "of contrastive objectives", type=float)
    setting("whiten", "exponent of the whitening at the end, 0 to 0.5", type=float)
    setting("precision", "auto, bf16 or fp32")
    setting("device", "auto, cpu, cuda or mps")
    setting("seed", "of weights, order and views", type=int)
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """`Settings` of the configuration file, with the options on top."""
    taken = read_settings(options.config) if options.config is not None else {}
    if options.model not in (None, taken.get("model", Settings().model)):
        taken.pop("model_kwargs", None)  # they are those of the file's model
    names = [entry.name for entry in fields(Settings)]
    taken.update({name: getattr(options, name) for name in names if getattr(options, name) is not None})
    if options.model_kwargs is not None:
        taken["model_kwargs"] = dict(_keyword(text) for text in options.model_kwargs)
    elif taken.get("model", Settings().model) != Settings().model:
        taken.setdefault("model_kwargs", {})
    taken.setdefault("cache_px", taken.get("image_size", Settings().image_size))
    for name in ("mean", "std"):
        if name in taken:
            taken[name] = tuple(taken[name])
    return Settings(**taken)


def _keyword(text: str) -> tuple[str, object]:
    """Name and value of ``name=value``; numbers, tuples and True or False are read as such, anything else is text."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise UsageError(f"--model-kwargs {text!r}: expected name=value, such as channels=48,96,192,384")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
    return name, list(parsed) if isinstance(parsed, tuple) else parsed


def run(options: argparse.Namespace, command: str) -> None:
    """Train to the end of the schedule, exporting after every epoch."""
    settings = settings_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    suffixes = [suffix.strip().lower() for suffix in options.image_key.split(";") if suffix.strip()]
    loaded = load_images(
        options.shards, suffixes=suffixes, cache_px=settings.cache_px, memory_bytes=int(options.memory_gb * 1e9)
    )
    say(f"{len(loaded.pixels)} images; skipped: {dict(loaded.skipped) or 'none'}")
    weights = _weights(options, loaded.keys)
    trainer = Trainer(settings, torch.from_numpy(loaded.pixels), options.out, say, weights)
    data = options.data or f"{len(loaded.pixels)} images, no labels"

    def export(name: str) -> None:
        export_trunk(trainer, options.out, name, data=data, command=command)

    if trainer.epoch == settings.epochs:
        say("nothing left to train")
        export(NAME)
    for epoch in trainer.epochs():
        export(NAME)
        if options.keep_every and epoch % options.keep_every == 0:
            export(f"{NAME}-{epoch:04d}")
    say(f"done: {options.out / NAME}.safetensors")


def _weights(options: argparse.Namespace, keys: list[str]) -> torch.Tensor | None:
    """(n,) weights of the images; None if all are alike or there is no selection."""
    if options.selection == "none":
        return None
    path = find_selection(options.shards) if options.selection is None else Path(options.selection)
    found = None if path is None else read_weights(path, keys)
    if path is not None:
        spread = "all alike" if found is None else f"{found.min():g} to {found.max():g}"
        say(f"weights of {path}: {spread}")
    return None if found is None else torch.from_numpy(found)


def say(line: str) -> None:
    """Print a line now, also into a pipe."""
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 usage, 3 data, 4 interrupted, 5 machine."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        run(parse(given), "python tools/pretrain_encoder.py " + shlex.join(given))
    except SSPruningError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last whole epoch", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
