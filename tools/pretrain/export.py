"""The finished encoder as two files: float16 weights under timm's names, and a card that tells where they came from."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from safetensors.torch import save
from torch import Tensor, nn

from pretrain.training import Trainer
from sspruning.records import JSONValue
from sspruning.storage.atomic import write_bytes, write_json

__all__ = ["export_trunk", "whitening"]

WHITEN_IMAGES = 20_000  # spread over the corpus; 384 directions need far fewer
WHITEN_FLOOR = 1e-4  # of the largest variance: directions below it are noise and are not blown up further
BATCH = 500


def export_trunk(trainer: Trainer, folder: Path, name: str, *, data: str, command: str) -> dict[str, JSONValue]:
    """The card written to ``NAME.json`` beside ``NAME.safetensors``.

    Args:
        trainer: holds the network; what it exports after its last epoch is whitened if the settings say so.
        folder: where both files go; each appears whole or not at all, the weights first.
        name: stem of both files.
        data: one line about the images, for people.
        command: the command that repeats the run.
    """
    settings = trainer.settings
    trunk, kwargs = trainer.trunk, dict(settings.model_kwargs)
    whiten = settings.whiten if trainer.epoch == settings.epochs else 0.0
    if whiten:
        trunk = _whitened(trainer, whiten)
        kwargs["num_classes"] = trainer.dim
    digest, _ = write_bytes(
        folder / f"{name}.safetensors", save({key: _stored(value) for key, value in trunk.state_dict().items()})
    )
    card: dict[str, JSONValue] = {
        "architecture": settings.model,
        "model_kwargs": kwargs,
        "image_size": settings.image_size,
        "mean": list(settings.mean),
        "std": list(settings.std),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "sha256": digest,
        "data": data,
        "objective": settings.objective,
        "epochs": trainer.epoch,
        "epochs_planned": settings.epochs,
        "whiten": whiten,
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "init_sha256": trainer.init_sha256,
        "command": command,
    }
    write_json(folder / f"{name}.json", card)
    return card


def whitening(features: Tensor, exponent: float) -> Tensor:
    """(d, d) float64 matrix that evens the variances of centred features.

    A direction with variance v is scaled by v ** -exponent: 0.5 makes all directions alike, which helps neighbours and
    harms clusters; an exponent between helps both (measured: tools/prove/README.md). Directions keep their units
    relative to the largest one, which keeps scale 1.

    Args:
        features: (n, d) float64.
        exponent: 0 to 0.5.
    """
    variance, directions = torch.linalg.eigh(torch.cov(features.T))
    scale = ((variance / variance.max()).clamp(min=0) + WHITEN_FLOOR) ** -exponent
    return (directions * scale) @ directions.T


def _whitened(trainer: Trainer, exponent: float) -> nn.Module:
    """A timm model with the trunk's weights and, as its classifier, the whitening of its features."""
    settings, trunk = trainer.settings, trainer.trunk
    made = timm.create_model(settings.model, pretrained=False, **{**settings.model_kwargs, "num_classes": trainer.dim})
    made.load_state_dict(trunk.state_dict(), strict=False)
    features = _features(trainer)
    matrix = whitening(features, exponent).half()  # as it is stored; the offset belongs to the rounded matrix
    classifier = made.get_classifier()
    with torch.no_grad():
        classifier.weight.copy_(matrix.float())
        classifier.bias.copy_(-(matrix.double() @ features.mean(0)).float())
    return made


def _features(trainer: Trainer) -> Tensor:
    """(m, d) float64 pooled features of images spread over the corpus, at the side at which the encoder is used."""
    settings, pixels = trainer.settings, trainer.pixels
    chosen = pixels[:: max(1, len(pixels) // WHITEN_IMAGES)]
    centre = torch.tensor(settings.mean).view(1, 3, 1, 1)
    spread = torch.tensor(settings.std).view(1, 3, 1, 1)
    found = []
    trainer.trunk.eval()
    with torch.inference_mode():
        for batch in chosen.split(BATCH):
            images = batch.permute(0, 3, 1, 2).float() / 255
            images = F.interpolate(images, size=settings.image_size, mode="bicubic", antialias=True).clamp(0, 1)
            images = ((images - centre) / spread).to(trainer.device).contiguous(memory_format=torch.channels_last)
            found.append(trainer.trunk(images).double().cpu())
    trainer.trunk.train()
    return torch.cat(found)


def _stored(value: Tensor) -> Tensor:
    """A tensor as it is written: floating point at half precision, on the CPU, in plain order."""
    value = value.detach().cpu()
    return (value.half() if value.is_floating_point() else value).contiguous()
