"""Supervised hardness scores, for comparison with the label-free ones: they need labels and a training loop.

One ensemble gives them all: networks of the downstream recipe, each trained on a random 70 % of the images, as for
memorization (Feldman and Zhang 2020). Larger = harder, always.

| score | definition | source |
|---|---|---|
| el2n | mean over networks of the norm of softmax - one-hot after an early epoch, all images, not augmented | 2107.07075 |
| forgetting | mean over the networks that train on the image of the changes from right to wrong between its visits; never right in any visit counts as one more than the most | 1812.05159 |
| aum | minus the mean over visits of (logit of the class - largest other logit) | 2001.10528 |
| memorization | share of right answers of the networks that train on the image, minus that of the others | 2008.03703 |
| margin, entropy | of the mean softmax of the finished networks that do not train on the image: minus (probability of the class - largest other); entropy in nats | |
| supervised_prototypes | cosine distance of the embedding to the mean embedding of its class | 2206.14486 |
"""  # noqa: E501 - a table

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cifar.downstream import CLASSES, Recipe, predict, train
from cifar.images import Labelled
from sspruning.metrics.distances import pair_distance, unit_rows
from sspruning.records import F16, F32, F64, I64, BoolArray

__all__ = ["ENSEMBLE_SCORES", "Member", "ensemble_scores", "supervised_prototypes", "train_member"]

SHARE = 0.7  # of the images that each network trains on
EARLY_EPOCH = 2  # of EL2N
ENSEMBLE_SCORES = ("el2n", "forgetting", "aum", "memorization", "margin", "entropy")


@dataclass(slots=True)
class Member:
    """What one network of the ensemble tells of all n images."""

    trained: BoolArray
    """(n,) whether it trains on the image."""
    early_error: F32
    """(n,) norm of softmax - one-hot after the early epoch."""
    visits: I64
    """(n,) how often the image was in a batch."""
    right: I64
    """(n,) how often it was answered rightly then."""
    forgotten: I64
    """(n,) changes from right to wrong between visits."""
    margin_sum: F64
    """(n,) sum over visits of (logit of the class - largest other logit)."""
    final: F32
    """(n, 10) softmax of the finished network."""


def train_member(data: Labelled, recipe: Recipe, number: int) -> Member:
    """`Member` number ``number`` of the ensemble: the same whenever it is trained.

    Cost: SHARE of a full run, and two passes without gradients over all images.
    """
    n = len(data.labels)
    trained = np.zeros(n, bool)
    trained[np.random.default_rng(number).choice(n, round(SHARE * n), replace=False)] = True
    zeros = [np.zeros(n, np.int64) for _ in range(3)]
    member = Member(trained, np.zeros(n, np.float32), *zeros, np.zeros(n), np.zeros((n, CLASSES), np.float32))
    last = np.zeros(n, bool)

    def watch(_epoch: int, rows: I64, logits: Tensor) -> None:
        margins = _margins(logits.numpy().astype(np.float64), data.labels[rows])
        right = margins > 0
        member.visits[rows] += 1
        member.right[rows] += right
        member.forgotten[rows] += last[rows] & ~right
        member.margin_sum[rows] += margins
        last[rows] = right

    def early(epoch: int, net: nn.Module) -> None:
        if epoch == min(EARLY_EPOCH, recipe.epochs):
            wrong = softmax(predict(net, data.pixels))
            wrong[np.arange(n), data.labels] -= 1
            member.early_error[:] = np.linalg.norm(wrong, axis=1)

    net = train(data, np.flatnonzero(trained), recipe, seed=number, after_step=watch, after_epoch=early)
    member.final[:] = softmax(predict(net, data.pixels))
    return member


def ensemble_scores(members: list[Member], labels: I64) -> dict[str, F32]:
    """(n,) float32 scores of every name in `ENSEMBLE_SCORES`, larger = harder, finite."""
    trained = np.stack([member.trained for member in members])
    finals = np.stack([member.final for member in members]).astype(np.float64)
    right = finals.argmax(2) == labels
    inside, outside = _mean_where(right, trained), _mean_where(right, ~trained)
    unseen = _mean_where(finals, ~trained)
    visits = np.maximum(sum(member.visits for member in members), 1)
    never = (sum(member.right for member in members) == 0) & trained.any(0)
    forgotten = sum(member.forgotten for member in members) / np.maximum(trained.sum(0), 1)
    found = {
        "el2n": np.mean([member.early_error for member in members], axis=0),
        "forgetting": np.where(never, forgotten.max() + 1, forgotten),
        "aum": -sum(member.margin_sum for member in members) / visits,
        "memorization": inside - outside,
        "margin": -_margins(unseen, labels),
        "entropy": -(unseen * np.log(np.maximum(unseen, 1e-12))).sum(1),
    }
    return {name: np.asarray(score, np.float32) for name, score in found.items()}


def supervised_prototypes(embeddings: F16 | F32, labels: I64) -> F32:
    """(n,) float32 cosine distances of unit embeddings (n, d) to the mean of their class."""
    means = np.stack([unit_rows(embeddings[labels == c]).mean(0) for c in range(labels.max() + 1)])
    return pair_distance(embeddings, means.astype(np.float32), labels.astype(np.int32), cosine=True)


def save_member(member: Member, path: Path) -> None:
    """Keep a member as an ``.npz`` file."""
    np.savez(path, **{name: getattr(member, name) for name in Member.__dataclass_fields__})


def load_member(path: Path) -> Member:
    """The member kept at ``path``."""
    with np.load(path, allow_pickle=False) as held:
        return Member(**{name: held[name] for name in Member.__dataclass_fields__})


def softmax(logits: F32) -> F32:
    """(n, c) float32 probabilities."""
    return torch.from_numpy(logits).softmax(1).numpy()


def _margins(scores: F64, labels: I64) -> F64:
    """(n,) score of the class minus the largest other score."""
    own = scores[np.arange(len(labels)), labels]
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return own - others.max(1)


def _mean_where(values: np.ndarray, where: BoolArray) -> F64:
    """Mean over the first axis of the values that ``where`` (members, n) names; of all where it names none."""
    where = where | ~where.any(0)
    weight = where.reshape(*where.shape, *[1] * (values.ndim - 2)).astype(np.float64)
    return (values * weight).sum(0) / weight.sum(0)
