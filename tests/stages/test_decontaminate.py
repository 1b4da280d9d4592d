"""Samples too near to an evaluation set: all are found, none beside them, and nothing is done twice."""

import io
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpora import make_corpus, make_shard, picture, sample_files, tar
from PIL import Image

from sspruning import api
from sspruning.errors import DataError, StoreError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.metrics.distances import unit_rows
from sspruning.records import EncoderSpec
from sspruning.stages import decontaminate as module
from sspruning.stages import nearest
from sspruning.stages.decontaminate import compare, decontaminate
from sspruning.storage.corpus import open_corpus
from sspruning.storage.store import Store

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

PIXELS = EncoderSpec(name="pixels")


def beside(row, cosine, seed=0):
    """A unit row at this cosine to ``row``, up to the rounding to float16."""
    wide = unit_rows(row[None])[0]
    off = np.random.default_rng(seed).normal(size=len(wide))
    off -= (off @ wide) * wide
    off /= np.linalg.norm(off)
    return (cosine * wide + np.sqrt(1 - cosine**2) * off).astype(np.float16)


@pytest.fixture
def stores(tmp_path):
    """A store of 200 samples, and an evaluation store of 40 with copies of rows 3 and 150 at 0.99 and 0.93."""
    rows = planted(200, 64, groups=200, spread=3.0)
    evals = planted(40, 64, groups=40, spread=3.0, seed=9)
    evals[7], evals[31] = beside(rows[3], 0.99), beside(rows[150], 0.93)
    return (
        make_store(tmp_path / "store", split(keys_of(200), rows, [120, 0, 80])),
        make_store(tmp_path / "evals", split(keys_of(40, "e"), evals, [25, 15])),
    )


def table(path):
    return pq.read_table(path).to_pylist()


def rows_of(store):
    return np.concatenate([chunk.embeddings for chunk in store.chunks()])


# what is found


def test_copies_of_evaluation_samples_are_found_with_their_originals(stores, tmp_path):
    found = compare(*stores, tmp_path / "c.parquet", 0.9)
    first, second = table(found.path)
    assert first == {
        "key": "k00003",
        "shard": "s00",
        "row": 4,
        "nearest": "e00007",
        "nearest_shard": "s00",
        "similarity": pytest.approx(0.99, abs=1e-3),
        "reason": "contaminated",
    }
    assert (second["key"], second["shard"], second["row"]) == ("k00150", "s02", 45)
    assert (second["nearest"], second["nearest_shard"]) == ("e00031", "s01")
    assert (found.n_store, found.n_eval, found.n_contaminated, found.n_eval_matched) == (200, 40, 2, 2)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.4, 0.95])
def test_exactly_the_samples_above_the_threshold_are_listed(stores, tmp_path, threshold):
    found = compare(*stores, tmp_path / "c.parquet", threshold)
    store, evals = (unit_rows(rows_of(one)) for one in stores)
    cosine = store @ evals.T
    assert np.abs(cosine.max(axis=1) - threshold).min() > 1e-9  # so that this plain product can tell
    above = np.flatnonzero(cosine.max(axis=1) > threshold)
    assert [row["key"] for row in table(found.path)] == [f"k{row:05d}" for row in above]
    assert [row["nearest"] for row in table(found.path)] == [f"e{row:05d}" for row in cosine[above].argmax(axis=1)]
    np.testing.assert_array_equal(
        [np.float32(row["similarity"]) for row in table(found.path)], cosine[above].max(axis=1).astype(np.float32)
    )
    assert found.n_contaminated == len(above)
    assert found.n_eval_matched == len(set(cosine[above].argmax(axis=1)))


def test_a_cosine_that_is_the_threshold_is_not_above_it(tmp_path):
    store = make_store(tmp_path / "a", {"s": (["one"], np.array([[3, 4]], np.float16))})
    evals = make_store(tmp_path / "b", {"s": (["two"], np.array([[1, 0]], np.float16))})
    assert compare(store, evals, tmp_path / "at", 0.6).n_contaminated == 0
    assert compare(store, evals, tmp_path / "below", float(np.nextafter(0.6, 0))).n_contaminated == 1


def test_a_report_names_the_most_alike_pairs_and_those_just_above_the_threshold(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 5)
    found = compare(*stores, tmp_path / "c.parquet", 0.2)
    cosine = (unit_rows(rows_of(stores[0])) @ unit_rows(rows_of(stores[1])).T).max(axis=1)
    order = np.argsort(-cosine)
    n = int((cosine > 0.2).sum())
    assert 10 < n < 190
    assert [pair.key for pair in found.highest] == [f"k{row:05d}" for row in order[:5]]
    assert [pair.key for pair in found.borderline] == [f"k{row:05d}" for row in order[:n][::-1][:5]]
    assert (found.highest[0].nearest, found.highest[0].nearest_shard, found.highest[0].shard) == (
        "e00007",
        "s00",
        "s00",
    )
    assert [pair.similarity for pair in found.highest] == pytest.approx(cosine[order[:5]])


