"""Objectives: what the views of an image should have in common. One class each, and the table that names them.

An objective is a module ``Objective(trunk, dim, settings)`` that owns the trunk, as ``trunk``, and its own heads:
  forward      run under autocast; takes the global views (2m, 3, size, size), first all first views, then all second
               ones, and the local views (l * m, 3, small, small) or None; gives the tensors that the loss needs
  loss         takes them, in float32, and gives a scalar
  after_step   follows each optimiser step, for objectives that keep a moving average
Only the trunk is exported. A further objective is one class and one line in the table.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from pretrain.settings import Settings
from sspruning.registry import Registry

__all__ = ["BYOL", "OBJECTIVES", "BarlowTwins", "MoCo", "Objective", "SimCLR", "SwAV", "VICReg"]

PROJECTED = 128
HIDDEN = 512
WIDE = 1024  # of the projections whose dimensions are to be decorrelated


class Objective(nn.Module):
    """A trunk with a projection head; the other classes say what is asked of the projections."""

    projected = PROJECTED
    hidden = HIDDEN
    takes_local = False
    """Whether local views are used."""

    def __init__(self, trunk: nn.Module, dim: int, settings: Settings) -> None:
        super().__init__()
        self.trunk = trunk
        self.temperature = settings.temperature
        self.norm_batch = settings.norm_batch
        self.head = _mlp(dim, self.hidden, self.projected)

    def forward(self, views: Tensor, local: Tensor | None = None) -> tuple[Tensor, ...]:
        """Projections of the views, (2m, projected), and of the local views if there are any."""
        return tuple(self.head(self.features(part)) for part in (views, local) if part is not None)

    def features(self, views: Tensor, trunk: nn.Module | None = None) -> Tensor:
        """(n, dim) trunk features, ``norm_batch`` views at a time: faster in small caches, and what batch norm sees."""
        return torch.cat([(trunk or self.trunk)(part) for part in views.split(self.norm_batch)])

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """A scalar from what ``forward`` gave, in float32."""
        raise TypeError(f"{type(self).__name__} says not what it asks of {len(outputs)} projections")

    def after_step(self, progress: float) -> None:
        """Nothing, unless there is a moving average. progress: share of the schedule that is done, in (0, 1]."""


class SimCLR(Objective):
    """Each view must find the other view of its image among all other views of the batch.

    A local view must find the mean of its image's two global views, which is held fixed.

    Source: Chen et al. 2020, arXiv:2002.05709 (NT-Xent loss, two-layer projection).
    """

    takes_local = True

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy of finding the partner, over both directions; (2m, 128) float32 in, a scalar out."""
        unit = F.normalize(outputs[0])
        similarity = unit @ unit.T / self.temperature
        similarity.fill_diagonal_(-1e9)  # a view is no candidate for itself
        partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
        total = F.cross_entropy(similarity, partner)
        for local in outputs[1:]:
            first, second = unit.detach().chunk(2)
            found = F.normalize(local) @ F.normalize(first + second).T / self.temperature
            target = torch.arange(len(first), device=unit.device).repeat(len(local) // len(first))
            total = total + F.cross_entropy(found, target)
        return total


class _WithTarget(Objective):
    """A predictor on the trained projections, and a moving average of trunk and head that gives the targets."""

    MOMENTUM = 0.99

    def __init__(self, trunk: nn.Module, dim: int, settings: Settings) -> None:
        super().__init__(trunk, dim, settings)
        self.predictor = _mlp(self.projected, self.hidden, self.projected)
        self.target = copy.deepcopy(nn.Sequential(self.trunk, self.head)).requires_grad_(requires_grad=False)

    def forward(self, views: Tensor, local: Tensor | None = None) -> tuple[Tensor, ...]:
        """Predictions (2m, 128) and targets (2m, 128) of the views."""
        del local
        with torch.no_grad():
            target = self.target[1](self.features(views, self.target[0]))
        return self.predictor(self.head(self.features(views))), target

    def after_step(self, progress: float) -> None:
        """Move the target towards what is trained; more slowly as the schedule nears its end."""
        step = (1 - self.MOMENTUM) * (math.cos(math.pi * progress) + 1) / 2
        trained = nn.Sequential(self.trunk, self.head)
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), trained.parameters(), strict=True):
                old.lerp_(new, step)


