"""A corpus in a bucket gives the store, the selection and the shards that the same files on a disk give."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

import sspruning
from sspruning import api, exchange
from sspruning.config import CorpusConfig
from sspruning.encoders import build_encoder
from sspruning.errors import ShardError, UsageError
from sspruning.records import EncoderSpec
from sspruning.stages.embed_shard import embed_shard
from sspruning.stages.fill import limits_of
from sspruning.stages.show import show
from sspruning.stages.verify import verify
from sspruning.storage import sources
from sspruning.storage.corpus import open_corpus
from sspruning.storage.store import Store

FOLDER = "s3://corpus/deep"
NAMES = [f"train-{number:06d}" for number in range(3)]


@pytest.fixture(scope="module")
def local(corpus, tmp_path_factory, settings):
    """A store of the same files on the disk, with its pruned shards."""
    folder = tmp_path_factory.mktemp("from-disk")
    api.embed(str(corpus), folder / "store", config=settings())
    api.select(folder / "store", output=folder / "pruned", config=settings())
    return folder


@pytest.fixture
def embedded(corpus, tmp_path, settings):
    """A store of the bucket."""
    api.embed(FOLDER, tmp_path / "store", config=settings())
    return Store(tmp_path / "store")


def parts(store, small):
    return {name: mark for name, mark in small.digests(store / "parts").items() if name.endswith(".h5")}


def gets(faults):
    return [path for method, path, _ in faults.seen if method == "GET"]


@pytest.mark.parametrize(
    "text",
    [
        FOLDER,
        f"{FOLDER}/",
        f"{FOLDER}/train-{{000000..000002}}.tar",
        f"{FOLDER}/train-*.tar",
        "s3://corpus/*/train-00000[0-2].tar",
        "::".join(f"{FOLDER}/{name}.tar" for name in NAMES),
    ],
)
def test_urls_name_shards_in_every_way_that_paths_do(text, corpus):
    found = open_corpus([text]).shards
    assert [shard.shard_id for shard in found] == NAMES
    assert [shard.path for shard in found] == [f"{FOLDER}/{name}.tar" for name in NAMES]
    assert [shard.size for shard in found] == [(corpus / f"{name}.tar").stat().st_size for name in NAMES]


def test_lists_may_mix_urls_and_paths(corpus, tmp_path):
    (tmp_path / "list.txt").write_text(f"# both\n{FOLDER}/train-000000.tar\n{corpus}/train-000001.tar\n")
    assert [shard.path for shard in open_corpus([f"@{tmp_path}/list.txt"]).shards] == [
        f"{FOLDER}/train-000000.tar",
        f"{corpus}/train-000001.tar",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{FOLDER}/train-000009.tar", r"train-000009\.tar: no such shard"),
        (f"{FOLDER}/x*.tar", "no object matches"),
        ("s3://corpus/none", r"holds no \.tar objects"),
        (f"{FOLDER}/a.tar.gz", "gunzip it first"),
        (f"{FOLDER}/train-000000.tar::{FOLDER}", "named twice"),
    ],
)
def test_what_is_not_there_is_refused_by_name(text, message, corpus):
    with pytest.raises(UsageError, match=message):
        open_corpus([text])


def test_the_store_is_that_of_the_local_files(local, embedded, small, faults):
    assert parts(embedded.path, small) == parts(local / "store", small)
    before = len(gets(faults))
    assert api.embed(FOLDER, embedded.path).done_now == 0
    assert set(gets(faults)[before:]) == {"/corpus?list-type=2&prefix=deep%2F&delimiter=%2F&encoding-type=url"}


def test_the_store_is_the_same_over_http_and_over_a_bad_connection(
    local, corpus, tmp_path, settings, small, proxy, faults
):
    faults.fail, faults.cut, faults.cut_after, faults.drop = 2, 3, 20_000, 1
    url = f"http://127.0.0.1:{proxy.port}/corpus/deep/train-{{000000..000002}}.tar"
    report = api.embed(url, tmp_path / "store", config=settings())
    assert (report.quarantined, faults.fail, faults.cut, faults.drop) == ({}, 0, 0, 0)
    assert parts(tmp_path / "store", small) == parts(local / "store", small)


def test_pruned_shards_are_those_of_the_local_files(local, embedded, tmp_path, settings, small):
    api.select(embedded.path, output=tmp_path / "pruned", config=settings())
    shards = {name: mark for name, mark in small.digests(tmp_path / "pruned").items() if name.endswith(".tar")}
    assert shards == {name: mark for name, mark in small.digests(local / "pruned").items() if name.endswith(".tar")}
    report = verify(tmp_path / "pruned")
    assert (report.problems, report.notes) == ([], [])
    assert report.checked["samples equal to their source, byte for byte"] == 42


def test_samples_that_go_are_not_asked_for_where_they_are_large(bucket, tmp_path, settings, small, faults, monkeypatch):
    monkeypatch.setattr(sources, "NEAR", 1 << 14)
    monkeypatch.setattr(sources, "SMALL_STEP", 1 << 10)
    content = small.samples(0, 40)
    for members in content.values():
        members["bin"] = bytes(50_000)
    data = small.shard(tmp_path / "0.tar", content).read_bytes()
    chosen = settings("select.keep_fraction=0.1")
    api.embed(bucket("0.tar", data), tmp_path / "store", config=chosen)
    before = len(faults.ranges())
    api.select(tmp_path / "store", output=tmp_path / "pruned", config=chosen)
    asked = sum(size for _, size in faults.ranges()[before:])
    kept = sum(path.stat().st_size for path in (tmp_path / "pruned").glob("*.tar"))
    assert len(data) / 12 < kept - 10_240 <= asked < len(data) / 8


def test_nothing_that_is_written_or_told_holds_a_secret(local, corpus, tmp_path, settings, secret, capfd):
    api.prune(settings(f"corpus.input={FOLDER}", f"paths.run_dir={tmp_path}/run", f"paths.output={tmp_path}/pruned"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 15
    said = "".join(capfd.readouterr())
    for hidden in (secret, "AKIA-of-no-account"):
        assert hidden not in said
        assert [path for path in files if hidden.encode() in path.read_bytes()] == []


def test_readers_of_a_store_read_its_remote_shards(embedded, tmp_path, settings, small, corpus):
    api.select(embedded.path, config=settings())
    sspruning.report(embedded.path, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("data:image/jpeg") > 20
    key = pq.read_table(embedded.path / "selection.parquet").column("key")[0].as_py()
    assert show(embedded.path, key).shard == NAMES[0]
    found = api.inspect([FOLDER])
    assert (found.n_samples, found.problems, found.size_bytes) == (
        60,
        {},
        sum(s.stat().st_size for s in corpus.iterdir()),
    )
    with pytest.raises(UsageError, match="is a shard of the store itself"):
        exchange.decontaminate(embedded.path, f"{FOLDER}/train-000001.tar", config=settings())


def test_evaluation_shards_may_be_remote(local, tmp_path, settings):
    shutil.copytree(local / "store", tmp_path / "store")
    found = exchange.decontaminate(tmp_path / "store", f"{FOLDER}/train-000001.tar", config=settings())
    assert found.n_contaminated >= 20


def test_a_shard_that_vanishes_is_an_error_that_names_it(bucket, tmp_path, small, server):
    url = bucket("0.tar", small.shard(tmp_path / "0.tar", small.samples(0, 8)).read_bytes())
    given = open_corpus([url])
    server.remove("scratch/0.tar")
    with pytest.raises(ShardError, match=r"s3://scratch/0.tar: at byte 0: the object is gone; put it back"):
        embed_shard(given.shards[0], build_encoder(EncoderSpec(name="pixels")), limits_of(CorpusConfig()))


def test_a_shard_that_changes_while_it_is_read_is_put_aside_for_now(bucket, tmp_path, settings, small, faults):
    url = bucket("0.tar", small.shard(tmp_path / "0.tar", small.samples(0, 8)).read_bytes())
    other = small.samples(0, 8)
    other["part.0/s0-0000"]["cls"] = b"9"
    other = small.shard(tmp_path / "0.tar", other).read_bytes()
    faults.then = lambda: bucket("0.tar", other)
    report = api.embed(url, tmp_path / "store", config=settings("corpus.preflight=false"))
    assert "the shard changed while it was read" in report.quarantined["0"]
    report = api.embed(url, tmp_path / "store")
    assert (report.n_embedded, report.quarantined) == (8, {})


def test_equal_content_under_another_version_is_read_once_and_not_embedded_again(embedded, faults):
    record = embedded.path / "parts" / f"{NAMES[0]}.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"shard_mtime_ns": 5}))
    before = len(faults.ranges())
    assert api.embed(FOLDER, embedded.path).done_now == 0
    assert json.loads(record.read_text()) == content
    assert len(faults.ranges()) == before + 1


def test_other_content_is_embedded_again(bucket, tmp_path, settings, small):
    urls = [bucket(f"{n}.tar", small.shard(tmp_path / f"{n}.tar", small.samples(n, 8)).read_bytes()) for n in (0, 1)]
    api.embed(urls, tmp_path / "store", config=settings())
    content = small.samples(0, 8)
    content["part.0/s0-0000"]["cls"] = b"9"
    bucket("0.tar", small.shard(tmp_path / "0.tar", content).read_bytes())
    assert api.embed(urls, tmp_path / "store").done_now == 1


def test_shards_that_count_anew_are_refused_before_they_are_embedded(bucket, tmp_path, settings, small, faults):
    content = small.shard(tmp_path / "0.tar", small.samples(0, 8)).read_bytes()
    urls = [bucket(f"{number}.tar", content) for number in range(2)]
    with pytest.raises(UsageError, match=r"keys must be unique.*in s3://scratch/0.tar and s3://scratch/1.tar.*prefix"):
        api.embed(urls, tmp_path / "store", config=settings())
    assert not (tmp_path / "store").exists()
    assert api.embed(urls, tmp_path / "store", config=settings("corpus.repeated_keys=prefix")).n_embedded == 16


@pytest.mark.slow
def test_worker_processes_read_for_themselves(local, corpus, tmp_path, small):
    result = small.cli("embed", FOLDER, "--store", "store", "--set", "encoder.name=pixels", "-j", "2", cwd=tmp_path)
    assert "60 samples" in result.stdout
    assert len(parts(tmp_path / "store", small)) == 3
