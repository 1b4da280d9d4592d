"""The finished encoder as two files: float16 weights under timm's names, and a card that tells where they came from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from pretrain.settings import Settings
from sspruning.records import JSONValue
from sspruning.storage.atomic import write_bytes, write_json

__all__ = ["export_trunk"]


def export_trunk(
    trunk: nn.Module, folder: Path, name: str, settings: Settings, *, epochs_done: int, data: str, command: str
) -> dict[str, JSONValue]:
    """The card written to ``NAME.json`` beside ``NAME.safetensors``.

    Args:
        trunk: the network without its heads.
        folder: where both files go; each appears whole or not at all, the weights first.
        name: stem of both files.
        settings: what the trunk was trained with.
        epochs_done: fewer than ``settings.epochs`` where training goes on.
        data: one line about the images, for people.
        command: the command that repeats the run.
    """
    tensors = {key: _stored(value) for key, value in trunk.state_dict().items()}
    digest, _ = write_bytes(folder / f"{name}.safetensors", save(tensors))
    card: dict[str, JSONValue] = {
        "architecture": settings.model,
        "model_kwargs": settings.model_kwargs,
        "image_size": settings.image_size,
        "mean": list(settings.mean),
        "std": list(settings.std),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "sha256": digest,
        "data": data,
        "objective": settings.objective,
        "epochs": epochs_done,
        "epochs_planned": settings.epochs,
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "command": command,
    }
    write_json(folder / f"{name}.json", card)
    return card


def _stored(value: torch.Tensor) -> torch.Tensor:
    """A tensor as it is written: floating point at half precision, on the CPU, in plain order."""
    value = value.detach().cpu()
    return (value.half() if value.is_floating_point() else value).contiguous()
