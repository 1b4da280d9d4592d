"""The downstream task: a small residual network trained from scratch on a subset, and its accuracy on unseen images.

The recipe is fast, for a grid of many runs: random 24 x 24 crops and flips, one cycle of SGD with Nesterov momentum,
bfloat16 autocast where the processor has it. Tested on whole 32 x 32 images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar.images import Labelled
from sspruning.encoders.torch_forward import has_bfloat16
from sspruning.records import F32, I64

__all__ = ["Recipe", "SmallResNet", "predict", "steps_of_full", "train"]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
CLASSES = 10
AfterEpoch = Callable[[int, nn.Module], None]
AfterStep = Callable[[int, I64, Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How every downstream network of the grid is trained."""

    widths: tuple[int, int, int] = (32, 64, 128)
    """Channels of the three stages; the default has 0.31 M parameters."""
    epochs: int = 8
    """Passes over the subset, at fixed epochs; passes over the full set, whose number of steps all runs get, at fixed
    iterations."""
    batch_size: int = 128
    learning_rate: float = 0.2
    """Peak of the cycle: a linear rise over the first quarter, a linear fall to zero after it."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop_px: int = 24

    def as_row(self) -> str:
        """The recipe in one line, for the table of results."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items()).replace(", ", "-")


class _Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, which averages and projects where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride)
        self.second = _convolution(outputs, outputs, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), *project)

    def forward(self, inputs: Tensor) -> Tensor:
        """(m, outputs, h / stride, w / stride)."""
        return F.relu(self.second(F.relu(self.first(inputs))) + self.shortcut(inputs))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class SmallResNet(nn.Sequential):
    """A residual network of seven convolutions for images of about 32 pixels: (m, 3, h, w) to (m, 10) logits."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        a, b, c = widths
        super().__init__(
            _convolution(3, a, 2), nn.ReLU(), _Block(a, a, 1), _Block(a, b, 2), _Block(b, c, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, CLASSES),
        )  # fmt: skip


def train(
    data: Labelled,
    rows: I64,
    recipe: Recipe,
    *,
    seed: int,
    steps: int | None = None,
    after_step: AfterStep | None = None,
    after_epoch: AfterEpoch | None = None,
) -> nn.Module:
    """The network trained on ``data[rows]``, in eval mode.

    Args:
        data: all training images.
        rows: (m,) the images to train on.
        recipe: how.
        seed: of weights, order and crops.
        steps: optimiser steps; None: ``recipe.epochs`` passes over the rows.
        after_step: told the epoch from 0, the rows of the batch, and its logits.
        after_epoch: told the number of whole epochs done, and the network.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = SmallResNet(recipe.widths).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    size = min(recipe.batch_size, len(rows))
    per_epoch = len(rows) // size
    total = steps if steps is not None else recipe.epochs * per_epoch
    pixels, labels = torch.from_numpy(data.pixels), torch.from_numpy(data.labels)
    chosen = torch.from_numpy(np.asarray(rows, np.int64))
    order = chosen
    for step in range(total):
        epoch, at = divmod(step, per_epoch)
        if at == 0:
            order = chosen[torch.randperm(len(chosen), generator=generator)]
        batch = order[at * size : (at + 1) * size]
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _cycle((step + 0.5) / total)
        with _autocast():
            logits = net(_augmented(pixels[batch], recipe.crop_px, generator))
        loss = F.cross_entropy(logits.float(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step is not None:
            after_step(epoch, batch.numpy(), logits.detach().float())
        if after_epoch is not None and at == per_epoch - 1:
            net.eval()
            after_epoch(epoch + 1, net)
            net.train()
    return net.eval()


def predict(net: nn.Module, pixels: NDArray[np.uint8]) -> F32:
    """(n, 10) float32 logits of whole images, not augmented. net: in eval mode. pixels: (n, 32, 32, 3)."""
    batches = torch.from_numpy(pixels).split(500)
    with torch.inference_mode(), _autocast():
        return torch.cat([net(_normalised(batch.permute(0, 3, 1, 2))).float() for batch in batches]).numpy()


def _cycle(progress: float) -> float:
    """Share of the peak rate: a linear rise over the first quarter, a linear fall after it."""
    return min(progress / 0.25, (1 - progress) / 0.75)


def _augmented(batch: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """(m, 3, side, side) random crops of (m, 32, 32, 3) uint8, half of them mirrored, normalised."""
    room = batch.shape[1] - side + 1
    draws = torch.rand(3, len(batch), generator=generator)
    top, left = (draws[:2] * room).long()
    span = torch.arange(side)
    across = torch.where(draws[2, :, None] < 0.5, span.flip(0), span) + left[:, None]
    cut = batch[torch.arange(len(batch))[:, None, None], (top[:, None] + span)[:, :, None], across[:, None, :]]
    return _normalised(cut.permute(0, 3, 1, 2))


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def _autocast() -> torch.autocast | nullcontext[None]:
    fast = has_bfloat16(torch.device("cpu"))
    return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()


def steps_of_full(recipe: Recipe, n: int) -> int:
    """Optimiser steps of a run on all n images: what every run gets at fixed iterations."""
    return recipe.epochs * math.floor(n / min(recipe.batch_size, n))
