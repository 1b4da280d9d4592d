"""Renamed, left out and made members: what stands in the output, that it is proved, and the same each time."""

import itertools

import pytest

from sspruning import api
from sspruning.config import WriteConfig
from sspruning.errors import ShardError, UsageError
from sspruning.stages.verify import COPIED, REWRITTEN, verify
from sspruning.stages.write import write
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import Store

CLASSES = {"cls": "cluster", "rename_suffix": {"jpeg": "jpg"}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("members")
    return folder, small.corpus(folder / "shards", shards=2, count=15)


@pytest.fixture(scope="module")
def store(corpus, settings):
    folder, _ = corpus
    api.embed(str(folder / "shards"), folder / "store", config=settings())
    api.select(folder / "store", config=settings("select.keep_fraction=0.8"))
    return Store(folder / "store")


@pytest.fixture
def selection(store):
    return SelectionFile.open(store.path / "selection.parquet")


@pytest.fixture
def do(store, selection, inline, tmp_path):
    """Return ``do(folder, **write settings)``: manifest of the shards in that folder."""

    def run(name="pruned", executor=inline, **config):
        made = WriteConfig(**{"num_shards": 3, "index": [], **config})
        return write(store, selection, tmp_path / name, made, executor)

    return run


def read(small, folder):
    return {key: own for path in sorted(folder.glob("*.tar")) for key, own in small.members(path).items()}


def column(selection, name):
    kept = selection.column("kept")
    return dict(zip(selection.column("key")[kept].tolist(), selection.column(name)[kept].tolist(), strict=True))


def test_the_class_is_the_number_of_the_prototype(do, corpus, selection, small, tmp_path):
    do(cls="cluster", order="shuffled")
    centroid = column(selection, "centroid")
    assert len(set(centroid.values())) > 1
    found = read(small, tmp_path / "pruned")
    assert found == {key: {**corpus[1][key], "cls": b"%d" % centroid[key]} for key in centroid}


@pytest.mark.parametrize(("cls", "expected"), [("zero", {"cls": b"0"}), ("none", {})])
def test_the_class_may_be_zero_or_gone(cls, expected, do, corpus, selection, small, tmp_path):
    do(cls=cls)
    wanted = {
        key: {**{s: v for s, v in corpus[1][key].items() if s != "cls"}, **expected} for key in column(selection, "row")
    }
    assert read(small, tmp_path / "pruned") == wanted


def test_members_are_renamed_and_left_out(do, corpus, selection, small, tmp_path):
    images = {"jpg", "jpeg", "png", "webp"}
    manifest = do(rename_suffix=dict.fromkeys(images - {"jpg"}, "jpg"), members=["jpg", "txt"])
    wanted = {
        key: {"jpg": next(v for s, v in corpus[1][key].items() if s in images), "txt": corpus[1][key]["txt"]}
        for key in column(selection, "row")
    }
    assert read(small, tmp_path / "pruned") == wanted
    assert all(shard["suffixes"] == {"jpg;txt": shard["n_samples"]} for shard in manifest.shards)


@pytest.mark.parametrize("rules", [CLASSES, {"members": ["jpg", "jpeg", "png", "webp"]}, {"cls": "none"}], ids=str)
def test_rewritten_samples_are_proved_against_their_sources(rules, do, corpus, small, tmp_path):
    do(**rules)
    assert verify(tmp_path / "pruned").checked == {
        "shards with the recorded sha256, samples and size": 3,
        REWRITTEN: 24,
    }
    do("raw")
    assert verify(tmp_path / "raw").checked[COPIED] == 24


def test_a_sample_that_is_no_longer_what_it_was_made_from_is_found(do, corpus, small, tmp_path):
    do(**CLASSES)
    key = next(iter(small.members(tmp_path / "pruned" / "shard-000000.tar")))
    target = corpus[0] / "shards" / "train-000000.tar"
    offset = small.offset_of(target, key, "txt")
    small.flip(target, offset)
    report = verify(tmp_path / "pruned")
    small.flip(target, offset)
    assert report.problems == [f"{target}: sample {key!r} differs from its copy in the output"]


@pytest.mark.parametrize("rules", [CLASSES, {"members": ["jpg", "jpeg", "png", "webp"], "cls": "zero"}], ids=str)
def test_samples_larger_than_the_copy_buffer_are_rewritten_in_pieces(rules, do, small, tmp_path, monkeypatch):
    do("usual", order="shuffled", **rules)
    monkeypatch.setattr("sspruning.stages.write_shard.COPY_BYTES", 1000)
    monkeypatch.setattr("sspruning.stages.write_shard.OPEN_SOURCES", 1)
    do("pieces", order="shuffled", **rules)
    assert small.digests(tmp_path / "pieces") == small.digests(tmp_path / "usual")


@pytest.mark.parametrize("copy_bytes", [1000, 4 << 20], ids=["large", "small"])
@pytest.mark.parametrize("place", ["name", "size", "type", "payload", "left out"])
def test_a_changed_byte_anywhere_in_a_sample_is_found_before_it_counts(
    place, copy_bytes, do, corpus, selection, small, tmp_path, monkeypatch
):
    monkeypatch.setattr("sspruning.stages.write_shard.COPY_BYTES", copy_bytes)
    key = list(column(selection, "row"))[3]
    target = corpus[0] / "shards" / "train-000000.tar"
    image = next(iter(corpus[1][key]))
    offset = {"name": -510, "size": -380, "type": -356, "payload": 5}.get(place)
    at = small.offset_of(target, key, "txt") if offset is None else small.offset_of(target, key, image) + offset
    small.flip(target, at)
    try:
        with pytest.raises(ShardError, match="not the ones that were embedded") as caught:
            do(members=["jpg", "jpeg", "png", "webp"], cls="zero")
    finally:
        small.flip(target, at)
    assert caught.value.path == str(target)
    assert not list((tmp_path / "pruned").glob("*.tar"))
    assert small.temporaries(tmp_path) == []


def test_a_rule_that_would_lose_an_image_names_the_sample_and_writes_no_shard(do, tmp_path):
    with pytest.raises(UsageError, match=r"sample 'part\..*' would be left without the image that was embedded"):
        do(members=["jpg", "txt"])
    assert not list((tmp_path / "pruned").glob("*.tar"))


class Interrupted:
    """Runs some tasks, then stops as a signal does."""

    workers = 1

    def __init__(self, inline, after):
        self.inline, self.after = inline, after

    def run(self, spec, tasks):
        yield from self.inline.run(spec, itertools.islice(iter(tasks), self.after))
        raise KeyboardInterrupt

    def close(self):
        pass


def test_an_interrupted_rewriting_goes_on_and_ends_with_the_same_bytes(do, inline, small, tmp_path):
    settings = {**CLASSES, "num_shards": 6, "index": "all"}
    do("whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        do(executor=Interrupted(inline, 3), **settings)
    before = {path: stamp for path, stamp in small.stamps(tmp_path / "pruned").items() if path.endswith(".tar")}
    assert len(before) == 3
    do(**settings)
    after = small.stamps(tmp_path / "pruned")
    assert {path: after[path] for path in before} == before
    assert small.digests(tmp_path / "pruned") == small.digests(tmp_path / "whole")


def test_other_members_are_another_output(do):
    do()
    with pytest.raises(UsageError, match="shards of another selection"):
        do(cls="zero")
