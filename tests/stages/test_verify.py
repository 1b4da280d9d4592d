"""`verify` passes what is whole and names what is not."""

import contextlib
import shutil

import pytest

from sspruning.errors import DataError, UsageError
from sspruning.stages.verify import verify


def problems(folder):
    report = verify(folder)
    assert not report.ok
    return "\n".join(report.problems)


def test_whole_shards_are_proved_sample_by_sample(pruned):
    report = verify(pruned)
    assert report.ok
    assert report.checked == {
        "shards with the recorded sha256, samples and size": 3,
        "samples equal to their source, byte for byte": 42,
    }
    assert report.notes == []


def test_a_deleted_shard_is_found(pruned):
    (pruned / "shard-000001.tar").unlink()
    found = problems(pruned)
    assert "shard-000001.tar" in found
    assert "28 samples in the shards, the manifest says 42" in found
    assert "is selected but missing in the output" in found


def test_a_cut_shard_is_found(pruned, small):
    target = pruned / "shard-000001.tar"
    small.cut(target, target.stat().st_size // 2)
    found = problems(pruned)
    assert f"{target}: at byte" in found
    assert "missing in the output" in found


def test_every_flipped_byte_of_a_shard_is_found(pruned, small):
    target = pruned / "shard-000002.tar"
    size = target.stat().st_size
    for offset in range(0, size, size // 37):
        small.flip(target, offset)
        assert "shard-000002.tar" in problems(pruned), f"byte {offset}"
        small.flip(target, offset)
    assert verify(pruned).ok


def test_a_spoiled_shard_is_not_counted_as_proved(pruned, small):
    small.flip(pruned / "shard-000002.tar", 600)
    assert verify(pruned).checked["shards with the recorded sha256, samples and size"] == 2


def test_swapped_shards_are_found(pruned):
    first, second = pruned / "shard-000000.tar", pruned / "shard-000001.tar"
    first.rename(pruned / "x")
    second.rename(first)
    (pruned / "x").rename(second)
    found = problems(pruned)
    assert "shard-000000.tar: content is not what the manifest records" in found
    assert "shard-000001.tar: content is not what the manifest records" in found


def test_an_extra_shard_is_found(pruned):
    shutil.copy(pruned / "shard-000000.tar", pruned / "shard-000009.tar")
    assert "shard-000009.tar: not in the manifest" in problems(pruned)


@pytest.mark.parametrize("name", ["sizes.json", "_info.json", "shardindex.json"])
def test_a_missing_index_file_is_found(name, pruned):
    (pruned / name).unlink()
    assert "missing" in problems(pruned)


def test_a_flipped_byte_in_a_kept_sample_of_the_source_is_found(pruned, tmp_path, small):
    key = next(iter(small.members(pruned / "shard-000000.tar")))
    target = tmp_path / "shards" / "train-000000.tar"
    small.flip(target, small.offset_of(target, key, "txt"))
    assert f"sample {key!r} differs from its copy" in problems(pruned)


def test_a_damaged_source_is_found(pruned, tmp_path, small):
    target = tmp_path / "shards" / "train-000001.tar"
    small.cut(target, 20_000)
    found = problems(pruned)
    assert f"{target}: at byte" in found
    assert "not in its source any more" in found


def test_without_the_sources_it_says_so_and_proves_the_rest(pruned, tmp_path):
    (tmp_path / "shards" / "train-000001.tar").unlink()
    report = verify(pruned)
    assert report.ok
    (note,) = report.notes
    assert "train-000001.tar" in note
    assert "not with the source" in note
    found = report.checked
    assert (
        found["samples equal to their source, byte for byte"] + found["samples present, source gone"]
        == sum(found.values()) - found["shards with the recorded sha256, samples and size"]
        == 42
    )


@pytest.mark.parametrize("name", ["manifest.json", "sources.json", "selection.parquet"])
def test_a_spoiled_record_of_an_output_is_an_error_and_no_crash(name, pruned, small):
    target = pruned / ".sspruning" / name
    for offset in range(3, target.stat().st_size - 2, max(1, target.stat().st_size // 23)):
        content = target.read_bytes()
        target.write_bytes(content[:offset])
        try:
            assert not verify(pruned).ok, f"cut at {offset}"
        except DataError as error:
            assert name in str(error)  # noqa: PT017 - a report and an error are both fine
        target.write_bytes(content)
    assert verify(pruned).ok


def test_a_flipped_selection_never_passes_as_another_selection(pruned, small):
    target = pruned / ".sspruning" / "selection.parquet"
    size = target.stat().st_size
    for offset in range(0, size, size // 61):
        small.flip(target, offset)
        with contextlib.suppress(DataError):
            report = verify(pruned)
            assert not report.ok or report.checked["samples equal to their source, byte for byte"] == 42
        small.flip(target, offset)


def test_a_whole_store_is_proved(store):
    report = verify(store.path)
    assert report.ok
    assert report.checked == {
        "parts with the recorded sha256 and sound rows": 3,
        "embedded samples accounted for": 60,
        "other files as their digests say": 3,
    }


def test_a_flipped_part_is_found(store, small):
    target = sorted((store.path / "parts").glob("*.h5"))[1]
    size = target.stat().st_size
    for offset in range(0, size, size // 17):
        small.flip(target, offset)
        assert target.name in problems(store.path)
        small.flip(target, offset)
    assert verify(store.path).ok


@pytest.mark.parametrize("damage", ["part gone", "part cut", "record gone", "parts swapped"])
def test_lost_parts_are_found(damage, store, small):
    first, second, _ = sorted((store.path / "parts").glob("*.h5"))
    if damage == "part gone":
        first.unlink()
    elif damage == "part cut":
        small.cut(first, 1000)
    elif damage == "record gone":
        (store.path / "parts" / "train-000000.json").unlink()
    else:
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
    assert "train-000000" in problems(store.path)


def test_a_quarantined_shard_is_a_note(tmp_path, content, settings, small):
    from sspruning import api

    small.cut(tmp_path / "shards" / "train-000002.tar", 4000)
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    report = verify(tmp_path / "store")
    assert report.ok
    assert "train-000002: in quarantine" in report.notes[0]


def test_a_run_folder_stands_for_its_store(tmp_path, content, settings):
    from sspruning import api

    api.embed(str(tmp_path / "shards"), tmp_path / "run" / "store", config=settings())
    assert verify(tmp_path / "run").ok


def test_a_persons_config_beside_a_store_needs_no_digest(tmp_path, content, settings):
    from sspruning import api

    api.embed(str(tmp_path / "shards"), tmp_path / "mine" / "store", config=settings())
    (tmp_path / "mine" / "config.yaml").write_text("mine: true\n")
    assert verify(tmp_path / "mine").ok
    (tmp_path / "mine" / "store" / "digests.json").unlink()
    assert "digests.json: missing" in problems(tmp_path / "mine")


def test_other_folders_are_refused_with_what_to_give(tmp_path):
    with pytest.raises(UsageError, match="neither pruned shards nor a store"):
        verify(tmp_path)
    with pytest.raises(UsageError):
        verify(tmp_path / "nowhere")
