"""Prototypes, score columns and selections are read back as they were written, or refused."""

import io
import json
import random
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sspruning.errors import StoreError
from sspruning.records import Prototypes, Selection
from sspruning.storage.artifacts import (
    ASSIGNMENT_DTYPE,
    SELECTION_SCHEMA,
    SelectionFile,
    load_column,
    load_prototypes,
    save_column,
    save_prototypes,
    save_selection,
    score_path,
)

F4 = np.dtype("<f4")


def make_prototypes(k=6, d=4, seed=0, **changes):
    draws = np.random.default_rng(seed)
    values = {
        "centroids": draws.standard_normal((k, d)).astype(np.float32),
        "spherical": True,
        "objective": draws.standard_normal(3),
        "sample_size": 60,
        "fingerprint": "ab" * 32,
        "info": {"reason": "near √n", "seed": 1, "sizes": [1, 2], "none": None},
    }
    return Prototypes(**values | changes)


def assert_equal(found, expected):
    assert found.centroids.dtype == np.float32
    assert found.centroids.tobytes() == expected.centroids.tobytes()
    assert found.centroids.shape == expected.centroids.shape
    assert found.objective.tobytes() == expected.objective.tobytes()
    for name in ("spherical", "sample_size", "fingerprint", "info", "k"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    "prototypes",
    [
        make_prototypes(),
        make_prototypes(1, 1),
        make_prototypes(500, 384),
        make_prototypes(spherical=False, objective=np.zeros(0), fingerprint="", info={}),
    ],
    ids=["usual", "one", "many", "bare"],
)
def test_prototypes_are_read_back_bit_by_bit(tmp_path, prototypes):
    save_prototypes(tmp_path / "p.h5", prototypes)
    assert_equal(load_prototypes(tmp_path / "p.h5"), prototypes)


def test_equal_prototypes_give_equal_bytes(tmp_path):
    save_prototypes(tmp_path / "a.h5", make_prototypes())
    save_prototypes(tmp_path / "b.h5", make_prototypes(info=dict(reversed(make_prototypes().info.items()))))
    save_prototypes(tmp_path / "c.h5", make_prototypes(seed=1))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes() != (tmp_path / "c.h5").read_bytes()


def test_a_flipped_byte_in_prototypes_is_found_or_changes_nothing_that_counts(tmp_path):
    path = tmp_path / "p.h5"
    save_prototypes(path, make_prototypes())
    image = path.read_bytes()
    found = 0
    for offset in random.Random(0).sample(range(len(image)), 300):  # noqa: S311
        damaged = bytearray(image)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        try:
            read = load_prototypes(path)
        except StoreError as error:
            assert "p.h5" in str(error)  # noqa: PT017 - no error is right too
            found += 1
        else:
            assert_equal(replace(read, objective=make_prototypes().objective), make_prototypes())
    assert found > 50


def edit_prototypes(edit):
    def damage(path):
        with h5py.File(path, "r+") as file:
            edit(file)

    return damage


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "no HDF5": lambda path: path.write_bytes(b"text" * 500),
    "another format": edit_prototypes(lambda file: file.attrs.__setitem__("format", "x")),
    "another version": edit_prototypes(lambda file: file.attrs.__setitem__("format_version", 2)),
    "no format": edit_prototypes(lambda file: file.attrs.__delitem__("format")),
    "no centroids": edit_prototypes(lambda file: file.__delitem__("centroids")),
    "info that is no JSON": edit_prototypes(lambda file: file.attrs.__setitem__("info", "{")),
    "a sample size that is text": edit_prototypes(lambda file: file.attrs.__setitem__("sample_size", "many")),
    "a group in place of centroids": edit_prototypes(
        lambda file: (file.__delitem__("centroids"), file.create_group("centroids"))
    ),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_prototypes_that_are_not_what_they_must_be_are_refused(tmp_path, name):
    path = tmp_path / "p.h5"
    save_prototypes(path, make_prototypes())
    DAMAGE[name](path)
    with pytest.raises(StoreError, match=r"p\.h5"):
        load_prototypes(path)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(5, dtype=F4),
        np.zeros(0, F4),
        np.array([(1, 0.5, 2, 0.75, 0.25)] * 3, ASSIGNMENT_DTYPE),
        np.arange(20, dtype=F4)[::2],
    ],
    ids=["scores", "none", "assignment", "strided"],
)
def test_a_column_is_read_back_bit_by_bit_and_equal_columns_give_equal_bytes(tmp_path, values):
    path = score_path(tmp_path / "scores", "a+b")
    save_column(path, values)
    found = load_column(path, len(values), values.dtype)
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()
    before = path.read_bytes()
    save_column(path, values.copy())
    assert path.read_bytes() == before
    assert np.array_equal(np.load(path), values)


