"""What `status` says of a store in every state."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sspruning import api
from sspruning.errors import StoreError
from sspruning.stages.status import status
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import Store


def test_a_fresh_store_is_complete_without_prototypes_and_selection(store):
    found = status(store.path)
    assert found.complete
    assert (found.n_shards, found.n_committed, found.n_samples, found.n_embedded) == (3, 3, 60, 60)
    assert found.encoder == "pixels, 192 dimensions"
    assert found.prototypes.startswith("none yet")
    assert found.selection.startswith("none yet")
    assert (found.histogram, found.bars) == ([], [])


def test_a_shard_without_a_part_is_pending(store):
    (store.path / "parts" / "train-000001.json").unlink()
    found = status(store.path)
    assert not found.complete
    assert found.pending == ["train-000001"]
    assert (found.n_committed, found.n_embedded) == (2, 40)


def test_a_damaged_shard_is_quarantined_and_not_pending(tmp_path, content, settings, small):
    small.cut(tmp_path / "shards" / "train-000002.tar", 4000)
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    found = status(tmp_path / "store")
    assert not found.complete
    assert found.pending == []
    assert "at byte" in found.quarantined["train-000002"]


def test_skipped_samples_are_counted_by_reason(tmp_path, content, settings, small):
    small.shard(tmp_path / "shards" / "x.tar", {"bad": {"jpg": b"no"}, "none": {"txt": b"t"}})
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    assert status(tmp_path / "store").skipped == {"no_image": 1, "not_an_image": 1}


def test_prototypes_and_selection_are_described_and_called_stale_when_they_are(store, tmp_path, small, settings):
    api.select(store.path, config=settings())
    found = status(store.path)
    assert found.prototypes == "4 prototypes from 60 samples"
    assert found.selection == "keeps 42 of 60 (70.0%), hard by prototype_distance"
    small.shard(tmp_path / "shards" / "y.tar", small.samples(5, 9))
    api.embed(str(tmp_path / "shards"), store.path)
    assert "stale" in status(store.path).prototypes


def test_a_selection_is_shown_as_a_histogram_of_its_scores(store, settings, monkeypatch):
    path = api.select(store.path, config=settings()).selection.path
    passes, groups = [], SelectionFile.groups
    monkeypatch.setattr(SelectionFile, "groups", lambda file, columns: passes.append(columns) or groups(file, columns))
    monkeypatch.setattr(Store, "open_part", lambda *_: pytest.fail("embeddings were read"))
    found = status(store.path)
    assert passes == [["score", "kept"]]
    score, kept = (pq.read_table(path).column(name).to_numpy() for name in ("score", "kept"))
    low, high = float(score.min()), float(score.max())
    assert [entry.embedded for entry in found.histogram] == np.histogram(score, 10, (low, high))[0].tolist()
    assert [entry.kept for entry in found.histogram] == np.histogram(score[kept], 10, (low, high))[0].tolist()
    assert (found.histogram[0].low, found.histogram[-1].high) == (low, high)
    assert len(found.bars) == 10
    assert all(
        line.endswith(f"{entry.kept} kept of {entry.embedded}")
        for line, entry in zip(found.bars, found.histogram, strict=True)
    )


def test_equal_scores_make_a_histogram_too(store, settings):
    config = settings("score.metric=imported", f"score.table={store.path / 'table.parquet'}")
    keys = pq.read_table(api.select(store.path, config=settings()).selection.path).column("key")
    pq.write_table(pa.table({"key": keys, "score": np.full(len(keys), 2.0)}), store.path / "table.parquet")
    api.select(store.path, config=config)
    found = status(store.path)
    assert sum(entry.embedded for entry in found.histogram) == 60
    assert (found.histogram[0].low, found.histogram[-1].high) == (1.5, 2.5)


def test_damage_among_the_scores_is_described_and_leaves_no_histogram(store, settings):
    path = Path(api.select(store.path, config=settings()).selection.path)
    place = pq.read_metadata(path).row_group(0).column(5)
    content = bytearray(path.read_bytes())
    content[(place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    found = status(store.path)
    assert "damaged" in found.selection
    assert found.histogram == []


def test_damaged_artefacts_are_described_and_do_not_stop_it(store, settings):
    api.select(store.path, config=settings())
    (store.path / "prototypes.h5").write_bytes(b"x")
    (store.path / "selection.parquet").write_bytes(b"x")
    found = status(store.path)
    assert "damaged" in found.prototypes
    assert "not a selection" in found.selection


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no store here"):
        status(tmp_path)