def test_where_nothing_is_contaminated_the_table_is_empty_and_the_nearest_pairs_are_named_all_the_same(
    stores, tmp_path
):
    found = compare(*stores, tmp_path / "c.parquet", 0.999)
    assert (found.n_contaminated, found.n_eval_matched, found.borderline) == (0, 0, [])
    assert table(found.path) == []
    assert found.highest[0].key == "k00003"


def test_evaluation_sets_may_share_keys(stores, tmp_path):
    rows = rows_of(stores[1])
    both = make_store(tmp_path / "both", {"val+0": (keys_of(25), rows[:25]), "test+0": (keys_of(15), rows[25:])})
    found = table(compare(stores[0], both, tmp_path / "c.parquet", 0.9).path)
    assert [(row["nearest"], row["nearest_shard"]) for row in found] == [("k00007", "val+0"), ("k00006", "test+0")]


def test_embeddings_of_another_encoder_are_not_compared(stores, tmp_path):
    (tmp_path / "other" / "parts").mkdir(parents=True)
    Store.create(tmp_path / "other", {"dim": 64, "encoder": {"name": "another"}}).set_shards(())
    with pytest.raises(StoreError, match="not embedded by the encoder"):
        compare(stores[0], Store(tmp_path / "other"), tmp_path / "c.parquet")


def test_an_empty_store_is_not_contaminated(stores, tmp_path):
    empty = make_store(tmp_path / "empty", {"s": ([], np.empty((0, 64), np.float16))})
    found = compare(empty, stores[1], tmp_path / "c.parquet")
    assert (found.n_store, found.n_contaminated, found.highest) == (0, 0, [])


# what is done again


def forbid(monkeypatch):
    """No row may be compared from now on."""

    def refuse(*_):
        raise AssertionError("rows were compared again")

    monkeypatch.setattr(nearest, "NearestRows", refuse)


def test_a_second_call_does_nothing_and_says_the_same(stores, tmp_path, monkeypatch):
    first = compare(*stores, tmp_path / "c.parquet", 0.9)
    forbid(monkeypatch)
    monkeypatch.setattr(module, "nearest_rows", None)
    before = (tmp_path / "c.parquet").stat().st_mtime_ns
    assert compare(*stores, tmp_path / "c.parquet", 0.9) == first
    assert (tmp_path / "c.parquet").stat().st_mtime_ns == before


def test_another_threshold_makes_another_table_without_another_comparison(stores, tmp_path, monkeypatch):
    compare(*stores, tmp_path / "c.parquet", 0.9)
    forbid(monkeypatch)
    assert compare(*stores, tmp_path / "c.parquet", 0.98).n_contaminated == 1
    assert [row["key"] for row in table(tmp_path / "c.parquet")] == ["k00003"]


def test_a_change_of_either_side_is_noticed(stores, tmp_path):
    store, evals = stores
    first = compare(store, evals, tmp_path / "c.parquet", 0.9)
    more = make_store(store.path, {"s09": (["late"], rows_of(evals)[:1])} | split(keys_of(200), rows_of(store), [200]))
    second = compare(more, evals, tmp_path / "c.parquet", 0.9)
    assert [row["key"] for row in table(second.path)] == ["k00003", "k00150", "late"]
    fewer = make_store(evals.path, split(keys_of(5, "e"), rows_of(evals)[:5], [5]))
    third = compare(more, fewer, tmp_path / "c.parquet", 0.9)
    assert [row["key"] for row in table(third.path)] == ["late"]
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3


def test_a_damaged_table_is_made_again(stores, tmp_path):
    compare(*stores, tmp_path / "c.parquet", 0.9)
    whole = (tmp_path / "c.parquet").read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"PAR1" + bytes(100)):
        (tmp_path / "c.parquet").write_bytes(damage)
        compare(*stores, tmp_path / "c.parquet", 0.9)
        assert (tmp_path / "c.parquet").read_bytes() == whole


# from shards, by the encoder of the store


