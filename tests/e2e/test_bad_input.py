"""What is wrong with the input is named, put aside or refused; the rest is done; nothing is lost in silence."""

import json
import os

import pytest

from sspruning.storage.store import Store


def skipped_of(store):
    """``{key: reason}`` of all samples that were not embedded."""
    found = {}
    for record in store.records():
        with store.open_part(record) as part:
            found.update({key: reason for _, key, reason in part.skipped()})
    return found


def assert_ledger_holds(store):
    for record in store.records():
        assert record.n_samples == record.n_rows + sum(record.skipped.values())


def test_a_cut_shard_is_put_aside_by_name_and_offset_and_the_others_are_done(work, corpus, small, call):
    target = work / "shards" / "train-000001.tar"
    whole = target.read_bytes()
    key = list(small.members(target))[10]
    offset = small.offset_of(target, key, "cls")
    small.cut(target, offset + 1)

    result = call("run", "tiny.yaml", code=3)
    assert "train-000001" in result.stderr
    assert f"at byte {offset - 512}" in result.stderr
    assert "copy it again" in result.stderr
    assert "40 of 40 samples of 3 shards" in result.stdout
    (entry,) = (work / "runs" / "tiny" / "store" / "quarantine").glob("*.json")
    facts = json.loads(entry.read_text())
    assert facts["path"] == str(target)
    assert f"at byte {offset - 512}" in facts["problem"]
    assert "put aside" not in call("verify", "pruned").stdout
    assert "train-000001" in call("status", "runs/tiny", code=3).stderr

    target.write_bytes(whole)
    healed = call("run", "tiny.yaml", "--overwrite")
    assert "60 of 60 samples" in healed.stdout
    assert not list((work / "runs" / "tiny" / "store" / "quarantine").iterdir())
    assert "42 samples equal" in call("verify", "pruned").stdout
    call("status", "runs/tiny")


def test_a_shard_that_is_damaged_after_it_was_embedded_is_put_aside_too(work, corpus, small, call):
    call("run", "tiny.yaml")
    target = work / "shards" / "train-000002.tar"
    whole = target.read_bytes()
    small.cut(target, 5000)
    result = call("run", "tiny.yaml", "--overwrite", code=3)
    assert "train-000002" in result.stderr
    assert "40 of 40 samples of 3 shards" in result.stdout
    assert "28 samples equal" in call("verify", "pruned").stdout
    target.write_bytes(whole)
    call("run", "tiny.yaml", "--overwrite")
    call("status", "runs/tiny")


def test_an_undecodable_image_is_skipped_counted_and_listed(work, corpus, small, call):
    def spoil(content):
        content["part.0/s0-0000"]["jpg"] = b"<html>not found</html>"
        content["part.1/s0-0001"]["jpg"] = content["part.1/s0-0001"]["jpg"][:200]
        content["part.0/s0-0002"]["jpg"] = b""

    small.rewrite(work / "shards" / "train-000000.tar", spoil)
    result = call("run", "tiny.yaml")
    assert "57 of 60 samples" in result.stdout
    for reason in ("not_an_image", "truncated", "empty"):
        assert f"skipped, {reason}: 1" in result.stdout
    assert "kept 40 of 57" in result.stdout
    store = Store(work / "runs" / "tiny" / "store")
    assert skipped_of(store) == {
        "part.0/s0-0000": "not_an_image",
        "part.1/s0-0001": "truncated",
        "part.0/s0-0002": "empty",
    }
    assert_ledger_holds(store)
    assert "skipped, empty: 1" in call("status", "runs/tiny").stdout
    call("verify", "pruned")


def test_images_over_the_limits_are_skipped_by_reason(work, corpus, call):
    result = call("run", "tiny.yaml", "--set", "corpus.max_pixels=100", code=3)
    assert "60 too_many_pixels" in result.stderr


