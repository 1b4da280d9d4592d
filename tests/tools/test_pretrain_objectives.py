"""The objectives of pretraining: their definitions on inputs made by hand, and that each of them teaches the trunk."""

import copy
import json
import math

import pytest
import torch
from pretrain.objectives import BYOL, OBJECTIVES, BarlowTwins, MoCo, SimCLR, SwAV, VICReg
from pretrain.settings import Settings
from pretrain.training import Trainer
from torch import nn

from sspruning.errors import UsageError

T = 0.2
LOCAL = {name for name in OBJECTIVES if OBJECTIVES.resolve(name).takes_local}


def made(kind):
    torch.manual_seed(0)
    return kind(nn.Identity(), 4, Settings(temperature=T))


def corners(count, width=128):
    """(count, width): unit vectors at right angles to each other."""
    return torch.eye(width)[:count]


def evened(count, width):
    """(count, width): centred, every dimension with variance 1, no two correlated."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis, _ = torch.linalg.qr(rows - rows.mean(0))
    return (basis * math.sqrt(count - 1)).float()


@pytest.fixture
def pixels():
    noise = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, size=16, mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_trains_the_trunk_with_finite_loss(name, tiny, pixels, tmp_path):
    local = {"local_crops": 2, "local_px": 16} if name in LOCAL else {}
    trainer = Trainer(tiny(objective=name, learning_rate=0.05, **local), pixels, tmp_path, lambda _: None)
    before = copy.deepcopy(trainer.trunk.state_dict())

    assert list(trainer.epochs()) == [1, 2]

    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(loss) for loss in losses)
    moved = [key for key, value in trainer.trunk.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) == len(before)
    assert all(bool(value.isfinite().all()) for value in trainer.trunk.state_dict().values())


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_gets_better_at_what_it_asks_for(name, tiny, pixels, tmp_path):
    trainer = Trainer(tiny(objective=name, learning_rate=0.02), pixels, tmp_path, lambda _: None)
    trainer.objective.train()
    views = trainer._views(pixels[:16], torch.Generator().manual_seed(0))
    losses = []
    for _ in range(12):
        loss = trainer.objective.loss(trainer.objective(*views))
        for optimizer, _ in trainer.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, _ in trainer.optimizers:
            optimizer.param_groups[0]["lr"] = 0.02
            optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0]


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - LOCAL))
def test_local_crops_are_refused_by_objectives_that_do_not_use_them(name, tiny, pixels, tmp_path):
    with pytest.raises(UsageError, match="uses no local crops"):
        Trainer(tiny(objective=name, local_crops=2), pixels, tmp_path, lambda _: None)


def test_simclr_is_low_exactly_where_each_view_finds_its_partner():
    loss, first = made(SimCLR).loss, corners(8)
    found = loss([torch.cat([first, first])])
    assert found.item() == pytest.approx(math.log(1 + 14 * math.exp(-1 / T)), rel=1e-4)
    assert loss([torch.cat([first, first.roll(1, 0)])]) > found + 3
    assert loss([torch.cat([first, first]) * 7]).item() == pytest.approx(found.item(), rel=1e-4)  # length is nothing


def test_simclrs_local_views_look_for_their_own_image_and_do_not_move_it():
    loss, first = made(SimCLR).loss, corners(8).requires_grad_()
    both = torch.cat([first, first])
    alone, extra = loss([both]), math.log(1 + 7 * math.exp(-1 / T))
    assert loss([both, torch.cat([first, first, first])]).item() == pytest.approx(alone.item() + extra, rel=1e-4)
    assert loss([both, first.roll(1, 0)]) > alone + 4
    with_local = torch.autograd.grad(loss([both, corners(8).roll(1, 0)]), first, retain_graph=True)[0]
    assert torch.equal(with_local, torch.autograd.grad(alone, first)[0])


def test_moco_is_low_exactly_where_each_prediction_finds_its_target():
    loss, rows = made(MoCo).loss, corners(8)
    found = loss([torch.cat([rows, rows]), torch.cat([rows, rows])])
    assert found.item() == pytest.approx(math.log(1 + 7 * math.exp(-1 / T)), rel=1e-4)
    assert loss([torch.cat([rows, rows]), torch.cat([rows, rows]).roll(1, 0)]) > found + 3


def test_byol_is_nothing_for_equal_directions_and_four_for_opposite_ones():
    loss, rows = made(BYOL).loss, torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    both = torch.cat([rows, rows])
    assert loss([both, 3 * both]).item() == pytest.approx(0, abs=1e-5)
    assert loss([both, -both]).item() == pytest.approx(4, abs=1e-5)
    swapped = torch.cat([rows[:8], -rows[:8]])  # the target that counts is the other view's
    assert loss([swapped, swapped]).item() == pytest.approx(4, abs=1e-5)


def test_targets_follow_what_is_trained_and_stand_still_at_the_end():
    objective = made(BYOL)
    new, old = objective.head[0].weight, objective.target[1][0].weight
    with torch.no_grad():
        new.add_(1)
    before = old.clone()
    objective.after_step(1.0)
    assert torch.equal(old, before)
    objective.after_step(1e-9)
    assert torch.allclose(old - before, torch.full_like(old, 1 - BYOL.MOMENTUM), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in objective.target.parameters())


def test_vicreg_is_nothing_for_equal_views_of_even_uncorrelated_dimensions():
    loss, rows = made(VICReg).loss, evened(64, 8)
    assert loss([torch.cat([rows, rows])]).item() == pytest.approx(0, abs=1e-6)
    assert loss([torch.zeros(128, 8)]).item() == pytest.approx(0.99, abs=1e-3)  # the hinge of both views
    assert loss([torch.cat([rows, rows + 1])]).item() == pytest.approx(1, abs=1e-5)  # the squared difference
    copies = rows[:, :1].expand(-1, 8)  # 56 covariances of 1, of 8 dimensions, in both views, a 25th each
    assert loss([torch.cat([copies, copies])]).item() == pytest.approx(2 * 56 / 8 / 25, rel=1e-4)


def test_barlow_is_least_where_the_correlations_are_those_of_the_identity():
    loss, rows = made(BarlowTwins).loss, evened(64, 8)
    assert loss([torch.cat([rows, rows])]).item() < 1e-4
    assert loss([torch.cat([rows, 5 * rows + 3])]).item() < 1e-4  # scale and offset are nothing
    assert loss([torch.cat([rows, rows.roll(1, 1)])]).item() == pytest.approx(0.025 * 8 * 1.005, rel=0.05)
    copies = rows[:, :1].expand(-1, 8)
    assert loss([torch.cat([copies, copies])]).item() == pytest.approx(0.025 * 0.005 * 56, rel=0.05)


def test_swavs_codes_sum_to_one_and_use_all_prototypes_alike():
    objective = made(SwAV)
    scores = torch.randn(600, SwAV.PROTOTYPES, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = objective._codes(scores + torch.linspace(0, 0.2, SwAV.PROTOTYPES))  # which favour the last ones
    assert torch.allclose(codes.sum(1), torch.ones(600), atol=1e-5)
    assert (codes.sum(0) - 600 / SwAV.PROTOTYPES).abs().max() < 0.2
    assert torch.allclose(objective._codes(torch.ones(4, 300)), torch.full((4, 300), 1 / 300))


def test_swav_is_lower_where_the_views_belong_to_the_same_prototypes():
    objective = made(SwAV)
    rows = nn.functional.normalize(objective.prototypes.detach()[:16])
    together, apart = torch.cat([rows, rows]), torch.cat([rows, rows.roll(1, 0)])
    assert objective.loss([together]) < objective.loss([apart]) - 1
    assert objective.loss([together, rows]) < objective.loss([together, rows.roll(1, 0)]) - 0.5
