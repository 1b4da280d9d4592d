"""The user's own encoder: ``package.module:factory`` returns a torch module and the transform for one image.

    def factory():
        return module, transform      # transform(PIL RGB image) -> tensor or array; module(stacked) -> (rows, dim)

The module is put into eval mode and otherwise called as it is: no batch norm is folded, nothing is normalised.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from PIL import Image
from torch import nn

from sspruning.encoders.checkpoint import state_dict_sha256
from sspruning.encoders.torch_forward import TorchForward, pad_rows
from sspruning.errors import UsageError

if TYPE_CHECKING:
    from sspruning.records import F32, EncoderSpec, JSONValue

__all__ = ["CustomEncoder", "build"]

_PROBE_SIDE: Final = 256
"""Side of the grey image that tells the shape of the transform's output."""


class CustomEncoder:
    """A module and a transform that came from a factory.

    Args:
        module: returns (rows, dim) for a stacked float32 batch of transform outputs.
        transform: one RGB image -> tensor or array of a fixed shape.
        spec: device, dtype, batch size and so on; ``spec.factory`` goes into the identity.

    Raises:
        UsageError: the transform or the module returns something that is no batch of embeddings.
        MachineError: the device that was asked for is not there.
    """

    def __init__(self, module: nn.Module, transform: Callable[[Image.Image], object], spec: EncoderSpec) -> None:
        self._transform = transform
        self._name = str(spec.factory)
        self._shape: tuple[int, ...] | None = None
        self._shape = self.prepare(Image.new("RGB", (_PROBE_SIDE, _PROBE_SIDE), (128, 128, 128))).shape
        self.notes: list[str] = []
        digest = state_dict_sha256(module)
        sample = torch.rand((1, *self._shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
        self._forward = TorchForward(module, sample, spec, self.notes)
        self.dim = self._forward.dim
        self.batch_size = spec.batch_size
        self.draft_size: int | None = None  # a transform may look at the original size
        self.identity: dict[str, JSONValue] = {
            "encoder": "custom",
            "model": self._name,
            "weights_sha256": digest,
            "preprocess": {"transform": self._name, "shape": list(self._shape)},
            "pooling": "model's own",
            **self._forward.identity,
        }

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Array of the transform's fixed shape, float32.

        Raises:
            UsageError: the transform returned no tensor or array, or one of another shape than for the first image.
        """
        output = self._transform(image)
        if isinstance(output, torch.Tensor):
            output = output.detach().cpu().float().numpy()
        if not isinstance(output, np.ndarray):
            raise UsageError(
                f"the transform of {self._name} returned {type(output).__name__}; it must return a tensor or an array, "
                "for example by ending with torchvision's ToTensor"
            )
        if self._shape is not None and output.shape != self._shape:
            raise UsageError(
                f"the transform of {self._name} returned shape {output.shape} for a {image.width} x {image.height} "
                f"image and {self._shape} before; it must return one shape, for example by ending with a CenterCrop"
            )
        return output.astype(np.float32, copy=False)

    def embed(self, batch: np.ndarray) -> F32:
        """(m, dim) float32, what the module returns for (m, ...) stacked transform outputs; m <= batch_size."""
        padded = torch.from_numpy(pad_rows(batch, self.batch_size)).to(self._forward.device)
        return self._forward.rows(padded, len(batch))


def build(spec: EncoderSpec) -> CustomEncoder:
    """Encoder made by calling the function that ``spec.factory`` names.

    Raises:
        UsageError: the name cannot be imported, the call fails, or what it returns is not a module and a transform.
    """
    given = [key for key in ("model", "checkpoint", "image_size") if getattr(spec, key) is not None]
    if given:
        raise UsageError(f"encoder 'custom' takes no {given[0]}: its factory decides that")
    module, transform = _called(_imported(spec.factory), str(spec.factory))
    return CustomEncoder(module, transform, spec)


def _imported(name: str | None) -> Callable[[], object]:
    module_name, colon, attribute = (name or "").partition(":")
    if not module_name or not colon or not attribute:
        raise UsageError(f"encoder 'custom' needs a factory written as package.module:function, got {name!r}")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise UsageError(
            f"factory {name}: cannot import {module_name!r} ({error}); is its folder on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise UsageError(f"factory {name}: module {module_name!r} has no {attribute!r}") from error
    if not callable(factory):
        raise UsageError(f"factory {name}: {attribute!r} is {type(factory).__name__}, not a function")
    return factory


def _called(factory: Callable[[], object], name: str) -> tuple[nn.Module, Callable[[Image.Image], object]]:
    try:
        made = factory()
    except Exception as error:
        raise UsageError(f"factory {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) != 2:
        raise UsageError(f"factory {name} returned {type(made).__name__}; it must return the pair (module, transform)")
    module, transform = made
    if not isinstance(module, nn.Module):
        raise UsageError(f"factory {name}: the first of the pair is {type(module).__name__}, not a torch.nn.Module")
    if not callable(transform):
        raise UsageError(f"factory {name}: the second of the pair is {type(transform).__name__}, not a callable")
    return module, transform
