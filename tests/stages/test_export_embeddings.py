"""Embeddings leave the store as they are, in store order, and come back to the same bits."""

import os
import runpy
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sspruning import api
from sspruning.config import CorpusConfig
from sspruning.errors import MachineError, StoreError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.stages import export_embeddings as module
from sspruning.stages.embedding_table import open_table
from sspruning.stages.export_embeddings import EMBEDDING_FORMS, export_embeddings
from sspruning.stages.import_embeddings import import_embeddings
from sspruning.storage.corpus import open_corpus
from sspruning.storage.store import Store

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N, DIM = 131, 16
KEYS = [f"a.b/é{key}" for key in keys_of(N)]
ROWS = planted(N)
FORMS = sorted(EMBEDDING_FORMS)
FOLDERS = {"npy", "clip-retrieval"}


@pytest.fixture
def made(tmp_path):
    """A store of four shards, one of them empty."""
    return make_store(tmp_path / "made", split(KEYS, ROWS, [60, 0, 1, 70]))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * DIM * 25)


def output_of(folder, form):
    return folder / "out" / (form if form in FOLDERS else f"{form}.parquet")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def plain(column):
    """(n, d) float32 of a parquet column of lists."""
    return np.array(column.to_pylist(), np.float32)


# what stands in the files


def test_npy_is_the_stored_array_and_a_list_of_keys(made, tmp_path, small_blocks):
    report = export_embeddings(made, tmp_path / "out", "npy")
    found = np.load(tmp_path / "out" / "embeddings.npy")
    assert found.dtype == np.float16
    assert found.tobytes() == ROWS.tobytes()
    assert (tmp_path / "out" / "keys.txt").read_text(encoding="utf-8") == "".join(key + "\n" for key in KEYS)
    assert names_in(tmp_path / "out") == ["embeddings.npy", "keys.txt"]
    assert (report.n_rows, report.dim) == (N, DIM)
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_parquet_has_id_and_a_list_of_float32(made, tmp_path, small_blocks):
    path = tmp_path / "e.parquet"
    report = export_embeddings(made, path, "parquet")
    found = pq.read_table(path)
    assert found.schema.names == ["id", "embedding"]
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
    assert found.column("id").to_pylist() == KEYS
    assert plain(found.column("embedding")).tobytes() == ROWS.astype(np.float32).tobytes()
    assert pq.ParquetFile(path).metadata.num_row_groups == 3 + 1 + 3  # blocks of 25 rows that end with their shard
    assert report.size == path.stat().st_size


def test_clip_retrieval_has_a_part_for_each_shard_with_rows(made, tmp_path, small_blocks):
    export_embeddings(made, tmp_path / "out", "clip-retrieval")
    arrays = sorted((tmp_path / "out" / "img_emb").iterdir())
    tables = sorted((tmp_path / "out" / "metadata").iterdir())
    assert [path.name for path in arrays] == [f"img_emb_{i}.npy" for i in range(3)]
    assert [path.name for path in tables] == [f"metadata_{i}.parquet" for i in range(3)]
    assert [len(np.load(path)) for path in arrays] == [60, 1, 70]
    assert np.concatenate([np.load(path) for path in arrays]).tobytes() == ROWS.tobytes()
    metadata = pa.concat_tables([pq.read_table(path) for path in tables])
    assert metadata.column("image_path").to_pylist() == KEYS
    assert metadata.column("shard").to_pylist() == ["s00"] * 60 + ["s02"] + ["s03"] * 70


def test_names_of_many_parts_sort_by_number(tmp_path):
    store = make_store(tmp_path / "made", split(KEYS[:12], ROWS[:12], [1] * 12))
    export_embeddings(store, tmp_path / "out", "clip-retrieval")
    names = names_in(tmp_path / "out" / "img_emb")
    assert names[:2] == ["img_emb_00.npy", "img_emb_01.npy"]
    assert (
        np.concatenate([np.load(tmp_path / "out" / "img_emb" / name) for name in names]).tobytes()
        == ROWS[:12].tobytes()
    )


@pytest.fixture
def selected(store, settings):
    """The selection of a real store."""
    api.select(store.path, config=settings())
    return store.path / "selection.parquet"