def test_keys_that_repeat_across_shards_are_refused_before_a_store_is_made(work, corpus, small, call):
    small.shard(work / "shards" / "again.tar", {"part.0/s0-0000": {"jpg": small.image(1)}})
    for verb in (("run", "tiny.yaml"), ("embed", "shards", "--store", "runs/tiny/store", "--encoder", "pixels")):
        result = call(*verb, code=2)
        assert "'part.0/s0-0000'" in result.stderr
        assert "again.tar" in result.stderr
        assert "train-000000.tar" in result.stderr
        assert not (work / "runs" / "tiny" / "store" / "store.json").exists()
        assert not (work / "pruned").exists()


def test_a_key_that_comes_back_within_a_shard_puts_it_aside(work, corpus, small, call):
    content = small.members(work / "shards" / "train-000000.tar")
    path = work / "shards" / "train-000000.tar"
    first = next(iter(content))
    small.shard(path, content)
    archive = path.read_bytes().rstrip(b"\0")
    archive += bytes(-len(archive) % 512)
    extra = work / "extra.tar"
    small.shard(extra, {first: {"late": b"a member far from its sample"}})
    path.write_bytes(archive + extra.read_bytes())
    result = call("run", "tiny.yaml", code=3)
    assert "occurs again" in result.stderr
    assert "40 of 40 samples" in result.stdout


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("select.keep_fracton=0.5", "Did you mean 'keep_fraction'"),
        ("selct.keep_fraction=0.5", "Did you mean 'select'"),
        ("select.keep_fraction=0", "greater than 0"),
        ("select.keep_fraction=1.5", "less than or equal to 1"),
        ("select.keep_fraction=.nan", "got nan"),
        ("select.keep_fraction=-0.1", "greater than 0"),
        ("select.keep_fraction=0.0001", "keeps none"),
        ("select.keep=hardest", "hard"),
        ("cluster.n_clusters=61", "ask for fewer"),
        ("cluster.n_clusters=0", "greater than or equal to 1"),
        ("encoder.name=pixel", "pixels"),
        ("score.metric=prototype_distanse", "prototype_distance"),
        ("execution.executor=lokal", "local"),
        ("write.order=random", "shuffled"),
        ("corpus.input=nowhere/*.tar", "no file matches"),
        ("corpus.input=pipe:cat x", "never executed"),
        ("corpus.input=ftp://example.org/a.tar", "ftp:// is not read"),
    ],
)
def test_settings_that_cannot_be_served_are_refused_before_work_starts(setting, said, work, corpus, call):
    result = call("run", "tiny.yaml", "--set", setting, code=2)
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not (work / "runs" / "tiny" / "store" / "store.json").exists()
    assert not (work / "pruned").exists()


def test_a_corpus_without_the_asked_for_suffix_is_refused_with_the_ones_it_has(work, corpus, call):
    result = call("embed", "shards", "--store", "store", "--encoder", "pixels", "--image-key", "tif", code=2)
    assert "--image-key" in result.stderr
    assert "webp" in result.stderr
    assert not (work / "store" / "store.json").exists()


@pytest.mark.parametrize("output", ["shards", "shards/pruned", "shards/../shards/a/b"])
def test_an_output_in_the_input_folder_is_refused_before_work_starts(output, work, corpus, small, call):
    before = small.stamps(work / "shards")
    result = call("run", "tiny.yaml", "--set", f"paths.output={output}", code=2)
    assert "input folder" in result.stderr
    assert "name a folder outside of it" in result.stderr
    assert small.stamps(work / "shards") == before
    assert not (work / "runs").exists()


def test_an_output_that_is_a_file_is_refused(work, corpus, call):
    (work / "pruned").write_text("something else")
    assert "name a folder" in call("run", "tiny.yaml", code=2).stderr
    assert (work / "pruned").read_text() == "something else"


def test_foreign_archives_in_the_output_are_not_touched(work, corpus, small, call):
    small.shard(work / "pruned" / "mine.tar", {"a": {"txt": b"mine"}})
    before = small.stamps(work / "pruned")
    result = call("run", "tiny.yaml", "--overwrite", code=2)
    assert "did not write" in result.stderr
    assert small.stamps(work / "pruned") == before


