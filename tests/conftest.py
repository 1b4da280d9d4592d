"""What all tests share: tiny corpora, deterministic Hypothesis, helpers that are importable by name."""

import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, one on a core

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent))  # with import-mode=importlib nothing else makes `import corpora` work

from corpora import make_corpus

pytest.register_assert_rewrite("faults.harness", "tiny_runs")  # its assertions are to say what they compared

settings.register_profile(
    "sspruning", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sspruning")


@pytest.fixture
def tiny_corpus(tmp_path):
    """Paths of three shards with four samples (jpg, cls, txt) each, in ``tmp_path / "shards"``."""
    return make_corpus(tmp_path / "shards")


@pytest.fixture
def write_shard(tmp_path):
    """Return ``write(content, name)``: path of a file with that content."""

    def write(content, name="shard.tar"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="session")
def real_shards():
    """Folder of CIFAR-10 shards beside the repository; the test is skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
    if not any(folder.glob("**/*.tar")):
        pytest.skip("the CIFAR-10 shards are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def local_ray():
    """A Ray on this machine with room for two workers, for the executors of this process; skips where it is absent."""
    ray = pytest.importorskip("ray", reason="the package ray is not installed")
    from sspruning.execution.ray_session import RaySession

    session = RaySession("local", workers=2)
    yield ray
    session.close()
