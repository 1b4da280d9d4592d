"""Objects behind URLs: what is asked, what is tried again, and what is said when nothing helps."""

import os
import pickle
import sys

import pytest

from sspruning.errors import MachineError, ShardError, StoreError, UsageError
from sspruning.storage import remote, remote_tries


def test_a_range_is_read_from_a_bucket_and_over_http(bucket, proxy):
    url = bucket("a.bin", bytes(range(256)) * 100)
    for place in (url, f"http://127.0.0.1:{proxy.port}/scratch/a.bin"):
        assert remote.stat(place)[0] == 25600
        assert remote.read_range(place, 300, 5) == bytes([44, 45, 46, 47, 48])
        with pytest.raises(ShardError, match=r"at byte 25600: the object ends here but 90 more bytes"):
            remote.read_range(place, 25590, 100)


def test_the_version_follows_the_content(bucket):
    url = bucket("a.bin", b"first")
    first = remote.stat(url)
    assert remote.stat(url) == first
    bucket("a.bin", b"other")
    assert remote.stat(url)[0] == 5
    assert remote.stat(url)[1] != first[1]
    bucket("a.bin", b"first")
    assert remote.stat(url) == first


@pytest.mark.parametrize("over", ["s3", "http"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(over, status, bucket, faults, proxy):
    url = bucket("a.bin", b"0123456789")
    url = url if over == "s3" else f"http://127.0.0.1:{proxy.port}/scratch/a.bin"
    faults.fail, faults.status = 3, status
    assert remote.read_range(url, 2, 3) == b"234"
    faults.drop = 2
    assert remote.read_range(url, 2, 3) == b"234"
    assert len(faults.seen) == 3 + 1 + 2 + 1


@pytest.mark.parametrize("over", ["s3", "http"])
def test_a_cut_connection_costs_what_it_did_not_carry(over, bucket, faults, proxy):
    content = os.urandom(1 << 20)
    url = bucket("a.bin", content)
    url = url if over == "s3" else f"http://127.0.0.1:{proxy.port}/scratch/a.bin"
    faults.cut, faults.cut_after = 10, 300_000
    assert remote.read_range(url, 0, 1 << 20) == content
    assert [start for start, _ in faults.ranges()] == [0, 0, 0, 1 << 18, 1 << 19, 3 << 18]


def test_trying_again_has_an_end_that_names_url_and_offset(bucket, faults):
    url = bucket("a.bin", b"0123456789")
    faults.fail = 100
    with pytest.raises(
        ShardError, match=r"^s3://scratch/a\.bin: at byte 4: cannot be read \(no answer in 7 tries: HTTP"
    ):
        remote.read_range(url, 4, 3)
    assert faults.fail == 93


def test_a_server_that_is_not_there_is_told_from_an_object_that_is_not(monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such object"):
        remote.stat("s3://scratch/none")
    remote_tries._filesystem.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"s3://scratch/none: no answer in 7 tries: EndpointConnectionError; see to"):
        remote.stat("s3://scratch/none")
    remote_tries._filesystem.cache_clear()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_access_speaks_of_credentials_and_shows_none(status, bucket, faults, secret):
    url = bucket("a.bin", b"0123456789")
    faults.fail, faults.status = 1, status
    with pytest.raises(MachineError, match=f"access refused .HTTP {status}.; check the credentials") as caught:
        remote.read_range(url, 0, 3)
    assert secret not in str(caught.value)
    assert faults.fail == 0


def test_without_credentials_the_message_says_so(bucket, monkeypatch):
    url = bucket("a.bin", b"x")
    remote_tries._filesystem.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(MachineError, match=r"access refused \(NoCredentialsError\); check the credentials"):
        remote.stat(url)
    remote_tries._filesystem.cache_clear()


def test_names_and_patterns_list_a_bucket(corpus):
    shards = [f"train-{number:06d}.tar" for number in range(3)]
    assert list(remote.names("s3://corpus/deep")) == ["notes.txt", *shards]
    assert remote.names("s3://corpus/deep/", deep=False)["notes.txt"] == 8
    assert list(remote.names("s3://corpus")) == ["deep/notes.txt", *(f"deep/{name}" for name in shards)]
    assert (
        remote.names("s3://corpus", deep=False) == remote.names("s3://corpus/none") == remote.names("s3://none") == {}
    )
    assert remote.matching("s3://corpus/*/train-00000[02].tar") == [f"s3://corpus/deep/{shards[n]}" for n in (0, 2)]
    assert remote.matching("s3://corpus/none*") == []


def test_a_file_is_uploaded_whole_and_its_size_is_checked(tmp_path, bucket, monkeypatch):
    url = bucket("a.bin", b"old")
    (tmp_path / "a.bin").write_bytes(b"new content")
    remote.put_file(tmp_path / "a.bin", url)
    assert remote.get_bytes(url) == b"new content"
    remote.put_bytes(url, b"newer")
    assert remote.get_bytes(url) == b"newer"
    monkeypatch.setattr(remote, "stat", lambda url: (3, 0))
    with pytest.raises(StoreError, match="3 bytes after an upload of 11"):
        remote.put_file(tmp_path / "a.bin", url)
    remote.remove(url)
    remote.remove(url)
    with pytest.raises(FileNotFoundError):
        remote.get_bytes(url)


def test_an_upload_is_tried_again(bucket, faults):
    url = bucket("a.bin", b"old")
    faults.drop = 2
    remote.put_bytes(url, b"new")
    assert remote.get_bytes(url) == b"new"


class NoSuchUpload(Exception):  # noqa: N818 - the name that botocore gives it
    response = {"ResponseMetadata": {"HTTPStatusCode": 404}}


def test_an_upload_that_the_store_has_lost_sight_of_is_made_again(proxy):
    tries = []

    def upload(fs, path):
        tries.append(path)
        if len(tries) < 3:
            raise FileNotFoundError("as s3fs says it") from NoSuchUpload("completed, but the answer was lost")
        return "done"

    assert remote_tries.answer("s3://scratch/a.bin", upload, writes=True) == "done"
    assert tries == ["scratch/a.bin"] * 3


def test_writing_to_a_bucket_that_is_not_there_says_so(tmp_path, proxy):
    (tmp_path / "a.bin").write_bytes(b"new")
    for write in (lambda url: remote.put_bytes(url, b"new"), lambda url: remote.put_file(tmp_path / "a.bin", url)):
        with pytest.raises(UsageError, match=r"s3://nowhere/a\.bin: no such bucket"):
            write("s3://nowhere/a.bin")


def test_nothing_is_written_over_http():
    with pytest.raises(UsageError, match="can be read but not written"):
        remote.put_bytes("https://example.org/a.bin", b"x")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MachineError, match=r"gs:// needs another package: pip install 'sspruning\[remote\]' gcsfs"):
        remote.stat("gs://bucket/a.tar")


def test_an_error_crosses_a_process_border():
    error = pickle.loads(pickle.dumps(remote_tries.NoAnswerError("s3://b/x", "no answer", 500)))  # noqa: S301
    assert (error.problem, error.status, error.exit_code) == ("no answer", 500, 5)