def test_a_column_of_another_length_or_type_is_refused(tmp_path):
    path = tmp_path / "c.npy"
    save_column(path, np.zeros(5, F4))
    for rows, dtype in [(4, F4), (6, F4), (5, np.dtype("<f8")), (5, np.dtype("<i4")), (5, ASSIGNMENT_DTYPE)]:
        with pytest.raises(StoreError, match=r"c\.npy: holds \(5,\) float32, expected"):
            load_column(path, rows, dtype)
    save_column(path, np.zeros((5, 1), F4))
    with pytest.raises(StoreError, match="expected"):
        load_column(path, 5, F4)


def npy(values, **options):
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", npy(np.zeros(5, F4)))
    return buffer.getvalue()


COLUMNS = {
    "empty": b"",
    "cut in the header": npy(np.zeros(5, F4))[:50],
    "cut in the rows": npy(np.zeros(5, F4))[:-1],
    "text": b"score\n0.5\n" * 10,
    "a zip file": zipped(),
    "pickled objects": npy(np.array([{"a": 1}] * 5), allow_pickle=True),
    "a pickle": b"\x80\x04]\x94.",
    "2^60 rows": npy(np.zeros(5, F4)).replace(b"(5,)", b"(1152921504606846976,)").replace(b" " * 18, b"", 1),
}


@pytest.mark.parametrize("name", list(COLUMNS))
def test_a_damaged_column_is_refused_and_runs_nothing(tmp_path, name):
    (tmp_path / "c.npy").write_bytes(COLUMNS[name])
    with pytest.raises(StoreError, match=r"c\.npy: (damaged|holds).*score"):
        load_column(tmp_path / "c.npy", 5, F4)


def test_a_column_with_a_damaged_header_is_refused_or_equal(tmp_path):
    path = tmp_path / "c.npy"
    image = npy(np.arange(5, dtype=F4))
    for bit in range(8 * 128):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = load_column(path, 5, F4)
        except StoreError:
            continue
        assert np.array_equal(found, np.arange(5, dtype=F4)), bit


def test_a_missing_column_says_which_verb_makes_it(tmp_path):
    with pytest.raises(StoreError, match=r"c\.npy: missing; run `sspruning score` again"):
        load_column(tmp_path / "c.npy", 5, F4)


def group(shard, rows, first=0):
    """The rows of one shard, as the select stage hands them over."""
    numbers = np.arange(first, first + rows)
    return pa.table(
        {
            "key": [f"å{number}" for number in numbers],
            "shard": pa.array([shard] * rows).dictionary_encode(),
            "row": numbers.astype(np.uint32),
            "centroid": (numbers % 3).astype(np.int32),
            "cosine_dist_to_cent": numbers.astype(np.float32) / 100,
            "score": numbers.astype(np.float32) / 7,
            "rank": numbers[::-1].copy(),
            "kept": numbers % 2 == 0,
            "weight": np.ones(rows, np.float32),
            "reason": pa.array(
                ["kept" if number % 2 == 0 else "pruned_easy" for number in numbers]
            ).dictionary_encode(),
        }
    )


GROUPS = [group("a", 5), group("b", 1, 5), group("c", 3000, 6)]
SELECTION = Selection(
    n_embedded=3006, n_kept=1503, fingerprint="cd" * 32, settings={"keep": "hard", "seed": 0, "é": None}
)


@pytest.fixture
def path(tmp_path):
    save_selection(tmp_path / "s.parquet", iter(GROUPS), SELECTION)
    return tmp_path / "s.parquet"


