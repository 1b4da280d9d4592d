"""A bucket with a small corpus, behind a real server; left out where its packages are not installed."""

import runpy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from sspruning.config import load_config
from sspruning.storage import remote_tries

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "e2e" / "small_corpora.py")))
S3 = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "s3_server.py")))
MISSING = [name for name in ("s3fs", "moto", "flask") if find_spec(name) is None]


@pytest.fixture(scope="session")
def small():
    """Helpers of tests/e2e/small_corpora.py."""
    return SMALL


@pytest.fixture(scope="session")
def server():
    """The S3 server."""
    if MISSING:
        pytest.skip(f"needs {' and '.join(MISSING)}: make remote")
    running = S3.Server()
    yield running
    running.close()


@pytest.fixture(scope="session")
def proxy_server(server):
    running = S3.Proxy(server)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def proxy(proxy_server, monkeypatch):
    """The proxy, which all requests go through, without a fault at first; pauses between tries are short."""
    proxy_server.faults = S3.Faults()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy_server.port}",
        "AWS_ACCESS_KEY_ID": "AKIA-of-no-account",
        "AWS_SECRET_ACCESS_KEY": S3.SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_tries, "PAUSES_S", (0.01,) * 6)
    return proxy_server


@pytest.fixture
def faults(proxy):
    """What the proxy does wrong, and what it has seen."""
    return proxy.faults


@pytest.fixture(scope="session")
def secret():
    return S3.SECRET


@pytest.fixture(scope="session")
def corpus(server, tmp_path_factory):
    """Folder with three shards of 20 samples that stand in ``s3://corpus/deep/`` too."""
    folder = tmp_path_factory.mktemp("local") / "deep"
    SMALL.corpus(folder)
    server.put("corpus", b"")
    for path in sorted(folder.iterdir()):
        server.put(f"corpus/deep/{path.name}", path.read_bytes())
    server.put("corpus/deep/notes.txt", b"no shard")
    return folder


@pytest.fixture
def bucket(server):
    """Return ``put(name, content)``: URL of a new object in a bucket that is empty afterwards."""
    server.put("scratch", b"")
    there = []

    def put(name, content):
        server.put(f"scratch/{name}", content)
        there.append(f"scratch/{name}")
        return f"s3://scratch/{name}"

    yield put
    for name in there:
        server.remove(name)


@pytest.fixture(scope="session")
def settings():
    """Return ``settings(*overrides)``: a quick configuration."""

    def make(*overrides):
        quick = ["encoder.name=pixels", "cluster.n_clusters=4", "select.keep_fraction=0.7", "execution.executor=inline"]
        return load_config(None, [*quick, "write.samples_per_shard=16", *overrides])

    return make
