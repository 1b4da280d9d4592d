"""Muon: steps near orthogonal, and which parameters take them."""

import pytest
import timm
import torch
from pretrain.objectives import OBJECTIVES
from pretrain.optimizers import Muon, make_optimizers
from torch import nn


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8), (16, 4, 3, 3), (64, 3, 3, 3)])
def test_a_step_is_near_orthogonal_whatever_the_gradients_size(shape):
    start = torch.zeros(shape)
    for size in (1e-4, 1.0, 1e4):
        parameter = nn.Parameter(start.clone())
        parameter.grad = size * torch.randn(shape, generator=torch.Generator().manual_seed(1))
        Muon([parameter], lr=1.0, weight_decay=0.0).step()
        move = parameter.detach().flatten(1)
        values = torch.linalg.svdvals(move) / max(1, move.shape[0] / move.shape[1]) ** 0.5
        assert 0.6 < values.median() <= values.max() < 1.3  # four Newton-Schulz steps of Jordan's reach 0.7 to 1.2
        assert (move * parameter.grad.flatten(1)).sum() < 0  # downhill


def test_weight_decay_shrinks_and_parameters_without_gradient_stay():
    held, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    held.grad = torch.zeros(4, 4)
    Muon([held, still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(held, torch.full((4, 4), 0.95))
    assert torch.equal(still, torch.ones(4, 4))


def shares(objective, settings):
    """Names of the parameters by the optimiser that moves them."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return [
        {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer, _ in make_optimizers(objective, settings)
    ]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_sgd_moves_first_layer_and_vectors_and_muon_the_rest(name, tiny):
    settings = tiny(optimizer="muon", objective=name)
    trunk = timm.create_model("resnet10t", num_classes=0, **settings.model_kwargs)
    objective = OBJECTIVES.resolve(name)(trunk, 16, settings)

    plain, turned = shares(objective, settings)

    trained = {key: value for key, value in objective.named_parameters() if value.requires_grad}
    assert plain | turned == set(trained)
    assert plain & turned == set()
    assert {key for key in plain if trained[key].ndim > 1} == {"trunk.conv1.0.weight"}


def test_muon_leaves_the_embeddings_of_a_vit_to_sgd(tiny):
    settings = tiny(optimizer="muon")
    objective = OBJECTIVES.resolve("simclr")(timm.create_model("test_vit", num_classes=0, img_size=32), 64, settings)
    plain, _ = shares(objective, settings)
    kept = {"trunk.cls_token", "trunk.pos_embed", "trunk.patch_embed.proj.weight"}
    assert {key for key in plain if objective.get_parameter(key).ndim > 1} == kept


def test_sgd_alone_moves_everything(tiny):
    objective = OBJECTIVES.resolve("simclr")(timm.create_model("test_resnet", num_classes=0), 64, tiny())
    assert [len(names) for names in shares(objective, tiny())] == [len(list(objective.parameters()))]
