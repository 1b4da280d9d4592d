"""Muon: momentum whose steps are orthogonalised, so that all directions of a weight matrix learn at the same pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pretrain.objectives import Objective
from pretrain.settings import Settings

__all__ = ["Muon", "make_optimizers"]

MOMENTUM = 0.9
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024; four steps bring singular values near 1
STEPS = 4


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, each step replaced by its nearest semi-orthogonal matrix; kernels count as (out, rest).

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("momentum", torch.zeros_like(parameter.grad))
                average.mul_(MOMENTUM).add_(parameter.grad)
                move = _orthogonal(parameter.grad.add(average, alpha=MOMENTUM).flatten(1))
                scale = max(1.0, move.shape[0] / move.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(move.view_as(parameter), alpha=-group["lr"] * scale)


def _orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of ``matrix`` and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    found = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if matrix.shape[0] > matrix.shape[1] else found


def make_optimizers(objective: Objective, settings: Settings) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimisers of the objective's parameters, each with its peak rate. Biases and normalisation do not decay.

    Where Muon is asked for, SGD still moves the trunk's first layer, and embeddings of shape (1, ...), as of a ViT.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    plain, turned = matrices, []
    if settings.optimizer == "muon":
        first = next(parameter for parameter in objective.trunk.parameters() if parameter.ndim > 1 < len(parameter))
        plain = [parameter for parameter in matrices if parameter is first or len(parameter) == 1]
        turned = [parameter for parameter in matrices if parameter is not first and len(parameter) > 1]
    groups = [
        {"params": plain, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    sgd = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=MOMENTUM)
    made: list[tuple[torch.optim.Optimizer, float]] = [(sgd, settings.learning_rate)]
    if turned:
        decay = settings.weight_decay / settings.matrix_rate  # so that a step at the peak rate shrinks by weight_decay
        muon = Muon(turned, lr=settings.matrix_rate, weight_decay=decay)
        made.append((muon, settings.matrix_rate))
    return made
