"""timm reads pruned shards by ``_info.json``, and trains on them."""

import json
import warnings

import pytest
import torch
from timm.data import create_dataset, create_loader

from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.timm_wds import TIMM

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_the_index_has_all_that_its_reader_asks_for(folder):
    made = folder("captioned")
    info = json.loads((made.path / "_info.json").read_text())["splits"]["train"]
    names = [f"shard-{number:06d}.tar" for number in range(3)]
    assert info == {"name": "train", "num_samples": 42, "filenames": names, "shard_lengths": [14, 14, 14]}


def test_one_step_of_training_with_its_own_loader_and_model(folder):
    import timm

    made = folder("captioned")
    dataset = create_dataset("wds/pruned", root=str(made.path), split="train", is_training=True, batch_size=8)
    assert len(dataset) == 48  # whole batches
    loader = create_loader(
        dataset,
        input_size=(3, 32, 32),
        batch_size=8,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    images, labels = next(iter(loader))
    assert images.shape == (8, 3, 32, 32)
    assert set(labels.tolist()) <= {0, 1, 2, 3}
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert any((old != new).any() for old, new in zip(before, model.parameters(), strict=True))


def test_samples_without_a_class_are_an_obstacle_and_are_not_read(folder):
    made = folder("unlabeled")
    [obstacle] = TIMM.obstacles(made.output)
    assert "42 of 42 samples have no .cls" in obstacle
    [found] = check_trainer(made.path, ["timm"])
    assert (found.ok, found.n_read, found.n_lost) == (False, 0, 42)
    assert "cls" in found.heard  # what it logs


@pytest.mark.parametrize("how", ["cluster", "zero"])
def test_the_cure_of_that_obstacle_cures_it(folder, how):
    made = folder("unlabeled", f"write.cls={how}")
    assert TIMM.obstacles(made.output) == []
    [found] = check_trainer(made.path, ["timm"])
    assert found.ok, found


def test_images_under_suffixes_that_it_does_not_look_for_are_named_to_it(folder):
    made = folder("mixed", "write.cls=zero")
    assert "--input-key 'jpg;png;webp;jpeg'" in TIMM.command(made.output)
    [found] = check_trainer(made.path, ["timm"])
    assert found.ok, found
    assert "--input-key" not in TIMM.command(folder("captioned").output)


def test_an_index_of_other_shards_is_found_out(folder, tmp_path):
    import shutil

    made = folder("captioned")
    shutil.copytree(made.path, tmp_path / "pruned")
    info = tmp_path / "pruned" / "_info.json"
    info.write_text(info.read_text().replace('"num_samples": 42', '"num_samples": 40'))
    [found] = check_trainer(tmp_path / "pruned", ["timm"])
    assert not found.ok
    assert "_info.json counts 40 samples" in found.problem


def test_nothing_is_warned_of_where_nothing_is_wrong(folder):
    with warnings.catch_warnings(record=True) as heard:
        [found] = check_trainer(folder("captioned").path, ["timm"])
    assert found.heard == ""
    assert not heard
