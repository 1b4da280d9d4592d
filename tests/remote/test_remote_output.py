"""Pruned shards in a bucket: the bytes of a folder, whatever is killed, deleted or refused in between."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from remote.outputs import Bucket, Dead, Notes, Uploads, dies_at, do, files, forget

from sspruning import api, exchange
from sspruning.errors import MachineError, StoreError, UsageError
from sspruning.loading.pruned import webdataset
from sspruning.stages.check_trainer import check_trainer
from sspruning.stages.report_run import find_output
from sspruning.stages.verify import verify
from sspruning.stages.workspace import Workspace
from sspruning.storage import remote
from sspruning.storage.artifacts import SelectionFile

NUMBERS = itertools.count()
TARS = ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]


@pytest.fixture
def make_bucket(server, proxy):
    """Return ``make_bucket()``: a new `Bucket`."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}")
    yield lambda: Bucket(client, f"bucket-{next(NUMBERS)}")
    client.close()


@pytest.fixture
def bucket(make_bucket):
    """A new `Bucket`."""
    return make_bucket()


@pytest.fixture(scope="module")
def made(tmp_path_factory, small, settings):
    """Folder with a corpus, its ``store`` with a selection, and the pruned shards as ``local``."""
    folder = tmp_path_factory.mktemp("made")
    small.corpus(folder / "shards")
    config = settings()
    api.embed(str(folder / "shards"), folder / "store", config=config)
    api.select(folder / "store", config=config)
    do(folder / "store", folder / "local")
    return folder


@pytest.fixture
def store(made, tmp_path):
    """A copy of that store, from which nobody has written anything yet."""
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def uploads(monkeypatch):
    """`Uploads` of files from here on."""
    found, put = Uploads(), remote.put_file

    def noted(path, url):
        if url.endswith(found.refused):
            raise MachineError("stopped by the test")
        found.urls.append(url)
        put(path, url)

    monkeypatch.setattr(remote, "put_file", noted)
    return found


def test_a_bucket_holds_what_a_folder_would_byte_for_byte(made, store, bucket, uploads):
    url = f"{bucket.url}/deep/pruned"
    manifest = do(store, f"{url}/")
    assert bucket.objects("deep/pruned/") == files(made / "local")
    assert manifest.path == url
    assert uploads.tars == TARS
    assert uploads.names[-1] == "manifest.json"
    assert not list(store.rglob("*.tar"))
    assert verify(url).checked["samples equal to their source, byte for byte"] == 42


def test_a_second_run_uploads_nothing(store, bucket, uploads):
    first = do(store, bucket.url)
    uploads.clear()
    assert do(store, bucket.url) == first
    forget(store)
    assert do(store, bucket.url) == first
    assert uploads.urls == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_stopped_run_is_gone_on_with(elsewhere, made, store, bucket, uploads):
    uploads.refused = "shard-000002.tar"
    with pytest.raises(MachineError, match="stopped by the test"):
        do(store, bucket.url)
    assert ".sspruning/manifest.json" not in bucket.names()
    assert not list(store.rglob("*.tar"))
    uploads.clear()
    if elsewhere:
        forget(store)
    do(store, bucket.url)
    assert bucket.objects() == files(made / "local")
    assert uploads.tars == ["shard-000002.tar"]