class MoCo(_WithTarget):
    """Each prediction must find the target of its image's other view among the targets of the batch.

    Source: Chen et al. 2021, arXiv:2104.02057 (MoCo v3: predictor, no queue), temperature of the settings.
    """

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy over both directions."""
        predicted, target = F.normalize(outputs[0]).chunk(2), F.normalize(outputs[1]).chunk(2)
        own = torch.arange(len(predicted[0]), device=predicted[0].device)
        pairs = ((predicted[0], target[1]), (predicted[1], target[0]))
        return torch.stack([F.cross_entropy(p @ t.T / self.temperature, own) for p, t in pairs]).mean()


class BYOL(_WithTarget):
    """Each prediction must point where the target of its image's other view points; there are no negatives.

    Source: Grill et al. 2020, arXiv:2006.07733.
    """

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """Mean of 2 - 2 cos over both directions."""
        predicted, target = F.normalize(outputs[0]), F.normalize(outputs[1]).roll(len(outputs[1]) // 2, 0)
        return (2 - 2 * (predicted * target).sum(1)).mean()


class VICReg(Objective):
    """Equal projections of both views, each dimension with variance 1, no two dimensions correlated.

    Source: Bardes et al. 2022, arXiv:2105.04906; weights 25, 25, 1, here divided by 25.
    """

    projected = hidden = WIDE

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """Invariance, plus the hinge on the variances and the squared covariances of both views."""
        first, second = outputs[0].chunk(2)
        total = F.mse_loss(first, second)
        for rows in (first, second):
            centred = rows - rows.mean(0)
            covariance = centred.T @ centred / (len(rows) - 1)
            total = total + F.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean() / 2
            total = total + _off_diagonal(covariance) / rows.shape[1] / 25
        return total


class BarlowTwins(Objective):
    """The correlations between the dimensions of both views must be those of the identity.

    Source: Zbontar et al. 2021, arXiv:2103.03230; weight 0.005, loss scaled by 0.025.
    """

    projected = hidden = WIDE

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """Squared distance of the cross-correlation from the identity."""
        first, second = ((rows - rows.mean(0)) / (rows.std(0) + 1e-6) for rows in outputs[0].chunk(2))
        correlation = first.T @ second / len(first)
        return 0.025 * ((1 - correlation.diagonal()).square().sum() + 0.005 * _off_diagonal(correlation))


class SwAV(Objective):
    """Every view must predict to which prototypes the other views belong; the batch is spread over all prototypes.

    Source: Caron et al. 2020, arXiv:2006.09882 (three Sinkhorn steps, epsilon 0.05, temperature 0.1, multi-crop).
    """

    PROTOTYPES, EPSILON, SHARPNESS = 300, 0.05, 0.1
    takes_local = True

    def __init__(self, trunk: nn.Module, dim: int, settings: Settings) -> None:
        super().__init__(trunk, dim, settings)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(self.PROTOTYPES, self.projected)))

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy between the codes of each global view and the scores of all other views."""
        unit = F.normalize(self.prototypes)
        scores = [part @ unit.T for rows in outputs[:1] for part in F.normalize(rows).chunk(2)]
        scores += [part @ unit.T for rows in outputs[1:] for part in F.normalize(rows).split(len(scores[0]))]
        codes = [self._codes(score.detach()) for score in scores[:2]]
        terms = [
            -(code * F.log_softmax(score / self.SHARPNESS, 1)).sum(1).mean()
            for number, code in enumerate(codes)
            for other, score in enumerate(scores)
            if other != number
        ]
        return torch.stack(terms).mean()

    def _codes(self, scores: Tensor) -> Tensor:
        """(m, prototypes) soft assignments with equal use of all prototypes."""
        codes = (scores / self.EPSILON).exp()
        for _ in range(3):
            codes = codes / codes.sum(0, keepdim=True)
            codes = codes / codes.sum(1, keepdim=True)
        return codes


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def _off_diagonal(square: Tensor) -> Tensor:
    """Sum of the squares beside the diagonal."""
    return square.square().sum() - square.diagonal().square().sum()


OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    {
        "simclr": "pretrain.objectives:SimCLR",
        "moco": "pretrain.objectives:MoCo",
        "byol": "pretrain.objectives:BYOL",
        "vicreg": "pretrain.objectives:VICReg",
        "barlow": "pretrain.objectives:BarlowTwins",
        "swav": "pretrain.objectives:SwAV",
    },
)
