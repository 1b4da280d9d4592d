"""A dataset over the original shards has exactly the kept samples, whole, in any number of workers."""

import gc
import hashlib
import pickle
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from corpora import make_corpus, make_shard, sample_files
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning import loader as module
from sspruning.errors import DataError, StoreError, UsageError
from sspruning.loader import filtered
from sspruning.loading import lookup
from sspruning.records import Selection
from sspruning.storage.artifacts import SELECTION_SCHEMA, save_selection

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # DataLoader forks
    pytest.mark.filterwarnings("ignore:This DataLoader will create.*:UserWarning"),  # a machine with one core
]

KEYS = [f"{number:06d}" for number in range(12)]  # of tiny_corpus
KEPT = {"000001", "000002", "000005", "000006", "000007", "000010"}


def make_selection(path, keys, kept, weight=None, shard="s", settings=None, **facts):
    """A selection of one shard or of two halves, with what the loader reads of it."""
    n = len(keys)
    stays = np.array([key in kept for key in keys], bool)
    zeros = np.zeros(n)
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "shard": pa.array(np.resize(np.repeat(np.atleast_1d(shard), n // 2), n), pa.string()).dictionary_encode(),
            "row": np.arange(n, dtype=np.uint32),
            "centroid": zeros.astype(np.int32),
            "cosine_dist_to_cent": zeros.astype(np.float32),
            "score": zeros.astype(np.float32),
            "rank": np.argsort(np.argsort(~stays, kind="stable")),
            "kept": stays,
            "weight": np.array(np.ones(n) if weight is None else weight, np.float32),
            "reason": pa.array(np.where(stays, "kept", "pruned"), pa.string()),
        }
    ).cast(SELECTION_SCHEMA)
    counts = {"n_embedded": n, "n_kept": int(stays.sum()), **facts}
    save_selection(
        path,
        [table.slice(0, n // 2), table.slice(n // 2)],
        Selection(fingerprint="f", settings=settings or {}, **counts),
    )
    return path


@pytest.fixture(autouse=True)
def _unclosed_shards():
    """Let webdataset leave its files to the garbage collector, as it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture
def selection(tmp_path):
    return make_selection(tmp_path / "selection.parquet", KEYS, KEPT)


@pytest.fixture
def shards(tiny_corpus):
    return [str(path) for path in tiny_corpus]


def load(dataset, workers=0, **options):
    return list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers, **options))


# what comes out


@pytest.mark.parametrize("workers", [0, 2])
def test_exactly_the_kept_samples_come_and_whole(workers, shards, selection):
    found = load(filtered(shards, selection), workers)
    assert sorted(sample["__key__"] for sample in found) == sorted(KEPT)
    for sample in found:
        wanted = {name.partition(".")[2]: content for name, content in sample_files(int(sample["__key__"]))}
        assert {name: data for name, data in sample.items() if not name.startswith("__")} == wanted
        assert sample["__url__"] in shards


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_differs_from_plain_webdataset_but_the_dropped_samples(workers, shards, selection):
    plain = load(webdataset.WebDataset(shards, shardshuffle=False), workers)
    found = load(filtered(shards, selection), workers)
    if workers:  # they take turns, so what is dropped changes whose turn it is
        plain, found = (sorted(samples, key=lambda sample: sample["__key__"]) for samples in (plain, found))
    assert found == [sample for sample in plain if sample["__key__"] in KEPT]


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffling_decoding_and_batching_follow_as_ever(workers, shards, selection):
    dataset = filtered(shards, selection, shardshuffle=3, seed=1, weights=True)
    pipeline = dataset.shuffle(5, seed=2).decode("rgb8").to_tuple("__key__", "jpg", "cls", "__weight__").batched(2)
    batches = load(pipeline, workers)
    assert sorted(key for keys, _, _, _ in batches for key in keys) == sorted(KEPT)
    for keys, images, labels, weights in batches:
        assert images.shape[1:] == (32, 32, 3)
        assert [int(key) % 10 for key in keys] == list(labels)
        assert (np.asarray(weights) == 1).all()


def test_two_epochs_are_alike(shards, selection):
    dataset = filtered(shards, selection)
    assert load(dataset) == load(dataset)


def test_it_is_a_webdataset_that_says_how_long_an_epoch_is(shards, selection):
    dataset = filtered(shards, selection)
    assert isinstance(dataset, webdataset.WebDataset)
    assert (dataset.n_kept, dataset.n_embedded) == (len(KEPT), len(KEYS))
    assert dataset.shuffle(10).n_kept == len(list(dataset)) == len(KEPT)
    with pytest.raises(TypeError):
        len(dataset)


def test_it_goes_to_workers_that_do_not_share_memory(shards, selection):
    copy = pickle.loads(pickle.dumps(filtered(shards, selection, weights=True).shuffle(4)))  # noqa: S301
    assert {sample["__key__"] for sample in copy} == KEPT
    assert copy.n_kept == len(KEPT)


def test_shards_may_lie_anywhere_and_be_called_anything(tmp_path, shards, selection):
    for number, path in enumerate(shards):
        target = tmp_path / "elsewhere" / f"x-{2 - number}.tar"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((tmp_path / path).read_bytes())
    for urls in (target.parent, str(target.parent / "x-{0..2}.tar"), [target.parent / f"x-{i}.tar" for i in range(3)]):
        assert {sample["__key__"] for sample in filtered(urls, selection.parent)} == KEPT


def test_a_shard_without_kept_samples_is_passed_over(shards, tmp_path):
    path = make_selection(tmp_path / "s.parquet", KEYS, {"000011"})
    for workers in (0, 2):
        assert [sample["__key__"] for sample in load(filtered(shards, path), workers)] == ["000011"]


def test_a_resampled_stream_has_kept_samples_only(shards, selection):
    stream = iter(filtered(shards, selection, resampled=True, seed=3))
    assert {next(stream)["__key__"] for _ in range(100)} <= KEPT


@settings(max_examples=12)
@given(kept=st.sets(st.integers(0, 19), min_size=1), bits=st.sampled_from([2, 4, 63]))
def test_keys_with_equal_hashes_are_told_apart(kept, bits, tmp_path_factory):
    """Hashes of 2 or 4 bits let nearly all keys collide, so the exact path answers."""
    folder = tmp_path_factory.mktemp("collide")
    keys = [f"{number:06d}" for number in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        real = lookup._hash
        patch.setattr(lookup, "_hash", lambda key: real(key) & ((2 << bits) - 2))
        path = make_selection(folder / "s.parquet", keys, {keys[i] for i in kept}, np.arange(20))
        shard = make_shard(folder / "s.tar", range(20))
        found = list(filtered(str(shard), path, weights=True))
    assert [(sample["__key__"], sample["__weight__"]) for sample in found] == [(keys[i], i) for i in sorted(kept)]


def test_the_hash_is_the_one_that_the_store_uses_but_for_its_last_bit():
    for key in ("a", "x/é.b", "0" * 4096):
        whole = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        assert lookup._hash(key) == whole - whole % 2


# weights


def test_weights_come_from_the_selection_or_from_an_array_in_its_order(shards, tmp_path):
    path = make_selection(tmp_path / "s.parquet", KEYS, KEPT, np.arange(12) / 4)
    found = {sample["__key__"]: sample["__weight__"] for sample in filtered(shards, path, weights=True)}
    assert found == {key: int(key) / 4 for key in KEPT}
    np.save(tmp_path / "w.npy", np.arange(12)[::-1])
    found = {sample["__key__"]: sample["__weight__"] for sample in filtered(shards, path, weights=tmp_path / "w.npy")}
    assert found == {key: 11.0 - int(key) for key in KEPT}
    assert all("__weight__" not in sample for sample in filtered(shards, path))


@pytest.mark.parametrize("values", [np.zeros(11), np.zeros((12, 1)), np.zeros(12, bool), np.array(["x"] * 12)])
def test_weights_that_do_not_fit_are_refused(values, shards, selection, tmp_path):
    np.save(tmp_path / "w.npy", values)
    with pytest.raises(UsageError, match=r"w\.npy.*expected \(12,\) numbers"):
        filtered(shards, selection, weights=tmp_path / "w.npy")


def test_a_file_that_is_no_array_is_refused(shards, selection, tmp_path):
    (tmp_path / "w.npy").write_bytes(b"\x93NUMPY\x01\x00nonsense")
    for name in ("w.npy", "missing.npy"):
        with pytest.raises(UsageError, match=name):
            filtered(shards, selection, weights=tmp_path / name)


# samples and shards that the selection does not know


def test_samples_without_an_embedding_are_dropped_kept_or_refused(shards, tmp_path):
    known = [key for key in KEYS if key not in {"000003", "000008"}]
    path = make_selection(tmp_path / "s.parquet", known, KEPT)
    assert {sample["__key__"] for sample in filtered(shards, path)} == KEPT
    found = {s["__key__"]: s["__weight__"] for s in filtered(shards, path, unknown="keep", weights=True)}
    assert found == dict.fromkeys({*KEPT, "000003", "000008"}, 1.0)
    with pytest.raises(DataError, match=r"train-000000\.tar: the sample '000003' is not in the selection"):
        list(filtered(shards, path, unknown="refuse"))
    with pytest.raises(UsageError, match="drop, keep or refuse"):
        filtered(shards, path, unknown="ignore")


def test_shards_of_another_corpus_are_no_empty_dataset(tmp_path, selection):
    strangers = make_corpus(tmp_path / "others", shards=4)[3]
    with pytest.raises(DataError, match=r"knows none of 4 samples, the last of them '000015'"):
        load(filtered(str(strangers), selection))


def test_an_endless_stream_of_strangers_ends(tmp_path, selection, monkeypatch):
    monkeypatch.setattr(module, "STRANGERS", 50)
    strangers = make_corpus(tmp_path / "others", shards=4)[3]
    with pytest.raises(DataError, match="knows none of 50 samples"):
        next(iter(filtered(str(strangers), selection, resampled=True)))


def test_one_shard_of_strangers_among_others_is_no_error(tmp_path, selection, monkeypatch):
    monkeypatch.setattr(module, "STRANGERS", 2)
    shards = make_corpus(tmp_path / "others", shards=4)
    assert {sample["__key__"] for sample in filtered([*map(str, shards)], selection)} == KEPT


# keys that have the shard's name in front


PREFIXED = {"key_prefix": "shard_id"}
NAMES = [f"{number:06d}" for number in range(4)]


def in_shard(*shards):
    """Keys of the same four samples in each shard."""
    return [f"{shard}/{name}" for shard in shards for name in NAMES]


def found_in(dataset):
    return [(sample["__url__"][-5:], sample["__key__"]) for sample in dataset]


def test_shards_that_share_keys_are_told_apart_by_their_names(tmp_path):
    urls = [str(make_shard(tmp_path / f"{name}.tar", range(4))) for name in "ba"]
    kept = {"a/000001", "b/000001", "b/000002"}
    path = make_selection(tmp_path / "s.parquet", in_shard("a", "b"), kept, np.arange(8), ["a", "b"], PREFIXED)
    assert found_in(filtered(urls, path)) == [("b.tar", "000001"), ("b.tar", "000002"), ("a.tar", "000001")]
    assert [sample["__weight__"] for sample in filtered(urls, path, weights=True)] == [5, 6, 1]
    assert len(load(filtered(urls, path), workers=2)) == 3


def test_shards_that_share_names_too_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    urls = [str(make_shard(tmp_path / name / "x.tar", range(4))) for name in "ab"]
    kept = {"a+x/000000", "b+x/000003"}
    path = make_selection(tmp_path / "s.parquet", in_shard("a+x", "b+x"), kept, None, ["a+x", "b+x"], PREFIXED)
    assert found_in(filtered(urls, path)) == [("x.tar", "000000"), ("x.tar", "000003")]
    monkeypatch.chdir(tmp_path / "b")
    assert found_in(filtered("x.tar", path)) == [("x.tar", "000003")]
    moved = str(make_shard(tmp_path / "c" / "x.tar", range(4)))
    with pytest.raises(DataError, match=r"c/x\.tar: the selection has several shards of this name, a\+x and b\+x"):
        list(filtered([*urls, moved], path))


def test_shards_under_other_names_are_strangers_where_keys_depend_on_them(tmp_path):
    path = make_selection(tmp_path / "s.parquet", in_shard("a"), {"a/000001"}, None, "a", PREFIXED)
    other = str(make_shard(tmp_path / "renamed.tar", range(4)))
    with pytest.raises(DataError, match="under the names they had"):
        list(filtered(other, path))
    assert len(list(filtered(other, path, unknown="keep"))) == 4


def test_another_mark_of_keys_is_refused(shards, tmp_path):
    path = make_selection(tmp_path / "s.parquet", KEYS, KEPT, settings={"key_prefix": "folder"})
    with pytest.raises(UsageError, match="'folder' in front"):
        filtered(shards, path)


# selections that cannot be used


def test_a_missing_or_damaged_selection_is_refused_before_anything_is_read(shards, selection, tmp_path):
    with pytest.raises(StoreError, match="no selection here"):
        filtered(shards, tmp_path / "none.parquet")
    with pytest.raises(StoreError, match="says 13"):
        filtered(shards, make_selection(tmp_path / "s.parquet", KEYS, KEPT, n_embedded=13))
    data, keys = bytearray(selection.read_bytes()), pq.read_metadata(selection).row_group(0).column(0)
    end = keys.data_page_offset + keys.total_compressed_size
    data[end - 8 : end] = bytes(8)
    selection.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        filtered(shards, selection)


def test_a_folder_without_tars_is_refused(selection, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \.tar files"):
        filtered(tmp_path / "empty", selection)


def test_memory_is_8_bytes_a_sample_and_12_with_weights(tmp_path):
    keys = [f"k{number}" for number in range(5000)]
    path = make_selection(tmp_path / "s.parquet", keys, set(keys[::3]))
    for weights, each in ((False, 8), (True, 12)):
        size = len(pickle.dumps(filtered("x.tar", path, weights=weights)))
        assert each * 5000 <= size < each * 5000 + 4000
