"""A run on a tiny corpus in the current folder, and its verbs called in this process."""

import os

from corpora import make_corpus
from faults.harness import assert_no_crash
from typer.testing import CliRunner

from sspruning.cli import app

CONFIG = """\
name: tiny
corpus: {input: shards}
encoder: {name: pixels}
cluster: {name: numpy_kmeans, n_clusters: 2}
select: {keep_fraction: 0.6}
write: {samples_per_shard: 3}
"""


def make_tiny_run(folder):
    """Make three shards and ``tiny.yaml`` in a folder, and return it."""
    for path in make_corpus(folder / "shards"):
        os.utime(path, (1e9, 1e9))  # is kept in the store
    (folder / "tiny.yaml").write_text(CONFIG)
    return folder


def call(*args):
    """Result of a verb, which must not end in a way that people should not see."""
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert_no_crash(done.output)
    return done
