"""Tables of embeddings of every kind are read piece by piece, and what is wrong with one is said by name."""

import runpy
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sspruning.errors import DataError, UsageError
from sspruning.stages import embedding_table
from sspruning.storage.store import Store

tables = runpy.run_path(str(Path(__file__).with_name("embedding_bench.py")))
Bench, DIM, embeddings, normalised, refused, same_rows = (
    tables[name] for name in ("Bench", "DIM", "embeddings", "normalised", "refused", "same_rows")
)


@pytest.fixture
def bench(tmp_path, content):
    return Bench(tmp_path, content)


# what is read


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *((form, kind) for form in ("npy", "npz", "clip-retrieval") for kind in ("float16", "float64", ">f4", ">f8")),
        *(("parquet", kind) for kind in ("float16", "float64")),
    ],
)
def test_numbers_of_any_kind_and_byte_order_are_read(form, kind, bench):
    rows = bench.rows.astype(kind)
    source, options = bench.table(form, rows=rows)
    bench.load(source, **options)
    same_rows(embeddings(Store(bench.folder / "store")), bench.keys, normalised(rows.astype(np.float32)))


def test_an_array_in_fortran_order_is_read(bench):
    source, options = bench.table(rows=np.asfortranarray(bench.rows))
    bench.load(source, **options)
    same_rows(embeddings(Store(bench.folder / "store")), bench.keys, normalised(bench.rows))


# what is refused


@pytest.mark.parametrize("kind", ["npy", "npz", "npz+list"])
@pytest.mark.parametrize("count", [59, 61])
def test_as_many_keys_as_rows_are_needed(kind, count, bench):
    source, options = bench.table(kind, [*bench.keys, "more"][:count])
    refused(bench, DataError, source, f"{count} keys for 60 embeddings", **options)


def test_clip_retrieval_parts_must_fit_each_other(bench):
    source = bench.clip_retrieval(bench.keys, bench.rows, "clip")
    np.save(source / "img_emb" / "img_emb_2.npy", bench.rows[:4])
    refused(bench, DataError, source, "img_emb_2.npy", "metadata_2.parquet has 15 rows")
    np.save(source / "img_emb" / "img_emb_2.npy", bench.rows[:15, :8])
    refused(bench, DataError, source, "expected (15, 24)")
    (source / "metadata" / "metadata_2.parquet").unlink()
    refused(bench, DataError, source, "metadata_2.parquet: missing")
    shutil.rmtree(source / "img_emb")
    (source / "img_emb").mkdir()
    refused(bench, UsageError, source, "no files img_emb_*.npy")


@pytest.mark.parametrize("values", [np.zeros(60), np.zeros((60, 2, 2)), np.zeros((60, 0)), np.ones((60, 4), int)])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_are_no_rows_of_floats_are_refused(kind, values, bench):
    source, options = bench.table(kind, rows=values)
    refused(bench, DataError, source, "expected (n, d) floats", **options)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[1.0, 2.0]] * 40 + [[1.0]] + [[1.0, 2.0]] * 19, "row 40 has 1 numbers, expected 2"),
        ([[1.0, 2.0]] * 40 + [None] + [[1.0, 2.0]] * 19, "row 40 has 0 numbers, expected 2"),
        ([[1.0, 2.0]] * 59 + [[1.0, None]], "a number is null"),
        ([None] * 60, "row 0 has 0 numbers"),
        ([[1, 2]] * 60, "expected lists of floats"),
        (list(range(60)), "expected lists of floats"),
    ],
)
def test_parquet_lists_of_another_kind_or_length_are_refused(lists, words, bench, monkeypatch):
    monkeypatch.setattr(embedding_table, "VECTOR_BYTES", 80)
    kind = pa.list_(pa.float32()) if lists[0] is None else None
    pq.write_table(pa.table({"key": bench.keys, "embedding": pa.array(lists, kind)}), bench.folder / "t.parquet")
    refused(bench, DataError, bench.folder / "t.parquet", words)