@pytest.mark.parametrize(
    ("name", "cut", "elsewhere"),
    [
        ("shard-000001.tar", False, False),
        ("shard-000001.tar", True, True),
        ("shard-000001.idx", False, False),
        ("_info.json", True, False),
        (".sspruning/entries.npy", False, True),
    ],
)
def test_an_object_that_is_gone_or_cut_is_made_again(name, cut, elsewhere, made, store, bucket, uploads):
    do(store, bucket.url)
    if cut:
        bucket.put(name, bucket.read(name)[:-1])
    else:
        bucket.remove(name)
    if elsewhere:
        forget(store)
    uploads.clear()
    do(store, bucket.url)
    assert bucket.objects() == files(made / "local")
    assert uploads.tars == [one for one in [name] if one.endswith(".tar")]


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_a_killed_run_is_finished_from_here_and_from_elsewhere(made, store, make_bucket, small, tmp_path):
    here, elsewhere = make_bucket(), make_bucket()
    words = ["write", store, "--output", here.url, "--samples-per-shard", 6, "--index", "timm,dino,dali"]
    process = subprocess.Popen(
        small.command(*words, "--executor", "inline"),
        env=small.environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    end = time.monotonic() + 60
    while process.poll() is None and len(here.names(".sspruning/shards/")) < 4 and time.monotonic() < end:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output.decode()
    left = here.objects()
    assert ".sspruning/manifest.json" not in left
    for name, content in left.items():
        elsewhere.put(name, content)
    do(store, tmp_path / "local", samples_per_shard=6)
    for where, place in ((store, here), (made / "store", elsewhere)):
        do(where, place.url, samples_per_shard=6)
        assert place.objects() == files(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_that_dies_at_any_request_is_finished_by_the_next(after, elsewhere, made, store, make_bucket):
    for number in range(60):
        bucket = make_bucket()
        try:
            with pytest.MonkeyPatch.context() as patch:
                dies_at(patch, number, after=after)
                do(store, bucket.url)
        except Dead:
            if elsewhere:
                forget(store)
            do(store, bucket.url)
            assert bucket.objects() == files(made / "local"), number
        else:
            assert number > 20
            return
    raise AssertionError("more requests than expected")


def test_uploads_that_fail_are_tried_again(made, store, bucket, faults):
    faults.fail_put = 1
    do(store, bucket.url)
    assert faults.fail_put == 0
    assert bucket.objects() == files(made / "local")


def test_shards_of_others_are_refused_and_left_alone(store, bucket, uploads):
    bucket.put("pruned/photos.tar", b"theirs")
    with pytest.raises(UsageError, match="did not write"):
        do(store, f"{bucket.url}/pruned")
    with pytest.raises(UsageError, match="no shard may be empty"):
        do(store, f"{bucket.url}/empty", num_shards=1000)
    assert bucket.objects() == {"pruned/photos.tar": b"theirs"}
    assert uploads.urls == []


def test_another_selection_is_replaced_when_asked_and_nothing_of_the_old_one_stays(store, bucket, tmp_path):
    do(store, bucket.url, num_shards=5)
    bucket.put("notes.txt", b"mine")
    before = bucket.objects()
    with pytest.raises(UsageError, match="--overwrite"):
        do(store, bucket.url, index=["wids"])
    assert bucket.objects() == before
    do(store, bucket.url, index=["wids"], overwrite=True)
    do(store, tmp_path / "local", index=["wids"])
    assert bucket.objects() == files(tmp_path / "local") | {"notes.txt": b"mine"}


def test_a_run_that_another_one_took_over_does_not_finish(made, store, bucket, monkeypatch):
    def taken_over(*given):
        bucket.put(".sspruning/writing.json", json.dumps({"host": "other", "since": "noon", "mark": "2"}).encode())
        return []

    monkeypatch.setattr("sspruning.stages.write._sources", taken_over)
    with pytest.raises(MachineError, match="another run has begun to write here"):
        do(store, bucket.url)
    assert ".sspruning/manifest.json" not in bucket.names()
    monkeypatch.undo()
    notes = Notes()
    do(store, bucket.url, progress=notes)
    assert any("a run on other, since noon" in note for note in notes.kept)
    assert bucket.objects() == files(made / "local")


def test_several_fractions_go_to_places_of_their_own(store, bucket, settings):
    api.select(store, output=f"{bucket.url}/out", keep_fractions=[0.5, 0.2], config=settings())
    kept = {name.partition("/")[0] for name in bucket.names("out/")}
    assert kept == {"keep-0.5", "keep-0.2"}
    assert verify(f"{bucket.url}/out/keep-0.2").ok


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("https://host/pruned", "can be read but not written"),
        (Path("s3://bucket/pruned"), "has lost a slash"),
        ("s3://no-such-bucket/pruned", "no such bucket"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(output, told, made):
    with pytest.raises(UsageError, match=told):
        api.select(made / "store", output=output)


def test_verify_names_what_is_wrong_in_a_bucket(store, bucket):
    do(store, bucket.url)
    content = bytearray(bucket.read("shard-000001.tar"))
    content[600] ^= 1
    bucket.put("shard-000001.tar", bytes(content))
    bucket.remove("_info.json")
    bucket.put("more.tar", b"")
    found = "\n".join(verify(bucket.url).problems)
    for told in ("more.tar: not in the manifest", "_info.json: missing", "shard-000001.tar: content is not what"):
        assert f"{bucket.url}/{told}" in found
    bucket.remove(".sspruning/manifest.json")
    with pytest.raises(StoreError, match="not finished"):
        verify(bucket.url)
    with pytest.raises(UsageError, match="neither pruned shards nor a store"):
        verify(f"{bucket.url}/elsewhere")


def test_the_report_knows_shards_by_their_url(store, bucket):
    do(store, bucket.url)
    selection = SelectionFile.open(store / "selection.parquet").selection
    found = find_output(bucket.url, Workspace.of(store), selection)
    assert (found.folder, found.n_shards, found.n_samples) == (bucket.url, 3, 42)


@pytest.mark.parametrize(
    "ask",
    [
        check_trainer,
        webdataset,
        lambda url: exchange.export(url, "keys", "keys.txt"),
        lambda url: exchange.export("run", "keys", url),
    ],
)
def test_what_knows_local_folders_alone_says_so(ask):
    for url in ("s3://bucket/pruned", Path("s3://bucket/pruned")):
        with pytest.raises(UsageError, match=r"local folders; copy it here first"):
            ask(url)


def test_a_damaged_manifest_is_made_again(made, store, bucket):
    do(store, bucket.url)
    bucket.put(".sspruning/manifest.json", b"{")
    do(store, bucket.url)
    assert bucket.objects() == files(made / "local")
