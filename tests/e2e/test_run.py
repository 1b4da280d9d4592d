"""`sspruning run` on a tiny corpus: what it writes, what it leaves alone, and that nothing decides but the input."""

import gc
import json
import shutil
import warnings

import pytest
import webdataset


def kept_keys(small, folder):
    return {key for path in sorted(folder.glob("*.tar")) for key in small.members(path)}


def test_exactly_the_asked_for_fraction_is_written_and_verified(work, corpus, small, call):
    output = call("run", "tiny.yaml").stdout
    assert "kept 42 of 60 samples (70.0%)" in output
    written = sorted(path.name for path in (work / "pruned").glob("*.tar"))
    assert written == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert len(kept_keys(small, work / "pruned")) == 42
    assert "42 samples equal to their source, byte for byte" in call("verify", "pruned").stdout
    assert "3 parts with the recorded sha256" in call("verify", "runs/tiny").stdout


def test_webdataset_yields_exactly_the_kept_samples_with_all_their_members(work, corpus, small, call):
    call("run", "tiny.yaml")
    urls = [str(path) for path in sorted((work / "pruned").glob("*.tar"))]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its last file to the garbage collector
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            found[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
        gc.collect()
    assert len(found) == 42
    assert found.keys() == kept_keys(small, work / "pruned")
    assert found == {key: corpus[key] for key in found}


def test_members_keep_their_tar_headers(work, corpus, small, call):
    call("run", "tiny.yaml")
    source = small.entries(*sorted((work / "shards").glob("*.tar")))
    written = small.entries(*sorted((work / "pruned").glob("*.tar")))
    assert len(written) > 3 * 42
    assert written == {name: source[name] for name in written}


def test_trainers_find_correct_index_files(work, corpus, small, call):
    call("run", "tiny.yaml")
    pruned = work / "pruned"
    shards = sorted(pruned.glob("*.tar"))
    counts = {path.name: len(small.members(path)) for path in shards}
    assert json.loads((pruned / "sizes.json").read_text()) == counts
    split = json.loads((pruned / "_info.json").read_text())["splits"]["train"]
    assert split == {
        "name": "train",
        "num_samples": 42,
        "filenames": list(counts),
        "shard_lengths": list(counts.values()),
    }
    index = json.loads((pruned / "shardindex.json").read_text())
    assert index["shardlist"] == [
        {"url": path.name, "nsamples": counts[path.name], "filesize": path.stat().st_size} for path in shards
    ]
    manifest = json.loads((pruned / ".sspruning" / "manifest.json").read_text())
    assert (manifest["n_kept"], manifest["n_embedded"]) == (42, 60)
    assert {shard["name"]: shard["sha256"] for shard in manifest["shards"]} == {
        path.name: small.digests(pruned)[path.name] for path in shards
    }


def test_the_second_run_does_no_work_and_touches_no_file(work, corpus, small, call):
    call("run", "tiny.yaml")
    before = small.stamps(work / "runs", work / "pruned", but=["events.jsonl"])
    output = call("run", "tiny.yaml").stdout
    assert "nothing to do: every shard was up to date" in output
    assert small.stamps(work / "runs", work / "pruned", but=["events.jsonl"]) == before


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small):
    """Digests of a run in one process, and a copy of its corpus."""
    from sspruning import api

    folder = tmp_path_factory.mktemp("reference")
    small.corpus(folder / "shards")
    api.prune(configured(folder, "execution.executor=inline"))
    return folder, results(small, folder)


def configured(folder, *settings):
    from sspruning.config import load_config

    fixed = [
        f"corpus.input={json.dumps(str(folder / 'shards'))}",
        f"paths.run_dir={json.dumps(str(folder / 'run'))}",
        f"paths.output={json.dumps(str(folder / 'pruned'))}",
        "encoder.name=pixels",
        "cluster.n_clusters=4",
        "select.keep_fraction=0.7",
        "write.samples_per_shard=16",
    ]
    return load_config(None, [*fixed, *settings])


def results(small, folder):
    return small.digests(folder / "pruned") | small.digests(folder / "run" / "store" / "parts")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bytes(workers, reference, small):
    from sspruning import api

    folder, expected = reference
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "pruned")
    api.prune(configured(folder, f"execution.workers={workers}"))
    found = results(small, folder)
    assert len([name for name in found if name.endswith(".h5")]) == 3
    assert found == expected