def test_keys_that_are_no_text_are_refused(bench):
    lists = pa.array(list(bench.rows))
    pq.write_table(pa.table({"id": list(range(60)), "embedding": lists}), bench.folder / "t.parquet")
    refused(bench, DataError, bench.folder / "t.parquet", "column 'id' holds int64")
    pq.write_table(pa.table({"id": [*bench.keys[1:], None], "embedding": lists}), bench.folder / "t.parquet")
    refused(bench, DataError, bench.folder / "t.parquet", "nulls")
    np.savez(bench.folder / "t.npz", key=np.arange(60), embedding=bench.rows)
    refused(bench, DataError, bench.folder / "t.npz", "unicode strings")
    (bench.folder / "t.txt").write_bytes(b"\xff\xfe\n" * 60)
    np.save(bench.folder / "t.npy", bench.rows)
    refused(bench, DataError, bench.folder / "t.npy", "t.txt", keys=bench.folder / "t.txt")


def test_columns_can_be_named_and_unknown_ones_are_refused(bench):
    path = bench.folder / "t.parquet"
    pq.write_table(pa.table({"uid": bench.keys, "clip": pa.array(list(bench.rows))}), path)
    refused(bench, UsageError, path, "no 'key' or 'id' or 'image_path'", "it has: uid, clip")
    refused(bench, UsageError, path, "no 'embedding' or 'embeddings'", key_column="uid")
    refused(bench, UsageError, path, "no 'nothing'", key_column="nothing")
    bench.load(path, key_column="uid", embedding_column="clip")
    same_rows(embeddings(Store(bench.folder / "store")), bench.keys, normalised(bench.rows))


def test_what_is_no_table_is_refused(bench):
    folder = bench.folder
    (folder / "t.csv").write_text("key,embedding\n")
    refused(bench, UsageError, folder / "t.csv", "embeddings are read from")
    refused(bench, UsageError, folder / "missing.npy", "no such file or folder")
    refused(bench, UsageError, folder / "shards", "neither img_emb/")
    np.save(folder / "t.npy", bench.rows)
    refused(bench, UsageError, folder / "t.npy", "keys.txt: no such file")
    source, options = bench.table("npy", [], np.empty((0, 4), np.float32), name="empty")
    refused(bench, DataError, source, "holds no embeddings", **options)


@pytest.mark.parametrize("kind", ["npy", "npz", "npz+list", "parquet", "clip-retrieval"])
@pytest.mark.parametrize("keep", [5, 100, 0.6, 0.99])
def test_a_cut_file_is_an_error_that_names_it(kind, keep, bench):
    source, options = bench.table(kind)
    path = source / "img_emb" / "img_emb_1.npy" if kind == "clip-retrieval" else source
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises((DataError, UsageError)) as caught:  # a few bytes may be no format at all
        bench.load(source, **options)
    assert path.name in str(caught.value)
    assert not (bench.folder / "store").exists()


def test_a_flipped_bit_in_a_zip_or_parquet_is_found(bench):
    for kind in ("npz", "parquet"):
        source, options = bench.table(kind)
        data = bytearray(source.read_bytes())
        data[len(data) // 2] ^= 16
        source.write_bytes(data)
        refused(bench, DataError, source, source.name, **options)


def test_pickles_are_not_opened(bench):
    np.save(bench.folder / "t.npy", np.array([{}] * 60, object), allow_pickle=True)
    refused(bench, DataError, bench.folder / "t.npy", "t.npy", keys=bench.text(bench.keys, "t"))
    np.savez(bench.folder / "t.npz", key=np.array(bench.keys, object), embedding=bench.rows)
    refused(bench, DataError, bench.folder / "t.npz", "t.npz")


# memory


@pytest.mark.parametrize("kind", ["npy", "npz", "npz+list", "parquet-fixed", "clip-retrieval"])
def test_the_whole_table_is_never_in_memory(kind, bench, monkeypatch):
    """12,000 rows of 256 numbers are 12 MB; only 60 of them are of the shards."""
    monkeypatch.setattr(embedding_table, "VECTOR_BYTES", 1 << 18)
    monkeypatch.setattr(embedding_table, "KEY_ROWS", 1000)
    keys = [*bench.keys, *(f"k{i}" for i in range(11_940))]
    source, options = bench.table(kind, keys, np.ones((12_000, 256), np.float32))
    tracemalloc.start()
    bench.load(source, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    assert len(embeddings(Store(bench.folder / "store"))) == 60


def test_a_zip_member_is_unpacked_in_pieces(bench, monkeypatch):
    sizes = []
    real = zipfile.ZipExtFile.read

    def read(self, n=-1):
        sizes.append(n)
        return real(self, n)

    source, options = bench.table("npz+list")
    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    bench.load(source, **options)
    assert -1 not in sizes
    assert None not in sizes