def test_a_selection_is_read_back_with_its_facts(path):
    opened = SelectionFile.open(path)
    assert opened.selection == Selection(
        n_embedded=3006, n_kept=1503, fingerprint="cd" * 32, settings=SELECTION.settings, path=str(path)
    )
    for name in SELECTION_SCHEMA.names:
        expected = np.concatenate([table.column(name).to_numpy() for table in GROUPS])
        assert np.array_equal(opened.column(name), expected), name


def test_saving_a_selection_tells_where_it_is(tmp_path):
    assert save_selection(tmp_path / "s.parquet", [], SELECTION).path == str(tmp_path / "s.parquet")


def test_each_shard_is_one_row_group_in_order(path):
    tables = list(SelectionFile.open(path).groups(["key", "shard", "rank"]))
    assert [table.num_rows for table in tables] == [5, 1, 3000]
    assert [set(table.column("shard").to_pylist()) for table in tables] == [{"a"}, {"b"}, {"c"}]
    assert [table.column_names for table in tables] == [["key", "shard", "rank"]] * 3
    assert tables[2].column("key").to_pylist() == GROUPS[2].column("key").to_pylist()


def test_a_selection_has_the_columns_and_types_of_its_format(path):
    schema = pq.read_schema(path)
    assert schema.names == SELECTION_SCHEMA.names
    assert [str(field.type) for field in schema] == [str(field.type) for field in SELECTION_SCHEMA]
    facts = json.loads(schema.metadata[b"sspruning"])
    assert (facts["format"], facts["format_version"]) == ("sspruning-selection", 2)
    assert all(column.null_count == 0 for column in pq.read_table(path).columns)


def test_equal_selections_give_equal_bytes(path, tmp_path):
    save_selection(tmp_path / "again.parquet", GROUPS, SELECTION)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_a_selection_without_rows_can_be_read(tmp_path):
    save_selection(tmp_path / "s.parquet", [], SELECTION)
    opened = SelectionFile.open(tmp_path / "s.parquet")
    assert list(opened.groups(["key"])) == []
    assert len(opened.column("rank")) == 0


def test_groups_are_written_while_they_come(tmp_path):
    """Memory holds one group: the file grows between groups."""

    def groups():
        for number in range(3):
            yield group(str(number), 2000, 2000 * number)
            sizes.append(max(file.stat().st_size for file in tmp_path.glob(".s.parquet.tmp.*")))

    sizes = []
    save_selection(tmp_path / "s.parquet", groups(), SELECTION)
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_an_error_in_the_middle_leaves_no_selection(tmp_path):
    def groups():
        yield GROUPS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_selection(tmp_path / "s.parquet", groups(), SELECTION)
    assert list(tmp_path.iterdir()) == []


def rewrite(path, table, **facts):
    content = json.loads(pq.read_schema(path).metadata[b"sspruning"]) | facts
    pq.write_table(table.replace_schema_metadata({b"sspruning": json.dumps(content).encode()}), path)


SELECTION_DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "no parquet": lambda path: path.write_bytes(b"text" * 100),
    "parquet of others": lambda path: pq.write_table(pa.table({"key": ["a"]}), path),
    "an earlier version": lambda path: rewrite(path, pq.read_table(path), format_version=1),
    "a later version": lambda path: rewrite(path, pq.read_table(path), format_version=4),
    "a version without ranks, with ranks": lambda path: rewrite(path, pq.read_table(path), format_version=3),
    "another format": lambda path: rewrite(path, pq.read_table(path), format="other"),
    "a column too few": lambda path: rewrite(path, pq.read_table(path).drop_columns("rank")),
    "facts that are a list": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata({b"sspruning": b"[]"}), path
    ),
    "facts without counts": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata(
            {b"sspruning": b'{"format": "sspruning-selection", "format_version": 2}'}
        ),
        path,
    ),
}


@pytest.mark.parametrize("name", list(SELECTION_DAMAGE))
def test_a_selection_that_is_not_what_it_must_be_is_refused(path, name):
    SELECTION_DAMAGE[name](path)
    with pytest.raises(StoreError, match=r"s\.parquet"):
        SelectionFile.open(path)
