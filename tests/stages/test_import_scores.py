"""Outside scores: any table, in any order, becomes the columns that every other metric has, or says what is wrong."""

import contextlib
import runpy
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Listening

from sspruning.config import ScoreConfig
from sspruning.errors import DataError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.fingerprint import fingerprint
from sspruning.progress import SilentProgress
from sspruning.records import Prototypes
from sspruning.stages import import_scores as module
from sspruning.stages.import_scores import import_scores
from sspruning.stages.score import check_metric, score
from sspruning.storage.artifacts import load_column, save_prototypes, score_path

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N, K = 130, 4
KEYS = [f"a.b/{key}" for key in keys_of(N)]
VALUES = np.random.default_rng(5).normal(size=N).astype(np.float32)


class Bench:
    """A store of four shards, one of them empty, with prototypes and a table of scores."""

    def __init__(self, folder):
        self.folder = folder
        rows = planted(N)
        self.store = make_store(folder / "store", split(KEYS, rows, [60, 0, 1, 69]))
        self.prototypes = Prototypes(rows[:K].astype(np.float32), False, np.zeros(1), N, "p" * 64)
        save_prototypes(folder / "prototypes.h5", self.prototypes)
        self.progress = Listening()

    def parquet(self, keys=KEYS, name="table.parquet", **columns):
        columns = columns or {"score": VALUES[: len(keys)]}
        pq.write_table(pa.table({"key": keys, **columns}), self.folder / name, row_group_size=50)
        return self.folder / name

    def npz(self, name="table.npz", **arrays):
        np.savez(self.folder / name, **{"key": np.array(KEYS), "score": VALUES, **arrays})
        return self.folder / name

    def score(self, table, column=None, scores="scores", **config):
        return score(
            self.store,
            self.prototypes,
            self.folder / "prototypes.h5",
            self.folder / scores,
            ScoreConfig(**{"metric": "imported", "table": str(table), "column": column, **config}),
            InlineExecutor(),
            self.progress,
        )

    def values(self, scores):
        folder, kind = Path(scores.folder), np.dtype("<f4")
        return np.concatenate(
            [load_column(score_path(folder, r.shard_id), r.n_rows, kind) for r in self.store.records()]
        )


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A bench for tests that leave nothing behind."""
    return Bench(tmp_path_factory.mktemp("import"))


def refused(bench, table, error, *words, **config):
    """Nothing is written, and the message has the file's name and all these words."""
    with pytest.raises(error) as caught:
        bench.score(table, **config)
    for word in (str(table), *words):
        assert word in str(caught.value)
    assert not list((bench.folder / "scores").glob("imported.*"))


# what comes out


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_every_sample_gets_the_score_of_its_key(kind, bench):
    found = bench.score(getattr(bench, kind)())
    np.testing.assert_array_equal(bench.values(found), VALUES)
    assert Path(found.folder).name == f"imported.{found.fingerprint[:16]}"
    assert sorted(path.name for path in Path(found.folder).iterdir()) == ["s00.npy", "s01.npy", "s02.npy", "s03.npy"]
    assert (found.metric, found.n_rows, found.cluster_sizes.sum()) == ("imported", N, N)
    assert (found.summary["min"], found.summary["max"]) == (VALUES.min(), VALUES.max())
    assert bench.progress.said == []


@given(order=st.permutations(range(N)), kind=st.sampled_from(["parquet", "npz"]))
def test_the_order_of_the_table_changes_no_byte(order, kind, shared):
    keys, values = [KEYS[i] for i in order], VALUES[list(order)]
    table = shared.parquet(keys, score=values) if kind == "parquet" else shared.npz(key=np.array(keys), score=values)
    folder = shared.folder / "columns"
    import_scores(shared.store, ScoreConfig(metric="imported", table=str(table)), folder, SilentProgress())
    np.testing.assert_array_equal(shared.values(type("Scores", (), {"folder": folder})), VALUES)
    shutil.rmtree(folder)


def test_the_size_of_batches_changes_no_byte(bench, monkeypatch):
    whole = bench.score(bench.parquet())
    monkeypatch.setattr(module, "READ_ROWS", 7)
    for table in (bench.parquet(), bench.npz()):
        pieces = bench.score(table, scores="pieces")
        np.testing.assert_array_equal(bench.values(pieces), bench.values(whole))


