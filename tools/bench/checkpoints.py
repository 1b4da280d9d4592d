"""Weights for timm models where speed is all that matters: random, saved as a checkpoint, no network."""

from __future__ import annotations

from pathlib import Path

__all__ = ["random_weights"]


def random_weights(model: str, folder: Path) -> Path:
    """Checkpoint file of a freshly initialised trunk of the timm model ``model``."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = folder / f"{model}.safetensors"
    trunk = timm.create_model(model, pretrained=False, num_classes=0)
    save_file({name: value.contiguous() for name, value in trunk.state_dict().items()}, path)
    return path
