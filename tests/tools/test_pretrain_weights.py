"""Weights of a selection decide how often pretraining sees an image; without any, each is seen once an epoch."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain.images import find_selection, load_images, read_weights
from pretrain.training import Trainer, draw_order

import sspruning
from sspruning.config import load_config
from sspruning.errors import DataError, StoreError

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 100)), min_size=1, max_size=30).filter(any)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(weights, seed=0):
    drawn = draw_order(len(weights), torch.tensor(weights, dtype=torch.float64), seeded(seed))
    assert drawn.dtype == torch.int64
    assert len(drawn) == len(weights)
    return torch.bincount(drawn, minlength=len(weights)).tolist()


@given(WEIGHTS, st.integers(0, 2**31))
def test_each_image_is_drawn_as_often_as_its_share_rounded_up_or_down(weights, seed):
    for weight, count in zip(weights, counts(weights, seed), strict=True):
        share = weight / sum(weights) * len(weights)
        assert math.floor(share - 1e-9) <= count <= math.ceil(share + 1e-9)


@given(st.integers(1, 200), st.sampled_from([None, 1.0, 0.25, 3.0]), st.integers(0, 2**31))
def test_equal_weights_or_none_draw_each_image_once(count, weight, seed):
    weights = None if weight is None else torch.full((count,), weight, dtype=torch.float64)
    assert draw_order(count, weights, seeded(seed)).sort().values.tolist() == list(range(count))


def test_over_many_epochs_every_image_has_its_share():
    weights = [0.0, 0.3, 1.0, 1.0, 2.7, 0.1]
    mean = np.mean([counts(weights, seed) for seed in range(2000)], axis=0)
    assert np.allclose(mean, np.array(weights) / sum(weights) * 6, atol=0.04)


def test_the_order_follows_the_generator_alone():
    for weights in (None, torch.rand(50, generator=seeded(9), dtype=torch.float64)):
        one, same, other = (draw_order(50, weights, seeded(seed)).tolist() for seed in (3, 3, 4))
        assert one == same != other


def test_the_last_place_rounded_up_falls_on_no_image_without_weight(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert counts([1.0, 1.0, 0.0]) == [1, 2, 0]


# from a selection to what is seen


@pytest.fixture
def pruned(photographs, tmp_path):
    """Folder of pruned shards, 32 of 40 images kept, with their selection."""
    overrides = ["encoder.name=pixels", "cluster.n_clusters=4", "select.keep_fraction=0.8", "execution.executor=inline"]
    paths = [f"corpus.input={photographs}", f"paths.run_dir={tmp_path / 'run'}", f"paths.output={tmp_path / 'pruned'}"]
    sspruning.prune(load_config(None, [*overrides, *paths]))
    return tmp_path / "pruned"


def reweight(pruned, weight):
    """Weights by key, now in the folder's selection: ``weight(number)`` of the number-th kept sample."""
    path = pruned / ".sspruning" / "selection.parquet"
    table = pq.read_table(path)
    kept = table.filter(table.column("kept")).column("key").to_pylist()
    weights = {key: weight(number) for number, key in enumerate(kept)}
    column = pa.array([weights.get(key, 1.0) for key in table.column("key").to_pylist()], pa.float32())
    place = table.schema.get_field_index("weight")
    changed = table.set_column(place, table.schema.field("weight"), column)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    return weights


@pytest.fixture
def seen(monkeypatch):
    """Images that training steps were given, as bytes, one list for each epoch."""
    epochs = []
    step, epoch = Trainer._step, Trainer._train_epoch

    def watched_epoch(self, started):
        epochs.append([])
        return epoch(self, started)

    def watched_step(self, batch, number, generator):
        epochs[-1] += [image.numpy().tobytes() for image in batch]
        return step(self, batch, number, generator)

    monkeypatch.setattr(Trainer, "_train_epoch", watched_epoch)
    monkeypatch.setattr(Trainer, "_step", watched_step)
    return epochs


def images_of(pruned):
    loaded = load_images([str(pruned)], suffixes=["jpg"], cache_px=16, memory_bytes=1 << 30)
    return {key: pixels.tobytes() for key, pixels in zip(loaded.keys, loaded.pixels, strict=True)}


def test_weights_of_the_selection_beside_pruned_shards_are_honoured(pruned, tool, seen, tmp_path):
    weights = reweight(pruned, lambda number: 0.0 if number % 4 == 0 else 2.0 if number % 4 == 1 else 1.0)
    images = images_of(pruned)

    assert "selection.parquet: 0 to 2" in tool(pruned, "--out", tmp_path / "out")

    assert len(images) == len(set(images.values())) == 32
    for epoch in seen:
        assert {key: epoch.count(image) for key, image in images.items()} == weights


def test_a_selection_may_be_ignored(pruned, tool, seen, tmp_path):
    reweight(pruned, lambda number: float(number > 0))
    printed = tool(pruned, "--out", tmp_path / "out", "--selection", "none", "--epochs", 1)
    assert "weights of" not in printed
    assert sorted(seen[0]) == sorted(images_of(pruned).values())


def test_equal_weights_change_no_byte(pruned, tool, tmp_path):
    assert "all alike" in tool(pruned, "--out", tmp_path / "with")
    tool(pruned, "--out", tmp_path / "without", "--selection", "none")
    files = [tmp_path / name / "encoder.safetensors" for name in ("with", "without")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_images_that_the_selection_did_not_keep_are_a_data_error(pruned, photographs, tool, tmp_path):
    selection = pruned / ".sspruning" / "selection.parquet"
    printed = tool(photographs, "--out", tmp_path / "out", "--selection", selection, code=3)
    assert "8 of 40 images are not among its kept samples" in printed
    assert "--selection none" in printed
    assert "no selection here" in tool(photographs, "--out", tmp_path, "--selection", tmp_path / "absent", code=3)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_weights_that_are_none_are_a_data_error(bad, pruned):
    keys = list(reweight(pruned, lambda number: bad if number == 5 else 1.0))
    with pytest.raises(DataError, match="expected finite numbers"):
        read_weights(find_selection([str(pruned)]), keys)


def test_a_selection_without_any_weight_is_a_data_error(pruned):
    keys = list(reweight(pruned, lambda _: 0.0))
    with pytest.raises(DataError, match="not all 0"):
        read_weights(find_selection([str(pruned)]), keys)


def test_shards_that_were_not_pruned_have_no_selection(photographs):
    assert find_selection([str(photographs)]) is None


def test_a_checkpoint_belongs_to_its_weights(tiny, tmp_path):
    pixels = torch.randint(0, 256, (32, 16, 16, 3), generator=seeded(), dtype=torch.uint8)
    weights = torch.rand(32, generator=seeded(), dtype=torch.float64)

    def trainer(own):
        return Trainer(tiny(), pixels, tmp_path, lambda _: None, own)

    next(trainer(weights).epochs())

    assert trainer(weights.clone()).epoch == 1
    for other in (weights.flip(0), weights * 2, None):
        with pytest.raises(StoreError, match="other settings, weights or images"):
            trainer(other)


def test_without_weights_the_fingerprint_is_that_of_settings_and_number(tiny):
    assert tiny().fingerprint(32, None) == tiny().fingerprint(32) != tiny().fingerprint(33)
    assert tiny().fingerprint(32, torch.ones(32)) != tiny().fingerprint(32)
