"""Random views of a whole batch at once: colour as one affine map per image, crop and flip as one resampling.

Brightness, contrast, saturation, hue (a rotation in YIQ) and greyscale are all affine in RGB, so their product is one
matrix and one offset per image. Colours are changed before the crop, on the smaller stored image, and clipped once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

__all__ = ["random_view"]

SCALE = (0.2, 1.0)  # of the image's area
ASPECT = 4 / 3  # and its inverse
JITTER, HUE = 0.4, 0.1  # brightness, contrast and saturation; part of a full turn
JITTER_SHARE, GREY_SHARE, FLIP_SHARE = 0.8, 0.2, 0.5
_GREY = torch.tensor([0.299, 0.587, 0.114])
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = torch.linalg.inv(_YIQ)
_COLOUR_DRAWS, _CROP_DRAWS = 6, 5


def random_view(
    images: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scale: tuple[float, float] = SCALE,
) -> Tensor:
    """One random crop of each image, normalised: (m, 3, size, size) float32.

    Args:
        images: (m, 3, side, side) float32 in 0..1.
        size: side of the crops in pixels.
        generator: on the CPU; the only source of chance, drawn from a fixed number of times per image.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        scale: least and largest share of the image's area that a crop covers.

    Source: Chen et al. 2020, arXiv:2002.05709, without blur, as is usual for small images.
    """
    draws = torch.rand(_COLOUR_DRAWS + _CROP_DRAWS, len(images), generator=generator).to(images.device)
    coloured = _recolour(images, draws[:_COLOUR_DRAWS])
    grid = F.affine_grid(_rectangles(draws[_COLOUR_DRAWS:], scale), [len(images), 3, size, size], align_corners=False)
    crops = F.grid_sample(coloured, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    centre = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (crops - centre) / spread


def _rectangles(draws: Tensor, scale: tuple[float, float]) -> Tensor:
    """(m, 2, 3) affine maps onto random rectangles inside the image, half of them mirrored. draws: (5, m) in [0, 1)."""
    area = draws[0] * (scale[1] - scale[0]) + scale[0]
    aspect = torch.exp((draws[1] * 2 - 1) * math.log(ASPECT))
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    maps = torch.zeros(draws.shape[1], 2, 3, device=draws.device)
    maps[:, 0, 0] = width * ((draws[4] < FLIP_SHARE).float() * 2 - 1)
    maps[:, 0, 2] = (draws[2] * 2 - 1) * (1 - width)
    maps[:, 1, 1] = height
    maps[:, 1, 2] = (draws[3] * 2 - 1) * (1 - height)
    return maps


def _recolour(images: Tensor, draws: Tensor) -> Tensor:
    """The images with random brightness, contrast, saturation and hue, some of them grey. draws: (6, m) in [0, 1)."""
    jittered = (draws[0] < JITTER_SHARE).float()
    brightness, contrast, saturation = (1 + (draws[i] * 2 - 1) * JITTER * jittered for i in (1, 2, 3))
    turn = (draws[4] * 2 - 1) * HUE * 2 * math.pi * jittered
    saturation = torch.where(draws[5] < GREY_SHARE, 0.0, saturation)
    flat = images.flatten(2)
    level = (flat.mean(2) @ _GREY.to(images.device)) * brightness  # mean grey, which contrast pulls towards
    matrix = _hue(turn) @ _saturation(saturation)
    offset = (matrix.sum(2) * (level * (1 - contrast)).unsqueeze(1)).unsqueeze(2)
    matrix = matrix * (brightness * contrast).view(-1, 1, 1)
    return torch.baddbmm(offset, matrix, flat).clamp_(0, 1).view_as(images)


def _saturation(saturation: Tensor) -> Tensor:
    """(m, 3, 3) blends of each colour with its grey; 0 is grey, 1 leaves the colour as it is."""
    blend = saturation.view(-1, 1, 1)
    identity = torch.eye(3, device=saturation.device)
    return blend * identity + (1 - saturation).view(-1, 1, 1) * _GREY.to(saturation.device).expand(3, 3)


def _hue(turn: Tensor) -> Tensor:
    """(m, 3, 3) rotations of the colour plane by ``turn`` radians, expressed in RGB."""
    rotation = torch.zeros(len(turn), 3, 3, device=turn.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = turn.cos()
    rotation[:, 1, 2] = -turn.sin()
    rotation[:, 2, 1] = turn.sin()
    rotation[:, 2, 2] = turn.cos()
    return _RGB.to(turn.device) @ rotation @ _YIQ.to(turn.device)