def recompressed(data):
    """The image as JPEG once more: other bytes, nearly the same pixels."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path, settings):
    """A store of 60 pictures in the three shards in ``tmp_path / "shards"``."""
    make_corpus(tmp_path / "shards", samples=20)
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    return Store(tmp_path / "store")


@pytest.fixture
def leaked(tmp_path):
    """Key of a sample whose picture is, compressed again, in the evaluation shard ``eval/val.tar``."""
    files = [file for number in range(100, 109) for file in sample_files(number)]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "val.tar").write_bytes(tar([*files, ("copy.jpg", recompressed(picture(26)))]))
    return "000026"


class Counting(InlineExecutor):
    """An executor that counts what it was given to do."""

    def __init__(self):
        super().__init__()
        self.tasks = []

    def run(self, spec, tasks):
        tasks = list(tasks)
        self.tasks += [task.id for task in tasks]
        return super().run(spec, tasks)


def checked(store, tmp_path, spec=PIXELS, executor=None, inputs="eval", **options):
    against = open_corpus([str(tmp_path / inputs)])
    return decontaminate(Store(store.path), against, tmp_path, spec, executor or InlineExecutor(), **options)


def test_a_recompressed_test_image_in_the_corpus_is_found(store, leaked, tmp_path):
    found = checked(store, tmp_path, threshold=0.99)
    assert found.path == str(tmp_path / "contaminated.parquet")
    [row] = table(found.path)
    assert (row["key"], row["shard"], row["nearest"], row["nearest_shard"]) == (leaked, "train-000001", "copy", "val")
    assert 0.99 < row["similarity"] < 1
    assert [(pair.key, pair.nearest) for pair in found.borderline] == [(leaked, "copy")]
    assert (found.n_store, found.n_eval, found.n_contaminated) == (60, 10, 1)


def test_the_second_time_neither_embeds_nor_compares(store, leaked, tmp_path, monkeypatch, small):
    first = checked(store, tmp_path)
    before = small.stamps(tmp_path)
    forbid(monkeypatch)
    executor = Counting()
    assert checked(store, tmp_path, executor=executor) == first
    assert executor.tasks == []
    assert small.stamps(tmp_path) == before


def test_a_stopped_embedding_goes_on_where_it_stopped(store, leaked, tmp_path, small):
    make_shard(tmp_path / "eval" / "val2.tar", range(200, 205))
    first = checked(store, tmp_path)
    [record] = tmp_path.glob("against/*/parts/val2.json")
    record.unlink()
    executor = Counting()
    assert checked(store, tmp_path, executor=executor) == first
    assert [task for task in executor.tasks if not task.startswith("describe")] == ["val2"]


def test_the_store_and_its_corpus_are_left_alone(store, leaked, tmp_path, small):
    before = small.stamps(store.path, tmp_path / "shards", tmp_path / "eval")
    checked(store, tmp_path)
    assert small.stamps(store.path, tmp_path / "shards", tmp_path / "eval") == before


def test_another_encoder_is_refused_before_anything_is_embedded(store, leaked, tmp_path):
    executor = Counting()
    with pytest.raises(StoreError, match=r"embedded as .*store was.*encoder"):
        checked(store, tmp_path, spec=replace(PIXELS, image_size=16), executor=executor)
    assert executor.tasks == ["describe-0"]
    assert checked(store, tmp_path, threshold=0.99).highest[0].key == leaked


def test_images_under_another_suffix_are_named_by_image_key(store, tmp_path, small):
    small.shard(tmp_path / "eval" / "val.tar", {"copy": {"picture": picture(26)}})
    with pytest.raises(DataError, match="1 no_image"):
        checked(store, tmp_path)
    assert checked(store, tmp_path, image_key="picture").highest[0].key == "000026"


def test_evaluation_samples_without_an_embedding_are_counted(store, leaked, tmp_path, small):
    small.shard(tmp_path / "eval" / "odd.tar", {"broken": {"jpg": b"no"}, "text": {"txt": b"t"}})
    assert checked(store, tmp_path).eval_skipped == {"no_image": 1, "not_an_image": 1}


def test_a_damaged_evaluation_shard_is_an_error_since_it_would_leave_a_gap(store, leaked, tmp_path, small):
    small.cut(make_shard(tmp_path / "eval" / "cut.tar", range(5)), 2000)
    with pytest.raises(DataError, match=r"cut\.tar: at byte .*would be missed"):
        checked(store, tmp_path)


def test_the_corpus_is_not_compared_with_itself(store, tmp_path):
    with pytest.raises(UsageError, match="is a shard of the store itself"):
        checked(store, tmp_path, inputs="shards")


def test_a_store_of_imported_embeddings_is_refused_with_a_way_out(leaked, tmp_path):
    Store.create(tmp_path / "store", {"dim": 4, "encoder": {"encoder": "imported", "model": "clip"}}).set_shards(())
    with pytest.raises(UsageError, match=r"were imported.*embed the corpus"):
        checked(Store(tmp_path / "store"), tmp_path)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_threshold_that_is_no_cosine_between_0_and_1_is_refused(store, leaked, tmp_path, threshold):
    with pytest.raises(UsageError, match="threshold"):
        checked(store, tmp_path, threshold=threshold)


def test_moved_evaluation_shards_give_the_same_table(store, leaked, tmp_path):
    checked(store, tmp_path)
    before = (tmp_path / "contaminated.parquet").read_bytes()
    (tmp_path / "eval").rename(tmp_path / "elsewhere")
    (tmp_path / "contaminated.parquet").unlink()
    checked(store, tmp_path, inputs="elsewhere")
    assert (tmp_path / "contaminated.parquet").read_bytes() == before
