"""Every form says what the selection says, in store order or its own, and appears whole or not at all."""

from dataclasses import replace
from itertools import compress, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.errors import StoreError, UsageError
from sspruning.records import Selection
from sspruning.stages import export as module
from sspruning.stages.export import FORMS, export_selection
from sspruning.storage.artifacts import SELECTION_SCHEMA, SelectionFile, save_selection

SHARDS = ("a", "b", "c")
SUFFIX = {"keys": "txt", "mask": "npy", "weights": "npy", "order": "tsv", "datacomp": "npy", "removed": "parquet"}


def make_selection(path, keys, kept, score=None, cluster=None, weight=None, **facts):
    """The table of a selection that now stands at ``path``: shards a and c in nearly equal parts, b is empty."""
    n = len(keys)
    kept = np.array(kept, bool)
    rank = np.empty(n, np.int64)
    rank[np.argsort(~kept, kind="stable")] = np.arange(n)
    borders = [0, n // 2, n // 2, n]
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "shard": pa.array(np.repeat(SHARDS, np.diff(borders)), pa.string()).dictionary_encode(),
            "row": np.concatenate([np.arange(n // 2), np.arange(n - n // 2)]).astype(np.uint32) * 2,
            "centroid": np.array(np.zeros(n) if cluster is None else cluster, np.int32),
            "cosine_dist_to_cent": np.zeros(n, np.float32),
            "score": np.array(np.arange(n) if score is None else score, np.float32),
            "rank": rank,
            "kept": kept,
            "weight": np.array(np.ones(n) if weight is None else weight, np.float32),
            "reason": pa.array(np.where(kept, "kept", "pruned_easy"), pa.string()),
        }
    ).cast(SELECTION_SCHEMA)
    groups = [table.slice(a, b - a) for a, b in pairwise(borders)]
    counts = {"n_embedded": n, "n_kept": int(kept.sum()), **facts}
    save_selection(path, groups, Selection(fingerprint="f" * 64, settings={}, **counts))
    return table


N = 41
KEYS = [f"dir.x/é{i:03d}" for i in range(N)]
KEPT = np.random.default_rng(0).random(N) < 0.6
SCORE = np.random.default_rng(1).integers(0, 9, N) / 4
CLUSTER = np.random.default_rng(2).integers(0, 5, N) * 2
KEPT[CLUSTER == 8] = False  # the last cluster keeps none


@pytest.fixture
def selection(tmp_path):
    make_selection(tmp_path / "selection.parquet", KEYS, KEPT, SCORE, CLUSTER, np.arange(N) / 8)
    return tmp_path / "selection.parquet"


@pytest.fixture
def export(selection, tmp_path):
    """Return ``export(form, **options)``: path of the new file."""

    def make(form, suffix=None, **options):
        output = tmp_path / "out" / f"{form}.{suffix or SUFFIX[form]}"
        report = export_selection(selection, form, output, options=options)
        assert (report.form, report.path, report.size) == (form, str(output), output.stat().st_size)
        assert (report.n_embedded, report.n_kept) == (N, KEPT.sum())
        make.rows = report.n_rows
        return output

    return make


def columns(path):
    return list(zip(*pq.read_table(path).to_pydict().values(), strict=True))


# what stands in the files


def test_the_key_list_has_the_kept_keys_in_store_order(export):
    assert export("keys").read_text(encoding="utf-8").splitlines() == list(compress(KEYS, KEPT))
    assert export.rows == KEPT.sum()


def test_the_mask_is_a_column_in_store_order(export):
    found = np.load(export("mask"))
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, KEPT)
    assert export.rows == N


def test_weights_are_those_of_the_selection_and_zero_for_dropped_samples(export):
    found = np.load(export("weights"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.where(KEPT, np.arange(N, dtype=np.float32) / 8, 0))


def test_balanced_weights_give_every_cluster_the_same_and_the_kept_samples_a_mean_of_one(export):
    found = np.load(export("weights", by="balanced"))
    assert (found[~KEPT] == 0).all()
    totals = [found[label == CLUSTER].sum() for label in sorted(set(CLUSTER[KEPT]))]
    np.testing.assert_allclose(totals, KEPT.sum() / len(totals), rtol=1e-6)
    assert found[KEPT].mean(dtype=np.float64) == pytest.approx(1, rel=1e-6)
    for label in set(CLUSTER[KEPT]):
        assert len(set(found[KEPT & (label == CLUSTER)].tolist())) == 1


@pytest.mark.parametrize("suffix", ["parquet", "tsv"])
@pytest.mark.parametrize("first", ["easy", "hard"])
def test_the_order_is_a_curriculum_of_the_kept_samples(first, suffix, export, selection, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    path = export("order", suffix, first=first)
    if suffix == "tsv":
        header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        assert header == "key\tscore"
        found = [(key, float(score)) for key, score in (line.split("\t") for line in lines)]
    else:
        found = columns(path)
    rows = [row for row in pq.read_table(selection).to_pylist() if row["kept"]]
    sign = 1 if first == "easy" else -1
    rows.sort(key=lambda row: (sign * row["score"], row["rank"]))
    assert found == [(row["key"], row["score"]) for row in rows]


def test_without_ranks_equal_scores_of_a_curriculum_stand_in_store_order(tmp_path):
    table = make_selection(tmp_path / "ranked.parquet", KEYS, KEPT, SCORE).drop_columns("rank")
    facts = replace(SelectionFile.open(tmp_path / "ranked.parquet").selection, ranked=False)
    unranked = table.add_column(6, "rank", pa.nulls(N, pa.int64()))
    save_selection(tmp_path / "s.parquet", [unranked], facts)
    export_selection(tmp_path / "s.parquet", "order", tmp_path / "o.parquet")
    kept = sorted(np.flatnonzero(KEPT).tolist(), key=lambda row: SCORE[row])
    assert [key for key, _ in columns(tmp_path / "o.parquet")] == [KEYS[row] for row in kept]


@pytest.mark.parametrize("value", [0.1, 1e-30, 3.4e38, -2.5e-7, 16777217.0])
def test_a_score_in_text_is_the_very_same_float32(value, tmp_path):
    make_selection(tmp_path / "s.parquet", ["a"], [True], [value])
    export_selection(tmp_path / "s.parquet", "order", tmp_path / "o.tsv")
    text = (tmp_path / "o.tsv").read_text().split("\n")[1].split("\t")[1]
    assert np.float32(text) == np.float32(value)


def test_removed_has_the_dropped_samples_as_nemo_reads_them(export):
    path = export("removed")
    assert columns(path) == [(key, "pruned_easy") for key in compress(KEYS, ~KEPT)]
    assert export.rows == (~KEPT).sum()
    schema = pa.schema([("id", pa.string())])  # how its stage opens the folder
    found = pyarrow.dataset.dataset(path.parent, format="parquet", schema=schema).to_table(columns=["id"])
    assert found.column("id").to_pylist() == list(compress(KEYS, ~KEPT))


def test_removed_can_name_samples_by_shard_and_ordinal(export, selection):
    expected = [f"{r['shard']}_{r['row']:06d}" for r in pq.read_table(selection).to_pylist() if not r["kept"]]
    assert [name for name, _ in columns(export("removed", ids="shard_row"))] == expected


def uids(n, seed=0):
    draws = np.random.default_rng(seed)
    return [draws.bytes(16).hex() for _ in range(n)]


def test_datacomp_uids_are_sorted_pairs_of_halves(tmp_path):
    keys = [*uids(8), "0" * 31 + "1", "f" * 32, uids(1, seed=5)[0] + "-0"]
    kept = [True] * 10 + [True]
    kept[3] = False
    make_selection(tmp_path / "s.parquet", keys, kept)
    export_selection(tmp_path / "s.parquet", "datacomp", tmp_path / "uids.npy")
    found = np.load(tmp_path / "uids.npy")
    assert found.dtype == np.dtype("u8,u8")
    wanted = sorted(divmod(int(key[:32], 16), 1 << 64) for key in compress(keys, kept))
    assert found.tolist() == wanted
    np.testing.assert_array_equal(np.sort(found), found)  # the resharder searches by numpy's own order


@settings(max_examples=15)
@given(kept=st.lists(st.booleans(), min_size=1, max_size=30).filter(any), seed=st.integers(0, 99))
def test_all_forms_agree_on_what_is_kept(kept, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    keys = uids(len(kept), seed)
    make_selection(folder / "s.parquet", keys, kept, np.random.default_rng(seed).normal(size=len(kept)))
    path = {form: folder / f"{form}.{suffix}" for form, suffix in SUFFIX.items()}
    for form, output in path.items():
        export_selection(folder / "s.parquet", form, output)
    wanted = set(compress(keys, kept))
    assert set(path["keys"].read_text().split()) == wanted
    assert set(compress(keys, np.load(path["mask"]))) == wanted
    assert set(compress(keys, np.load(path["weights"]))) == wanted
    assert {line.split("\t")[0] for line in path["order"].read_text().splitlines()[1:]} == wanted
    assert {f"{a:016x}{b:016x}" for a, b in np.load(path["datacomp"]).tolist()} == wanted
    assert set(keys) - {name for name, _ in columns(path["removed"])} == wanted


def test_an_empty_result_is_a_file_of_its_kind(tmp_path):
    make_selection(tmp_path / "s.parquet", uids(3), [True] * 3)
    report = export_selection(tmp_path / "s.parquet", "removed", tmp_path / "r.parquet")
    assert report.n_rows == 0
    assert pq.read_table(tmp_path / "r.parquet").column_names == ["id", "reason"]


# what is refused, and what it leaves behind


def refused(tmp_path, form, error, *words, name=None, source="selection.parquet", **options):
    """Nothing appears, and the message has these words."""
    output = tmp_path / "new" / (name or f"x.{SUFFIX[form]}")
    with pytest.raises(error) as caught:
        export_selection(tmp_path / source, form, output, options=options)
    for word in words:
        assert word in str(caught.value)
    assert not output.exists()
    assert not list(tmp_path.rglob(".*.tmp.*"))


@pytest.mark.parametrize("key", ["a\nb", "a\rb"])
def test_a_key_with_a_line_break_is_refused_by_the_key_list(key, tmp_path):
    make_selection(tmp_path / "selection.parquet", [*KEYS, key], [*KEPT, True])
    refused(tmp_path, "keys", UsageError, repr(key), "line break")


def test_a_dropped_key_with_a_line_break_does_no_harm(tmp_path):
    make_selection(tmp_path / "s.parquet", ["a", "b\nc"], [True, False])
    export_selection(tmp_path / "s.parquet", "keys", tmp_path / "k.txt")
    assert (tmp_path / "k.txt").read_text() == "a\n"


def test_a_key_with_a_tab_is_refused_by_tsv_and_held_by_parquet(tmp_path):
    make_selection(tmp_path / "selection.parquet", ["a\tb"], [True])
    refused(tmp_path, "order", UsageError, "a\\tb")
    export_selection(tmp_path / "selection.parquet", "order", tmp_path / "o.parquet")
    assert columns(tmp_path / "o.parquet") == [("a\tb", 0.0)]


@pytest.mark.parametrize("key", ["0" * 31, "0" * 33, "g" * 32, "0" * 32 + "-1", "x/" + "0" * 32, "0" * 32 + "\n"])
def test_a_key_that_is_no_uid_is_refused_by_name(key, tmp_path):
    make_selection(tmp_path / "selection.parquet", [*uids(6), key], [True] * 7)
    refused(tmp_path, "datacomp", UsageError, repr(key), "uid")


def test_a_uid_under_two_keys_is_refused(tmp_path):
    uid = uids(1)[0]
    make_selection(tmp_path / "selection.parquet", [uid, uid + "-0"], [True, True])
    refused(tmp_path, "datacomp", UsageError, uid, "twice")


def test_unknown_forms_options_and_values_are_refused(selection, tmp_path):
    for form, word, options in [
        ("weights", "balanced", {"by": "balance"}),
        ("order", "easy", {"first": "last"}),
        ("removed", "shard_row", {"ids": "row"}),
        ("mask", "no option", {"by": "x"}),
    ]:
        refused(tmp_path, form, UsageError, word, **options)
    with pytest.raises(UsageError, match="Did you mean 'mask'"):
        export_selection(selection, "maks", tmp_path / "x.npy")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_name_that_does_not_fit_is_refused(form, selection, tmp_path):
    refused(tmp_path, form, UsageError, "must end in", name="train-000000.tar")
    assert not (tmp_path / "new").exists()


def test_a_file_that_stands_there_is_replaced_only_on_request(selection, tmp_path):
    output = tmp_path / "keys.txt"
    output.write_text("mine\n")
    with pytest.raises(UsageError, match="--overwrite"):
        export_selection(selection, "keys", output)
    assert output.read_text() == "mine\n"
    export_selection(selection, "keys", output, overwrite=True)
    assert len(output.read_text(encoding="utf-8").splitlines()) == KEPT.sum()


def test_the_selection_itself_is_never_replaced(selection):
    before = selection.read_bytes()
    with pytest.raises(UsageError, match="the selection itself"):
        export_selection(selection, "removed", selection, overwrite=True)
    assert selection.read_bytes() == before


@pytest.mark.parametrize("form", sorted(set(SUFFIX) - {"datacomp"}))
@pytest.mark.parametrize("wrong", [{"n_embedded": N + 1}, {"n_kept": 3}])
def test_a_selection_that_contradicts_itself_gives_no_file(form, wrong, tmp_path):
    make_selection(tmp_path / "selection.parquet", KEYS, KEPT, **wrong)
    refused(tmp_path, form, StoreError, "says")


def test_a_damaged_selection_gives_no_file(selection, tmp_path):
    data = bytearray(selection.read_bytes())
    data[100:140] = bytes(40)
    selection.write_bytes(data)
    refused(tmp_path, "keys", StoreError, "selection.parquet")


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"datacomp"}))
def test_equal_selections_give_equal_bytes(form, selection, tmp_path):
    outputs = [tmp_path / name / f"x.{SUFFIX[form]}" for name in ("one", "two")]
    reports = [export_selection(selection, form, output) for output in outputs]
    assert reports[0].sha256 == reports[1].sha256
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
