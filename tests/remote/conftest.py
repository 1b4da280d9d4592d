"""A server that speaks S3, in a process of its own, and what tests with buckets share."""

import itertools
import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sspruning.storage import remote_tries

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "e2e" / "small_corpora.py")))
DEADLINE_S = 60
_numbers = itertools.count()


@pytest.fixture(scope="session")
def small():
    """Helpers of tests/e2e/small_corpora.py."""
    return SMALL


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """Address of the server; the environment names it, as it does for child processes."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("s3") / "log.txt"
    with log.open("wb") as stream, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            _wait_for(server, port, log)
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "testing")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            yield os.environ["AWS_ENDPOINT_URL"]
        finally:
            server.kill()
            server.wait()


def _wait_for(server, port, log):
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, log.read_text()
        time.sleep(0.02)
    raise AssertionError("the server did not start")


class Bucket:
    """A bucket of its own, looked at past everything that is tested."""

    def __init__(self, client, name):
        self._client, self._name = client, name
        self.url = f"s3://{name}"
        client.create_bucket(Bucket=name)

    def names(self, prefix=""):
        """Names of the objects that begin so, without that beginning."""
        found = self._client.list_objects_v2(Bucket=self._name, Prefix=prefix).get("Contents", [])
        return [entry["Key"].removeprefix(prefix) for entry in found]

    def read(self, name):
        """Content of an object."""
        return self._client.get_object(Bucket=self._name, Key=name)["Body"].read()

    def objects(self, prefix=""):
        """``{name: bytes}``, as `names` has them."""
        return {name: self.read(prefix + name) for name in self.names(prefix)}

    def put(self, name, data):
        """Make an object."""
        self._client.put_object(Bucket=self._name, Key=name, Body=data)

    def remove(self, name):
        """Remove an object."""
        self._client.delete_object(Bucket=self._name, Key=name)


@pytest.fixture
def make_bucket(s3):
    """Return ``make_bucket()``: a new `Bucket`."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    yield lambda: Bucket(client, f"bucket-{next(_numbers)}")
    client.close()


@pytest.fixture
def bucket(make_bucket):
    """A new `Bucket`."""
    return make_bucket()


@pytest.fixture
def faulty(s3, monkeypatch):
    """`Proxy` through which this process reaches the server from now on."""
    from remote.proxy import Proxy

    with Proxy(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        remote_tries._filesystem.cache_clear()
        yield proxy
    remote_tries._filesystem.cache_clear()
