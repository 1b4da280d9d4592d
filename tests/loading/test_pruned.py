"""A pass over pruned shards is an epoch: every sample once, in an order of its own, from any place in it on."""

import gc
import pickle
import shutil
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
import webdataset as wds
from corpora import make_shard

import sspruning
from sspruning.config import load_config
from sspruning.errors import ShardError, StoreError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # DataLoader forks
    pytest.mark.filterwarnings("ignore:This DataLoader will create.*:UserWarning"),  # a machine with one core
]

KEYS = [f"{number:06d}" for number in range(23)]  # of the folder `pruned`


def key(sample):
    return sample["__key__"]


@pytest.fixture
def ranks(monkeypatch):
    """Return ``ranks(n)``: makes this process each of n ranks in turn."""

    def each(n):
        for rank in range(n):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(n))
            yield rank

    return each


# what comes out


def test_samples_are_those_that_webdataset_reads(pruned):
    shards = [str(path) for path in sorted(pruned.glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        wanted = [
            {name: value for name, value in sample.items() if name != "__local_path__"}
            for sample in wds.WebDataset(shards, shardshuffle=False)
        ]
        gc.collect()
    assert list(sspruning.webdataset(pruned, shuffle=0)) == wanted
    for sample in sspruning.webdataset(pruned, shuffle=9):
        assert sample in wanted


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_has_every_sample_once_and_its_own_order(workers, pruned, keys):
    """And the same again for the same seed."""
    dataset, same = (sspruning.webdataset(pruned, shuffle=5, seed=4) for _ in range(2))
    epochs = [keys(dataset, workers) for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == KEYS
    assert epochs[0] != epochs[1]
    assert dataset.epoch == 1
    same.set_epoch(1)
    assert keys(same, workers) == epochs[1]
    other = sspruning.webdataset(pruned, shuffle=5, seed=5)
    other.set_epoch(1)
    assert keys(other, workers) != epochs[1]


def test_workers_that_live_on_go_from_epoch_to_epoch_and_hear_of_changes(pruned, keys):
    fresh, dataset = (sspruning.webdataset(pruned, shuffle=5) for _ in range(2))
    wanted = [keys(fresh, 2) for _ in range(2)]
    loader = torch.utils.data.DataLoader(dataset.map(key), batch_size=None, num_workers=2, persistent_workers=True)
    assert [list(loader), list(loader)] == wanted
    dataset.set_epoch(0)
    assert list(loader) == wanted[0]
    dataset.resume(epoch=1, samples=7)
    assert list(loader) == wanted[1][7:]


def test_every_sample_comes_once_over_ranks_and_workers_even_if_there_are_more_of_them_than_shards(
    pruned, keys, ranks, monkeypatch
):
    found = []
    for _ in ranks(3):
        dataset = sspruning.webdataset(pruned, shuffle=5)
        own = keys(dataset, 2)
        assert len(own) == len(dataset)
        found += own
    assert sorted(found) == KEYS

    found, lengths = [], []
    monkeypatch.setenv("NUM_WORKERS", "4")
    for _ in ranks(9):
        dataset = sspruning.webdataset(pruned, equal_ranks=True)
        lengths.append(len(dataset))
        for worker in range(4):
            monkeypatch.setenv("WORKER", str(worker))
            dataset.set_epoch(0)
            found += [key(sample) for sample in dataset]
    assert set(lengths) == {2}
    assert len(set(found)) == len(found) == 18


def test_the_rank_may_be_given(pruned):
    parts = [sspruning.webdataset(pruned, rank=rank, world_size=2) for rank in range(2)]
    assert [len(part) for part in parts] == [12, 11]
    assert sorted(key(sample) for part in parts for sample in part) == KEYS


def test_without_shuffling_epochs_are_alike_and_in_the_order_of_the_shards(pruned):
    dataset = sspruning.webdataset(pruned, shuffle=0)
    assert [key(sample) for sample in dataset] == [key(sample) for sample in dataset] == KEYS


def test_samples_move_by_no_more_than_what_is_held(pruned):
    """Within the order of the shards, which is another one in each epoch."""
    firsts = set()
    for epoch in range(8):
        dataset = sspruning.webdataset(pruned, shuffle=1, seed=epoch)
        found = [key(sample) for sample in dataset]
        firsts.add(int(found[0]))
        order = [number for shard in _runs(found) for number in shard]
        assert all(abs(order.index(number) - found.index(number)) <= 1 for number in KEYS)
    assert len(firsts) > 2


def _runs(found):
    """Keys of the shards in the order in which these begin."""
    shards = [KEYS[0:5], KEYS[5:12], KEYS[12:15], KEYS[15:23]]
    return sorted(shards, key=lambda shard: sum(found.index(number) for number in shard) / len(shard))


def test_all_later_stages_are_webdatasets_own(pruned):
    dataset = sspruning.webdataset(pruned, shuffle=5).decode("rgb8").to_tuple("__key__", "jpg", "cls").batched(4)
    assert isinstance(dataset, wds.DataPipeline)
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2))
    assert sorted(name for names, _, _ in batches for name in names) == KEYS
    for names, images, labels in batches:
        assert images.shape[1:] == (32, 32, 3)
        assert [int(name) % 10 for name in names] == list(labels)


def test_its_stages_can_be_put_into_another_pipeline(pruned):
    stages = sspruning.webdataset(pruned, shuffle=5).map(key).pipeline
    assert list(wds.DataPipeline(*stages)) == list(sspruning.webdataset(pruned, shuffle=5).map(key))


# length


@pytest.mark.parametrize("workers", [0, 2])
def test_the_length_is_the_number_of_batches_in_any_number_of_workers(workers, pruned):
    """A loader warns, which is an error here, when more batches come than it has said."""
    loader = torch.utils.data.DataLoader(
        sspruning.webdataset(pruned, batch_size=4).map(key), batch_size=4, num_workers=workers
    )
    assert len(loader) == len(list(loader)) == 6
    batched = sspruning.webdataset(pruned).map(key).batched(4, collation_fn=list)
    loader = torch.utils.data.DataLoader(batched, batch_size=None, num_workers=workers)
    assert len(loader) == len(list(loader)) == 6


def test_what_changes_the_number_of_samples_leaves_no_length(pruned):
    dataset = sspruning.webdataset(pruned).map(key)
    assert len(dataset.shuffle(4)) == 23
    assert len(dataset.batched(5, partial=False)) == len(list(dataset.batched(5, partial=False))) == 4
    assert len(dataset.listed(5)) == len(list(dataset.listed(5))) == 5
    for changed in (
        dataset.select(bool),
        dataset.slice(3),
        dataset.rsample(0.5),
        dataset.listed(2).unlisted(),
        dataset.listed(2).listed(2),
        dataset.shuffle(1).repeat(2),
    ):
        with pytest.raises(TypeError, match="length is not known"):
            len(changed)


def test_repeated_epochs_each_have_every_sample_and_another_order(pruned):
    found = [key(sample) for sample in sspruning.webdataset(pruned, shuffle=5).repeat(2)]
    assert sorted(found[:23]) == sorted(found[23:]) == KEYS
    assert found[:23] != found[23:]
    assert len(list(sspruning.webdataset(pruned).with_epoch(50))) == 50


# going on


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_is_as_if_there_had_been_no_stop(workers, pruned, keys):
    dataset = sspruning.webdataset(pruned, shuffle=5, seed=2)
    whole = [keys(dataset, workers) for _ in range(2)]
    for samples in (1, 8, 22):
        again = sspruning.webdataset(pruned, shuffle=5, seed=2)
        again.resume(epoch=0, samples=samples)
        assert keys(again, workers) == whole[0][samples:]
        assert keys(again, workers) == whole[1]
    again.resume(epoch=0, samples=23)  # nothing is left of it
    assert keys(again, workers) == whole[1]


def test_going_on_is_exact_at_every_sample_of_every_rank(pruned, ranks):
    for _ in ranks(2):
        dataset = sspruning.webdataset(pruned, shuffle=5)
        dataset.set_epoch(6)
        whole = [key(sample) for sample in dataset]
        for samples in range(len(whole)):
            dataset.resume(epoch=6, samples=samples)
            assert [key(sample) for sample in dataset] == whole[samples:]


@pytest.mark.parametrize("inside", [False, True])
def test_whole_batches_are_gone_on_with(inside, pruned):
    def loader(batches=0):
        dataset = sspruning.webdataset(pruned, shuffle=5, batch_size=4).map(key)
        dataset = dataset.batched(4, collation_fn=list) if inside else dataset
        dataset.resume(epoch=2, samples=4 * batches)
        return torch.utils.data.DataLoader(dataset, batch_size=None if inside else 4, num_workers=2)

    whole = list(loader())
    for batches in (1, 4, 5):
        assert list(loader(batches)) == whole[batches:]


def test_what_cannot_be_gone_on_with_is_refused(pruned):
    dataset = sspruning.webdataset(pruned, batch_size=4)
    for samples in (-1, 24):
        with pytest.raises(UsageError, match="23 on this rank"):
            dataset.resume(epoch=0, samples=samples)
    with pytest.raises(UsageError, match="no whole number of batches of 4"):
        dataset.resume(epoch=0, samples=6)
    dataset.resume(epoch=0, samples=4)
    with pytest.raises(UsageError, match="batches of 5"):
        iter(dataset.batched(5))
    dataset.resume(epoch=0, samples=4)
    with pytest.raises(UsageError, match="repeat or with_epoch"):
        iter(dataset.map(key).repeat(2))


@pytest.mark.parametrize("inside", [False, True])
def test_the_state_says_where_a_reader_is(inside, pruned):
    """As torchdata's StatefulDataLoader asks for it after each batch; batched in the pipeline or behind it."""

    def new():
        dataset = sspruning.webdataset(pruned, shuffle=5, batch_size=1 if inside else 4).map(key)
        return dataset.batched(4, collation_fn=list) if inside else dataset

    def batches(stream):
        while batch := next(stream, None) if inside else list(islice(stream, 4)):
            yield batch

    dataset, states, whole = new(), [new().state_dict()], []
    for batch in batches(iter(dataset)):
        whole.append(batch)
        states.append(dataset.state_dict())
    assert len(whole) == 6
    for number, state in enumerate(states):
        again = new()
        again.load_state_dict(state)
        assert list(batches(iter(again))) == whole[number:]
        assert sorted(name for batch in batches(iter(again)) for name in batch) == KEYS
        assert again.epoch == 1


# weights


def test_weights_are_those_of_the_selection(tmp_path, small):
    """Of a folder that `select` wrote."""
    small.corpus(tmp_path / "shards", shards=2)
    config = load_config(None, ["encoder.name=pixels", "cluster.n_clusters=4", "execution.executor=inline"])
    sspruning.embed(str(tmp_path / "shards"), tmp_path / "store", config=config)
    found = sspruning.select(tmp_path / "store", output=tmp_path / "pruned", config=config)
    n = found.selection.n_embedded
    np.save(tmp_path / "weights.npy", np.arange(n) / 8)
    order = [name for shard in range(2) for name in small.samples(shard, 20)]

    plain = list(sspruning.webdataset(tmp_path / "pruned"))
    assert len(plain) == found.selection.n_kept < n == 40
    assert all("__weight__" not in sample for sample in plain)
    assert {sample["__weight__"] for sample in sspruning.webdataset(tmp_path / "pruned", weights=True)} == {1.0}
    for sample in sspruning.webdataset(tmp_path / "pruned", weights=tmp_path / "weights.npy"):
        assert sample["__weight__"] == order.index(key(sample)) / 8


# copies


def test_it_goes_to_workers_that_share_no_memory_and_keeps_its_rank(pruned, ranks, monkeypatch):
    parts = [pickle.dumps(sspruning.webdataset(pruned, shuffle=3).to_tuple("__key__")) for _ in ranks(2)]
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    copies = [pickle.loads(part) for part in parts]  # noqa: S301
    assert [len(copy) for copy in copies] == [12, 11]
    assert sorted(name for copy in copies for (name,) in copy) == KEYS


@pytest.mark.slow
def test_spawned_workers_read_the_same(pruned, keys):
    forked, spawned = (sspruning.webdataset(pruned, shuffle=5) for _ in range(2))
    for _ in range(2):
        assert keys(spawned, 2, multiprocessing_context="spawn") == keys(forked, 2)


# what cannot be used


def test_numbers_that_make_no_sense_are_refused(pruned):
    for name, value in (("shuffle", -1), ("shuffle", 2.5), ("seed", -1), ("batch_size", 0), ("batch_size", True)):
        with pytest.raises(UsageError, match=f"{name}=.*expected a whole number"):
            sspruning.webdataset(pruned, **{name: value})
    with pytest.raises(UsageError, match="go together"):
        sspruning.webdataset(pruned, rank=0)
    with pytest.raises(UsageError, match="0 <= rank < world_size"):
        sspruning.webdataset(pruned, rank=2, world_size=2)


def test_a_shard_that_is_not_as_the_manifest_says_is_refused(pruned, tmp_path):
    copy = shutil.copytree(pruned, tmp_path / "copy")
    shard = copy / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[1024 * 3 + 100] ^= 1  # in a header or a payload
    data[:512] = bytes(512)
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        list(sspruning.webdataset(copy))
    shard.write_bytes(data[:-512])
    with pytest.raises(StoreError, match=r"shard-000001\.tar: missing, or not the"):
        sspruning.webdataset(copy)
    make_shard(shard, range(5, 12))
    other = make_shard(tmp_path / "x.tar", [5, 6, 7, 8, 9, 10])
    missing = shard.stat().st_size - other.stat().st_size
    shard.write_bytes(other.read_bytes() + bytes(missing))
    with pytest.raises(StoreError, match="has 6 samples, and 7 in the manifest"):
        list(sspruning.webdataset(copy))
