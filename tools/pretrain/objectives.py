"""Objectives: what two views of an image should have in common. One class each, and the table that names them.

An objective is a module ``Objective(trunk, dim, settings)`` that owns the trunk, as ``trunk``, and its own heads:
  forward      run under autocast on all views, (2m, 3, size, size): the first views of m images, then the second ones
  loss         takes what ``forward`` gave, in float32
  after_step   follows each optimiser step, for objectives that keep a moving average
Only the trunk is exported. A further objective is one class and one line in the table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from pretrain.settings import Settings
from sspruning.registry import Registry

__all__ = ["OBJECTIVES", "SimCLR"]


class SimCLR(nn.Module):
    """Each view must find the other view of its image among all other views of the batch.

    Source: Chen et al. 2020, arXiv:2002.05709 (NT-Xent loss, two-layer projection).
    """

    HIDDEN, PROJECTED = 512, 128

    def __init__(self, trunk: nn.Module, dim: int, settings: Settings) -> None:
        super().__init__()
        self.trunk = trunk
        self.temperature = settings.temperature
        self.head = nn.Sequential(
            nn.Linear(dim, self.HIDDEN, bias=False),
            nn.BatchNorm1d(self.HIDDEN),
            nn.ReLU(),
            nn.Linear(self.HIDDEN, self.PROJECTED),
        )

    def forward(self, views: Tensor) -> Tensor:
        """(2m, 128) projections of the views."""
        return self.head(self.trunk(views))

    def loss(self, projected: Tensor) -> Tensor:
        """Mean cross entropy of finding the partner, over both directions; (2m, 128) float32 in, a scalar out."""
        unit = F.normalize(projected)
        similarity = unit @ unit.T / self.temperature
        similarity.fill_diagonal_(-1e9)  # a view is no candidate for itself
        partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
        return F.cross_entropy(similarity, partner)

    def after_step(self, progress: float) -> None:
        """Nothing: there is no moving average. progress: share of the schedule that is done, in (0, 1]."""


OBJECTIVES: Registry[type[SimCLR]] = Registry("objective", {"simclr": "pretrain.objectives:SimCLR"})