def test_atlas_shows_what_the_selection_says_beside_the_embeddings(store, selected, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * store.dim * 7)
    path = tmp_path / "atlas.parquet"
    report = export_embeddings(store, path, "atlas", selection=selected)
    found, rows = pq.read_table(path), pq.read_table(selected)
    assert found.schema.names == ["id", "shard", "cluster", "score", "kept", "reason", "embedding"]
    for ours, theirs in {
        "id": "key",
        "shard": "shard",
        "cluster": "centroid",
        "score": "score",
        "kept": "kept",
    }.items():
        assert found.column(ours).to_pylist() == rows.column(theirs).to_pylist()
    assert found.column("reason").to_pylist() == rows.column("reason").to_pylist()
    expected = np.concatenate([chunk.embeddings for chunk in store.chunks()]).astype(np.float32)
    assert plain(found.column("embedding")).tobytes() == expected.tobytes()
    assert report.n_rows == found.num_rows == 60


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("embedding-atlas") is None, reason="no command embedding-atlas: pip install it")
def test_embedding_atlas_projects_and_shows_what_was_exported(store, selected, tmp_path):
    export_embeddings(store, tmp_path / "atlas.parquet", "atlas", selection=selected)
    found = subprocess.run(
        ["embedding-atlas", "atlas.parquet", "--vector", "embedding", "--export-application", "shown"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    shown, ours = (
        pq.read_table(tmp_path / "shown" / "data" / "dataset.parquet"),
        pq.read_table(tmp_path / "atlas.parquet"),
    )
    for name in ours.schema.names:
        assert shown.column(name).to_pylist() == ours.column(name).to_pylist(), name
    places = np.stack([shown.column(f"projection_{axis}").to_numpy() for axis in "xy"], axis=1)
    assert np.isfinite(places).all()
    assert (np.ptp(places, axis=0) > 0).all()


@pytest.mark.parametrize("form", sorted(FOLDERS))
def test_blocks_change_no_byte_of_an_array(form, store, tmp_path, monkeypatch):
    export_embeddings(store, tmp_path / "one", form)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    export_embeddings(store, tmp_path / "two", form)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert files
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


@pytest.mark.parametrize("form", FORMS)
def test_export_and_import_give_the_same_bits(form, store, selected, small, tmp_path):
    selection = selected if form == "atlas" else None
    output = output_of(tmp_path, form)
    export_embeddings(store, output, form, selection=selection)
    corpus = open_corpus([str(tmp_path / "shards")])
    report = import_embeddings(open_table(output), corpus, tmp_path / "back", CorpusConfig(), InlineExecutor())
    assert (report.n_embedded, report.skipped, report.notes) == (60, {}, [])
    for theirs, ours in zip(store.records(), Store(tmp_path / "back").records(), strict=True):
        with store.open_part(theirs) as a, Store(tmp_path / "back").open_part(ours) as b:
            assert a.embedding().tobytes() == b.embedding().tobytes()
            assert a.keys() == b.keys()
            assert a.digest().tobytes() == b.digest().tobytes()


# what is refused, and what it leaves behind


def test_unknown_forms_and_names_that_do_not_fit_are_refused(made, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'parquet'"):
        export_embeddings(made, tmp_path / "x", "parqet")
    with pytest.raises(UsageError, match=r"must end in \.parquet"):
        export_embeddings(made, tmp_path / "train-0.tar", "parquet")
    assert names_in(tmp_path) == ["made"]


def test_only_atlas_takes_a_selection_and_it_needs_one(made, store, selected, tmp_path):
    with pytest.raises(UsageError, match="takes a selection"):
        export_embeddings(store, tmp_path / "a.parquet", "atlas")
    with pytest.raises(UsageError, match="takes no selection"):
        export_embeddings(store, tmp_path / "a.parquet", "parquet", selection=selected)
    with pytest.raises(StoreError, match="was not made from the store"):
        export_embeddings(made, tmp_path / "a.parquet", "atlas", selection=selected)
    assert not (tmp_path / "a.parquet").exists()


def test_a_file_is_replaced_only_on_request_and_a_folder_never(made, tmp_path):
    path = tmp_path / "e.parquet"
    path.write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        export_embeddings(made, path, "parquet")
    assert path.read_text() == "mine"
    export_embeddings(made, path, "parquet", overwrite=True)
    assert pq.read_metadata(path).num_rows == N
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for output in (folder, path):
        with pytest.raises(UsageError, match="stands there already"):
            export_embeddings(made, output, "npy", overwrite=True)
    assert names_in(folder) == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    export_embeddings(made, tmp_path / "empty", "npy")
    assert len(names_in(tmp_path / "empty")) == 2


def test_a_key_with_a_line_break_is_refused_by_the_list_and_held_by_parquet(tmp_path):
    store = make_store(tmp_path / "made", {"s": (["a", "b\nc"], ROWS[:2])})
    with pytest.raises(UsageError, match="line break"):
        export_embeddings(store, tmp_path / "out", "npy")
    assert names_in(tmp_path) == ["made"]
    export_embeddings(store, tmp_path / "out", "clip-retrieval")
    assert pq.read_table(tmp_path / "out" / "metadata").column("image_path").to_pylist() == ["a", "b\nc"]


def test_a_folder_appears_when_all_of_it_is_whole(made, tmp_path, monkeypatch):
    calls, real = [], module.write_stream

    def second_fails(path, pieces):
        calls.append(path)
        if len(calls) == 3:
            raise MachineError("no space")
        assert not (tmp_path / "out").exists()
        return real(path, pieces)

    monkeypatch.setattr(module, "write_stream", second_fails)
    with pytest.raises(MachineError):
        export_embeddings(made, tmp_path / "out", "clip-retrieval")
    assert names_in(tmp_path) == ["made"]


def test_what_a_killed_export_left_is_removed_by_the_next(made, tmp_path):
    left = tmp_path / ".out.unfinished" / "img_emb"
    left.mkdir(parents=True)
    (left / "img_emb_7.npy").write_bytes(b"half")
    export_embeddings(made, tmp_path / "out", "clip-retrieval")
    assert not left.parent.exists()
    assert not (tmp_path / "out" / "img_emb" / "img_emb_7.npy").exists()


def test_a_store_without_rows_is_refused(tmp_path):
    store = make_store(tmp_path / "made", {"s": ([], ROWS[:0])})
    with pytest.raises(UsageError, match="holds no embeddings"):
        export_embeddings(store, tmp_path / "out", "npy")


@pytest.mark.parametrize("form", ["npy", "parquet", "clip-retrieval"])
def test_the_embeddings_are_never_all_in_memory(form, tmp_path, monkeypatch):
    """20,000 rows of 256 numbers are 10 MB as stored."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 18)
    keys = keys_of(20_000)
    store = make_store(tmp_path / "made", {"s": (keys, np.full((20_000, 256), 1 / 16, np.float16))})
    del keys
    tracemalloc.start()
    export_embeddings(store, output_of(tmp_path, form), form)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # of which keys are 2 to 3