def test_the_shards_of_another_selection_are_replaced_only_with_overwrite(work, corpus, small, call):
    call("run", "tiny.yaml")
    (work / "pruned" / "notes.txt").write_text("kept by the user")
    before = small.stamps(work / "pruned")
    other = ("run", "tiny.yaml", "--set", "select.keep_fraction=0.2", "--set", "select.keep=easy")
    result = call(*other, code=2)
    assert "another selection" in result.stderr
    assert "--overwrite" in result.stderr
    assert small.stamps(work / "pruned") == before
    call(*other, "--overwrite")
    assert [path.name for path in (work / "pruned").glob("*.tar")] == ["shard-000000.tar"]
    assert (work / "pruned" / "notes.txt").read_text() == "kept by the user"
    assert "12 samples equal" in call("verify", "pruned").stdout


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_source_that_changed_since_it_was_embedded_never_becomes_a_shard(executor, work, corpus, small, call):
    call("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    target = work / "shards" / "train-000001.tar"
    keys = list(small.members(target))
    for key in keys:
        small.flip(target, small.offset_of(target, key, "txt"))
    result = call("select", "store", "--output", "pruned", "--executor", executor, "--workers", 1, code=3)
    assert str(target) in result.stderr
    assert "not the ones that were embedded" in result.stderr
    assert not list((work / "pruned").glob("*.tar"))
    assert small.temporaries(work) == []
    for key in keys:
        small.flip(target, small.offset_of(target, key, "txt"))
    call("select", "store", "--output", "pruned")
    call("verify", "pruned")


def test_a_source_that_is_gone_is_named(work, corpus, call):
    call("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    (work / "shards" / "train-000000.tar").rename(work / "elsewhere.tar")
    result = call("select", "store", "--output", "pruned", code=3)
    assert "train-000000.tar" in result.stderr
    assert not list((work / "pruned").glob("*.tar"))


def test_an_edit_that_keeps_size_and_time_is_found_with_verify_inputs(work, corpus, small, call):
    embed = ("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    call(*embed)
    target = work / "shards" / "train-000001.tar"
    small.flip(target, small.offset_of(target, next(iter(small.members(target))), "txt"))
    assert "nothing to do" in call(*embed).stdout
    assert "nothing to do" not in call(*embed, "--verify-inputs").stdout
    assert "nothing to do" in call(*embed, "--verify-inputs").stdout


def test_a_store_of_other_settings_is_not_mixed(work, corpus, call):
    call("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    result = call("embed", "shards", "--store", "store", "--image-size", "16", code=3)
    assert "made with other settings" in result.stderr


# Python reads this file whenever it starts, so it reaches the workers and not this process.
POISON = """\
import os
from sspruning.encoders.pixels import PixelEncoder

prepare = PixelEncoder.prepare

def deadly(self, image):
    if image.size == (13, 13):
        os._exit(7)
    return prepare(self, image)

PixelEncoder.prepare = deadly
"""


def test_an_image_that_kills_its_worker_costs_only_itself(work, small, call, monkeypatch):
    (work / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(work), str(small.PACKAGE_ROOT)]))
    small.corpus(work / "shards", shards=2, count=8)
    poisoned = {"a": {"png": small.image(1, "PNG")}, "b": {"png": small.image(2, "PNG", side=13)}}
    small.shard(work / "shards" / "poison.tar", poisoned)
    result = call("embed", "shards", "--store", "store", "--encoder", "pixels", "--workers", 1)
    assert "17 of 18 samples of 3 shards" in result.stdout
    assert "skipped, decoder_died: 1" in result.stdout
    assert skipped_of(Store(work / "store")) == {"b": "decoder_died"}
    assert_ledger_holds(Store(work / "store"))
    assert small.temporaries(work) == []
