#!/usr/bin/env python
"""Pretrain an encoder on the images of webdataset shards, without labels: shards in, weights and a card out.

    python tools/pretrain_encoder.py 'shards/train-*.tar' --out runs/encoder --epochs 30

The --out folder then holds encoder.safetensors and encoder.json (renewed each epoch), checkpoint.pt and log.jsonl.
Stop it at any time; the same command goes on from the last whole epoch and ends with the same weights. Full and pruned
shards are read alike. `sspruning embed --encoder timm --model NAME --checkpoint FILE` uses the result.
"""

from __future__ import annotations

import argparse
import ast
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from pretrain.export import export_trunk
from pretrain.images import load_images
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Settings
from pretrain.training import Trainer

from sspruning.errors import SSPruningError, UsageError

NAME = "encoder"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of the command line; those of the same name fill `Settings`."""
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("shards", nargs="+", help="files, folders, globs or brace patterns, as for `sspruning embed`")
    add("--out", type=Path, required=True, help="folder of the run; continued if it holds a checkpoint")
    add("--image-key", default="jpg;png;jpeg;webp", help="suffixes of the image, in order of preference")
    add("--objective", choices=sorted(OBJECTIVES), default=default.objective)
    add("--model", default=default.model, help="timm model name (default %(default)s)")
    add(
        "--model-kwargs", nargs="*", metavar="K=V", help="for timm, e.g. channels=48,96,192,384 (default for resnet10t)"
    )
    add(
        "--image-size",
        type=int,
        default=default.image_size,
        help="side at which the encoder is used (default %(default)s)",
    )
    add("--cache-px", type=int, help="side at which images are held in memory (default: the image size)")
    add("--mean", type=float, nargs=3, default=default.mean, help="of the normalisation, per channel in 0..1")
    add("--std", type=float, nargs=3, default=default.std, help="(defaults: CIFAR-10's)")
    add("--epochs", type=int, default=default.epochs, help="(default %(default)s)")
    add("--batch-size", type=int, default=default.batch_size, help="images a step (default %(default)s)")
    add("--learning-rate", type=float, default=default.learning_rate, help="peak rate (default %(default)s)")
    add("--weight-decay", type=float, default=default.weight_decay, help="(default %(default)s)")
    add("--temperature", type=float, default=default.temperature, help="(default %(default)s)")
    add("--precision", choices=["bf16", "fp32"], default=default.precision, help="(default %(default)s)")
    add("--device", default=default.device, help="auto, cpu, cuda or mps (default %(default)s)")
    add("--seed", type=int, default=default.seed, help="(default %(default)s)")
    add(
        "--keep-every",
        type=int,
        default=0,
        metavar="N",
        help="also keep the encoder of every N-th epoch (default: none)",
    )
    add("--memory-gb", type=float, default=8.0, help="the decoded images may take this much (default %(default)s)")
    add("--data", default="", help="a line about the images for the card (default: their number)")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """`Settings` that the options ask for."""
    taken = {name: getattr(options, name) for name in Settings.__dataclass_fields__}
    taken["cache_px"] = options.cache_px or options.image_size
    taken["mean"], taken["std"] = tuple(options.mean), tuple(options.std)
    default = Settings()
    if options.model_kwargs is None:
        taken["model_kwargs"] = default.model_kwargs if options.model == default.model else {}
    else:
        taken["model_kwargs"] = dict(_keyword(text) for text in options.model_kwargs)
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
    trainer = Trainer(settings, torch.from_numpy(loaded.pixels), options.out, say)
    data = options.data or f"{len(loaded.pixels)} images, no labels"
    if trainer.epoch == settings.epochs:
        say("nothing left to train")
        export_trunk(trainer.trunk, options.out, NAME, settings, epochs_done=trainer.epoch, data=data, command=command)
    for epoch in trainer.epochs():
        names = [NAME] + ([f"{NAME}-{epoch:04d}"] if options.keep_every and epoch % options.keep_every == 0 else [])
        for name in names:
            export_trunk(trainer.trunk, options.out, name, settings, epochs_done=epoch, data=data, command=command)
    say(f"done: {options.out / NAME}.safetensors")


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
