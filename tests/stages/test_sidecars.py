"""The files beside the shards: what trainers read, and the proof of where samples came from."""

import hashlib
import json

import pytest

from sspruning import api
from sspruning.config import load_config
from sspruning.errors import StoreError
from sspruning.stages.verify import verify
from sspruning.storage.artifacts import SelectionFile

META_FILES = (
    "class-ids.npy",
    "config.yaml",
    "entries.npy",
    "manifest.json",
    "selection.parquet",
    "sources.json",
)


def content_of(path):
    return json.loads(path.read_text())


def test_index_files_agree_with_the_shards(pruned, small):
    counts = {path.name: len(small.members(path)) for path in sorted(pruned.glob("*.tar"))}
    assert content_of(pruned / "sizes.json") == counts
    info = content_of(pruned / "_info.json")["splits"]["train"]
    assert (info["num_samples"], info["filenames"]) == (42, list(counts))
    assert info["shard_lengths"] == list(counts.values())
    index = content_of(pruned / "shardindex.json")
    assert index["wids_version"] == 1
    assert [(s["url"], s["nsamples"], s["filesize"]) for s in index["shardlist"]] == [
        (name, count, (pruned / name).stat().st_size) for name, count in counts.items()
    ]


def test_sources_are_those_that_gave_a_sample_with_their_digest(pruned, tmp_path):
    sources = content_of(pruned / ".sspruning" / "sources.json")
    assert [entry["shard_id"] for entry in sources] == ["train-000000", "train-000001", "train-000002"]
    for entry in sources:
        path = tmp_path / "shards" / f"{entry['shard_id']}.tar"
        assert entry["path"] == str(path)
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_selection_and_its_recipe_travel_with_the_shards(pruned, store, settings):
    meta = pruned / ".sspruning"
    assert (meta / "selection.parquet").read_bytes() == (store.path / "selection.parquet").read_bytes()
    assert load_config(meta / "config.yaml").recipe() == settings().recipe() | {
        "corpus": load_config(meta / "config.yaml").recipe()["corpus"]
    }
    assert "workers" not in (meta / "config.yaml").read_text()
    manifest = content_of(meta / "manifest.json")
    assert manifest["format"] == "sspruning-output"
    assert manifest["selection"] == SelectionFile.open(meta / "selection.parquet").selection.fingerprint
    assert (manifest["n_kept"], manifest["n_embedded"]) == (42, 60)


def test_no_trace_of_the_work_is_left(pruned):
    found = {str(path.relative_to(pruned)) for path in pruned.rglob("*")}
    assert found == {
        *(f"shard-{number:06d}.tar" for number in range(3)),
        "_info.json",
        "shardindex.json",
        "sizes.json",
        ".sspruning",
        *(f".sspruning/{name}" for name in META_FILES),
    }


@pytest.mark.parametrize("name", ["sizes.json", "entries.npy", "shardindex.json", "sources.json", "manifest.json"])
def test_an_output_counts_only_when_its_last_file_is_there(name, store, settings, tmp_path, monkeypatch, small):
    from sspruning.stages import sidecars

    def failing(function):
        def write(path, value):
            if path.name == name:
                raise KeyboardInterrupt
            return function(path, value)

        return write

    for function in ("write_json", "write_stream"):
        monkeypatch.setattr(sidecars, function, failing(getattr(sidecars, function)))
    with pytest.raises(KeyboardInterrupt):
        api.select(store.path, output=tmp_path / "pruned", config=settings())
    with pytest.raises(StoreError, match="not finished"):
        verify(tmp_path / "pruned")
    before = small.stamps(tmp_path / "pruned")
    monkeypatch.undo()
    api.select(store.path, output=tmp_path / "pruned", config=settings())
    assert verify(tmp_path / "pruned").ok
    after = small.stamps(tmp_path / "pruned")
    assert all(after[path] == before[path] for path in after if path.endswith(".tar"))
