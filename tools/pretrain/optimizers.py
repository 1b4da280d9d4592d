"""Muon: momentum whose steps are orthogonalised, so that all directions of a weight matrix learn at the same pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

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


def make_optimizers(module: nn.Module, settings: Settings) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimisers of the module's parameters, each with its peak rate. Biases and normalisation do not decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    first, rest = (matrices[:1], matrices[1:]) if settings.optimizer == "muon" else (matrices, [])
    groups = [
        {"params": first, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    plain = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=MOMENTUM)
    made: list[tuple[torch.optim.Optimizer, float]] = [(plain, settings.learning_rate)]
    if rest:
        decay = settings.weight_decay / settings.matrix_rate  # so that a step at the peak rate shrinks by weight_decay
        muon = Muon(rest, lr=settings.matrix_rate, weight_decay=decay)
        made.append((muon, settings.matrix_rate))
    return made