def test_a_changed_caption_byte_redoes_only_its_shard(work, corpus, small, call):
    call("run", "tiny.yaml")
    parts = work / "runs" / "tiny" / "store" / "parts"
    before = small.stamps(parts)
    target = work / "shards" / "train-000001.tar"
    key = next(iter(small.members(target)))
    with target.open("r+b") as stream:
        stream.seek(small.offset_of(target, key, "txt"))
        stream.write(b"C")
    assert "60 of 60 samples" in call("embed", "shards", "--store", "runs/tiny/store").stdout
    after = small.stamps(parts)
    assert {path for path in before if "train-000001" not in path} == {
        path for path in after if after[path] == before.get(path)
    }
    assert len(after) == len(before)
    call("run", "tiny.yaml", "--overwrite")
    call("verify", "pruned")


def test_a_touched_shard_with_the_same_bytes_is_not_embedded_again(work, corpus, small, call):
    call("run", "tiny.yaml")
    before = small.stamps(work / "runs" / "tiny" / "store" / "parts")
    for path in (work / "shards").glob("*.tar"):
        path.touch()
    call("run", "tiny.yaml")
    assert small.stamps(work / "runs" / "tiny" / "store" / "parts") == before


def test_an_added_shard_is_the_only_one_embedded(work, corpus, small, call):
    call("run", "tiny.yaml")
    before = small.stamps(work / "runs" / "tiny" / "store" / "parts")
    small.shard(work / "shards" / "train-000003.tar", small.samples(3, 10))
    plan = call("run", "tiny.yaml", "--dry-run").stdout
    assert "to embed: 1 shards" in plan
    assert "kept 49 of 70" in call("run", "tiny.yaml", "--overwrite").stdout
    after = small.stamps(work / "runs" / "tiny" / "store" / "parts")
    assert {path: after[path] for path in before} == before
    assert {path.rsplit("/", 1)[1].split(".")[0] for path in after.keys() - before.keys()} == {"train-000003"}


def test_a_removed_shard_leaves_the_corpus(work, corpus, small, call):
    call("run", "tiny.yaml")
    (work / "shards" / "train-000002.tar").unlink()
    assert "kept 28 of 40" in call("run", "tiny.yaml", "--overwrite").stdout
    manifest = json.loads((work / "runs" / "tiny" / "store" / "manifest.json").read_text())
    assert [part["shard_id"] for part in manifest["parts"]] == ["train-000000", "train-000001"]
    call("verify", "pruned")


def test_the_manifest_of_a_store_is_made_again_when_it_is_lost(work, corpus, small, call):
    call("run", "tiny.yaml")
    manifest = work / "runs" / "tiny" / "store" / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    call("run", "tiny.yaml")
    assert manifest.read_bytes() == content


def test_samples_without_an_image_are_counted_and_left_out(work, corpus, small, call):
    small.rewrite(work / "shards" / "train-000000.tar", lambda content: content["part.0/s0-0000"].pop("jpg"))
    output = call("run", "tiny.yaml").stdout
    assert "59 of 60 samples" in output
    assert "skipped, no_image: 1" in output
    assert "part.0/s0-0000" not in kept_keys(small, work / "pruned")


def test_a_shard_without_a_usable_image_takes_part_as_zero_rows(work, corpus, small, call):
    def spoil(content):
        for members in content.values():
            members[next(iter(members))] = b"no image"

    small.rewrite(work / "shards" / "train-000001.tar", spoil)
    output = call("run", "tiny.yaml").stdout
    assert "40 of 60 samples" in output
    assert "kept 28 of 40" in output
    assert "28 samples equal" in call("verify", "pruned").stdout
    call("verify", "runs/tiny")


def test_a_corpus_without_any_usable_image_ends_as_a_data_error(work, small, call):
    small.shard(work / "shards" / "a.tar", {f"k{i}": {"jpg": b"no image"} for i in range(5)})
    result = call("run", "tiny.yaml", code=3)
    assert "no sample could be embedded" in result.stderr
    assert "not_an_image" in result.stderr


def test_the_shipped_encoder_runs_the_whole_chain_and_repeats_its_bytes(work, corpus, small, call):
    options = ["--set", "encoder.name=shipped", "--set", "name=shipped", "--set", "encoder.batch_size=16"]
    output = call("run", "tiny.yaml", *options).stdout
    assert "60 of 60 samples of 3 shards are embedded" in output
    assert "42 samples equal" in call("verify", "pruned").stdout
    first = small.digests(work / "pruned") | small.digests(work / "runs" / "shipped" / "store" / "parts")
    shutil.rmtree(work / "runs")
    shutil.rmtree(work / "pruned")
    call("run", "tiny.yaml", *options)
    assert small.digests(work / "pruned") | small.digests(work / "runs" / "shipped" / "store" / "parts") == first