@pytest.mark.parametrize("kind", ["int64", "uint8", "float16", "float64"])
def test_numbers_of_any_kind_are_rounded_to_float32(kind, bench):
    values = (np.arange(N) * 1.5).astype(kind)
    np.testing.assert_array_equal(bench.values(bench.score(bench.parquet(score=values))), values.astype(np.float32))
    np.testing.assert_array_equal(bench.values(bench.score(bench.npz(score=values))), values.astype(np.float32))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_keys_may_be_stored_in_any_way_that_holds_text(kind, bench):
    assert (bench.values(bench.score(bench.parquet(pa.array(KEYS).cast(kind), score=VALUES))) == VALUES).all()


def test_the_only_column_of_numbers_is_taken_and_a_named_one_wins(bench):
    table = bench.parquet(el2n=VALUES, name_of_it=["x"] * N)
    np.testing.assert_array_equal(bench.values(bench.score(table)), VALUES)
    table = bench.parquet(score=-VALUES, el2n=VALUES)
    np.testing.assert_array_equal(bench.values(bench.score(table)), -VALUES)
    np.testing.assert_array_equal(bench.values(bench.score(table, "el2n")), VALUES)
    np.testing.assert_array_equal(bench.values(bench.score(bench.npz(el2n=-VALUES), "el2n")), -VALUES)


def test_keys_that_the_store_does_not_have_are_counted_and_left_out(bench):
    table = bench.parquet([*KEYS, "other", "more"], score=np.append(VALUES, [7, 8]))
    np.testing.assert_array_equal(bench.values(bench.score(table)), VALUES)
    assert [note for note in bench.progress.said if "2 of 132 keys are not in the store" in note]


# freshness


def test_a_moved_or_touched_table_changes_nothing(bench, monkeypatch):
    first = bench.score(bench.parquet())
    moved = (bench.folder / "table.parquet").rename(bench.folder / "moved.bin")
    monkeypatch.setattr(module, "save_column", None)
    again = bench.score(moved)
    assert (again.fingerprint, again.folder, again.summary) == (first.fingerprint, first.folder, first.summary)


def test_a_column_that_is_named_and_one_that_is_found_are_the_same(bench):
    table = bench.parquet()
    assert bench.score(table).fingerprint == bench.score(table, "score", seed=3).fingerprint


def test_one_changed_value_or_another_column_makes_other_scores(bench):
    marks = {bench.score(bench.parquet(score=VALUES, other=VALUES)).fingerprint}
    marks.add(bench.score(bench.folder / "table.parquet", "other").fingerprint)
    changed = VALUES.copy()
    changed[3] += 1
    found = bench.score(bench.parquet(score=changed, other=VALUES))
    np.testing.assert_array_equal(bench.values(found), changed)
    marks |= {found.fingerprint, bench.score(bench.folder / "table.parquet", distance="euclidean").fingerprint}
    assert len(marks) == 4


def test_a_table_in_the_settings_means_nothing_to_another_metric(bench):
    plain = bench.score(None, metric="prototype_distance")
    assert bench.score("gone.parquet", "x", metric="prototype_distance").fingerprint == plain.fingerprint
    section = {"metric": "prototype_distance", "distance": "cosine", "seed": 0}
    parts = {"content": bench.store.content_fingerprint(), "prototypes": "p" * 64}
    sizes = fingerprint(plain.cluster_sizes.tolist())
    assert plain.fingerprint == fingerprint({**parts, "score": section, "sizes": sizes})


def test_only_missing_columns_are_written_again(bench):
    table = bench.parquet()
    found = bench.score(table)
    lost, kept = (score_path(Path(found.folder), name) for name in ("s03", "s00"))
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    bench.score(table)
    assert (lost.read_bytes(), kept.stat().st_mtime_ns) == (before, stamp)


# what is refused


def test_the_metric_without_a_table_says_how_to_give_one():
    with pytest.raises(UsageError, match="score STORE --import FILE"):
        check_metric(ScoreConfig(metric="imported"))


def test_a_table_that_is_gone_is_named(bench):
    refused(bench, bench.folder / "gone.parquet", UsageError, "no such file", "--import FILE")


