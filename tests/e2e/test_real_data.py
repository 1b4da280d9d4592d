"""The main job on the CIFAR-10 shards, as users run it."""

import gc
import warnings

import pytest
import webdataset

pytestmark = [pytest.mark.slow, pytest.mark.realdata, pytest.mark.timeout(1800)]


def test_the_quickstart_keeps_35000_samples_and_proves_each_of_them(work, small, real_shards, call):
    config = small.PACKAGE_ROOT / "configs" / "quickstart.yaml"
    if not config.exists():
        pytest.skip("the configurations are not beside this package")
    setting = f"corpus.input={real_shards}/train-*.tar"
    result = call("run", config, "--set", setting, "--set", "select.keep_fraction=0.7")
    assert "50,000 of 50,000 samples of 50 shards" in result.stdout
    assert "kept 35,000 of 50,000" in result.stdout
    assert "35,000 samples equal to their source, byte for byte" in call("verify", "pruned").stdout
    urls = [str(path) for path in sorted((work / "pruned").glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its last file to the garbage collector
        keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
        gc.collect()
    assert len(keys) == len(set(keys)) == 35_000


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_change_a_byte_of_real_shards(workers, work, small, real_shards, call):
    pattern = f"corpus.input={real_shards}/train-00000{{0..3}}.tar"
    for name, count in (("one", 1), ("more", workers)):
        options = ("--set", pattern, "--set", f"name={name}", "--set", f"paths.output={name}", "--workers", count)
        call("-q", "run", "tiny.yaml", *options, "--set", "write.samples_per_shard=300", "--executor", "local")
    found = [
        small.digests(work / name) | small.digests(work / "runs" / name / "store" / "parts") for name in ("one", "more")
    ]
    assert found[0] == found[1]
