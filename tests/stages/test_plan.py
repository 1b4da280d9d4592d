"""What a run says that it would do, before it does it."""

import pytest

from sspruning.errors import UsageError
from sspruning.progress import SilentProgress
from sspruning.stages.plan import make_plan
from sspruning.stages.run import prune
from sspruning.storage.corpus import open_corpus


def test_the_plan_counts_before_anything_is_done(configured, tmp_path):
    config = configured()
    plan = make_plan(open_corpus(config.corpus.input), tmp_path / "run" / "store", config, SilentProgress())
    assert (plan.n_shards, plan.pending_shards, plan.n_samples, plan.n_kept) == (3, 3, 60, 42)
    assert plan.pending_bytes == plan.size_bytes == sum(p.stat().st_size for p in (tmp_path / "shards").iterdir())
    assert plan.output_bytes == pytest.approx(0.7 * plan.size_bytes, abs=1)
    assert plan.n_output_shards == 3
    assert not (tmp_path / "run").exists()
    prune(config)
    done = make_plan(open_corpus(config.corpus.input), tmp_path / "run" / "store", config, SilentProgress())
    assert (done.pending_shards, done.pending_bytes, done.n_samples, done.n_kept) == (0, 0, 60, 42)


def test_more_output_shards_than_samples_are_refused_before_anything_is_done(configured, tmp_path):
    with pytest.raises(UsageError, match="43 shards are asked for but 42 samples are kept"):
        prune(configured("write.min_shards=43"))
    assert not (tmp_path / "run").exists()


def test_without_a_preflight_the_counts_are_unknown_and_the_result_is_the_same(configured, tmp_path, small):
    config = configured("corpus.preflight=false")
    plan = make_plan(open_corpus(config.corpus.input), tmp_path / "run" / "store", config, SilentProgress())
    assert (plan.n_samples, plan.n_kept, plan.n_in_shards, plan.pending_shards) == (None, None, None, 3)
    assert plan.n_output_shards is None
    prune(config)
    first = small.digests(tmp_path / "run" / "store" / "parts")
    prune(configured(f"paths.run_dir={tmp_path / 'second'}", f"paths.output={tmp_path / 'other'}"))
    assert small.digests(tmp_path / "second" / "store" / "parts") == first