def test_a_file_of_another_format_is_refused_with_what_is_read(bench):
    table = bench.folder / "table.csv"
    table.write_text("key,score\na,1\n")
    refused(bench, table, UsageError, "neither parquet nor npz", "to_parquet")


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_damaged_table_is_a_data_error(kind, bench):
    table = getattr(bench, kind)()
    content = table.read_bytes()
    table.write_bytes(content[: len(content) // 2])
    refused(bench, table, DataError, "cannot be read as a table of scores")


@given(at=st.integers(0, 3000), value=st.integers(0, 255), kind=st.sampled_from(["parquet", "npz"]))
def test_a_changed_byte_never_ends_in_anything_but_scores_or_an_error_of_ours(at, value, kind, shared):
    table = getattr(shared, kind)()
    content = bytearray(table.read_bytes())
    content[at % len(content)] = value
    table.write_bytes(content)
    folder = shared.folder / "columns"
    with contextlib.suppress(DataError, UsageError):
        import_scores(shared.store, ScoreConfig(metric="imported", table=str(table)), folder, SilentProgress())
    shutil.rmtree(folder, ignore_errors=True)


def test_pickles_are_not_read(bench):
    table = bench.npz(key=np.array(KEYS, object))
    refused(bench, table, DataError, "allow_pickle")


def test_a_zip_of_something_else_is_refused(bench):
    table = bench.folder / "zip.npz"
    with zipfile.ZipFile(table, "w") as file:
        file.writestr("key", "a,b")
        file.writestr("score", "1,2")
    refused(bench, table, DataError, "expected (n,) numbers")


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(kind, bench):
    refused(bench, getattr(bench, kind)(), UsageError, "no column 'el2n'", "key, score", column="el2n")


def test_columns_that_leave_a_choice_are_refused(bench):
    refused(bench, bench.parquet(el2n=VALUES, aum=VALUES), UsageError, "--column", "key, el2n, aum")
    refused(bench, bench.parquet(text=["x"] * N), UsageError, "--column", "key, text")
    refused(bench, bench.parquet(), UsageError, "no column 'key' with scores", column="key")
    np.savez(bench.folder / "table.npz", score=VALUES)
    refused(bench, bench.folder / "table.npz", UsageError, "no column 'key'")


def test_columns_of_the_wrong_type_are_refused(bench):
    refused(bench, bench.parquet(list(range(N)), score=VALUES), DataError, "'key' holds int64, expected strings")
    refused(bench, bench.parquet(score=["x"] * N), DataError, "'score' holds string, expected numbers")
    refused(bench, bench.npz(key=np.arange(N)), DataError, "'key' is int64 (130,), expected (n,) unicode")
    refused(bench, bench.npz(score=np.zeros((N, 2))), DataError, "'score' is float64 (130, 2)")
    refused(bench, bench.npz(score=VALUES[:-1]), DataError, "130 in 'key' but 129 in 'score'")


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
def test_a_score_that_is_not_finite_is_refused_by_its_key_and_with_the_way_out(odd, bench):
    values = VALUES.astype(np.float64)
    values[100] = odd
    words = (repr(KEYS[100]), str(odd), "large finite number")
    refused(bench, bench.parquet(score=values), DataError, *words)
    refused(bench, bench.npz(score=values), DataError, *words)


def test_a_missing_value_is_refused_by_its_key(bench):
    values = VALUES.tolist()
    values[7] = None
    refused(bench, bench.parquet(score=values), DataError, repr(KEYS[7]), "nan")
    refused(bench, bench.parquet([*KEYS[:-1], None]), DataError, "'key' has nulls")


def test_a_key_that_occurs_twice_is_refused_by_name(bench):
    table = bench.parquet([*KEYS, KEYS[9], KEYS[9], KEYS[11]], score=np.append(VALUES, [1, 2, 3]))
    with pytest.raises(DataError, match=r"the key 'a\.b/k000(09' occurs 3 times|11' occurs 2 times).*more rows"):
        bench.score(table)


def test_samples_without_a_score_are_counted_and_the_first_named(bench):
    table = bench.parquet([*KEYS[:58], *KEYS[63:]], score=VALUES[5:])
    refused(bench, table, DataError, "5 of 130", f"{KEYS[58]!r}, {KEYS[59]!r}, {KEYS[60]!r}, ...", KEYS[0])
    refused(bench, bench.parquet(["x"], score=[1.0]), DataError, "130 of 130", "first key is 'x'")


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_an_empty_table_is_refused(kind, bench):
    nothing = np.zeros(0, np.float32)
    table = bench.parquet(pa.array([], pa.string()), score=nothing)
    table = bench.npz(key=np.array([], "U3"), score=nothing) if kind == "npz" else table
    refused(bench, table, DataError, "holds 0 rows")


def test_a_wrong_table_is_refused_before_anything_is_assigned(bench):
    refused(bench, bench.parquet(), UsageError, "no column", column="nothing")
    assert not (bench.folder / "scores").exists()
