"""Encoders: what turns images into embeddings. A protocol, a table of implementations and the presets beside it.

Importing this package loads neither torch nor timm nor Pillow; the implementation that is asked for does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sspruning.encoders.presets import PRESETS, spec_for_preset
from sspruning.records import F32, EncoderSpec, JSONValue
from sspruning.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["ENCODERS", "PRESETS", "Encoder", "build_encoder"]


class Encoder(Protocol):
    """What the embed stage needs of an encoder; any object with these members fits, there is nothing to subclass."""

    dim: int
    """Length of an embedding."""
    batch_size: int
    """Rows of every forward pass; shorter batches are padded to it."""
    draft_size: int | None
    """Side in pixels that the image is resized to, for `images.decode_image`; None forbids reduced JPEG decoding."""
    identity: dict[str, JSONValue]
    """All that can change an embedding's bits: weights, preprocessing, resolved dtype, device type, batch size."""
    notes: list[str]
    """Lines for people: what a checkpoint held that was not used, which device was taken and why."""

    def prepare(self, image: Image) -> np.ndarray:
        """Array of the encoder's fixed shape and dtype made from one RGB image."""
        ...

    def embed(self, batch: np.ndarray) -> F32:
        """(m, dim) float32 embeddings, not normalised, of (m, ...) stacked `prepare` results, m <= batch_size.

        A row depends on its own image and not on the other rows or on how many there are.
        """
        ...


ENCODERS: Registry[Callable[[EncoderSpec], Encoder]] = Registry(
    "encoder",
    {
        "shipped": "sspruning.encoders.shipped:build",
        "timm": "sspruning.encoders.timm_encoder:build",
        "card": "sspruning.encoders.card:build",
        "custom": "sspruning.encoders.custom:build",
        "pixels": "sspruning.encoders.pixels:build",
    },
)
"""Name -> ``build(spec)``. A new encoder is one file and one line here; tests/contracts picks it up."""


def build_encoder(spec: EncoderSpec) -> Encoder:
    """Encoder that ``spec`` asks for, ready to embed.

    Args:
        spec: its ``name`` is one of `ENCODERS` or of `PRESETS`.

    Raises:
        UsageError: unknown name, or a setting that this encoder cannot serve.
        MachineError: weights, a device or a package that this machine lacks.
    """
    if spec.name in PRESETS and spec.name not in ENCODERS:
        spec = spec_for_preset(spec)
    if spec.name in ENCODERS:
        return ENCODERS.resolve(spec.name)(spec)
    # Not known at all: let the table that holds both kinds of names find the nearest one.
    Registry("encoder", {**ENCODERS, **dict.fromkeys(PRESETS, "")}).resolve(spec.name)
    raise AssertionError("unreachable: Registry.resolve raises for an unknown name")
