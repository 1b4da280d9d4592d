"""The everyday command after an embedding job: fractions, policies, sticky settings, orders."""

import pytest

from sspruning.storage.artifacts import SelectionFile, load_prototypes


@pytest.fixture
def store(work, corpus, call):
    call("-q", "embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    return work / "store"


def kept(store):
    file = SelectionFile.open(store / "selection.parquet")
    return set(file.column("key")[file.column("kept")].tolist())


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
@pytest.mark.parametrize("metric", ["prototype_distance", "prototype_margin", "random"])
def test_smaller_fractions_keep_exact_and_nested_subsets(keep, metric, store, call):
    larger = None
    for fraction in (1.0, 0.83, 0.7, 0.5, 0.11, 0.02):
        call("-q", "select", "store", "--keep", keep, "--metric", metric, "--keep-fraction", fraction)
        found = kept(store)
        assert len(found) == round(fraction * 60)
        assert larger is None or found < larger
        larger = found


def test_the_rank_gives_any_other_fraction(store, call):
    call("-q", "select", "store", "--keep-fraction", "0.7")
    file = SelectionFile.open(store / "selection.parquet")
    rank, keys = file.column("rank"), file.column("key")
    assert sorted(rank.tolist()) == list(range(60))
    call("-q", "select", "store", "--keep-fraction", "0.25")
    assert kept(store) == set(keys[rank < 15].tolist())


def test_seeds_decide_random_selections(store, call):
    found = {}
    for name, seed in (("one", 1), ("two", 2), ("again", 1)):
        call("-q", "select", "store", "--keep", "random", "--keep-fraction", "0.5", "--seed", seed)
        found[name] = kept(store)
    assert found["one"] == found["again"] != found["two"]


def test_the_order_of_the_inputs_decides_nothing(store, work, small, call):
    call("-q", "select", "store", "--keep-fraction", "0.5")
    backwards = [f"shards/train-00000{number}.tar" for number in (2, 1, 0)]
    call("-q", "embed", *backwards, "--store", "other", "--encoder", "pixels", "--executor", "inline")
    call("-q", "select", "other", "--keep-fraction", "0.5")
    assert kept(work / "other") == kept(store)
    assert small.digests(work / "other" / "parts") == small.digests(store / "parts")


def test_settings_stick_until_they_are_changed(store, call):
    assert "7 prototypes" in call("cluster", "store", "--n-clusters", "7").stdout
    assert "7 prototypes" in call("select", "store", "--keep", "easy", "--keep-fraction", "0.5").stdout
    stamp = (store / "prototypes.h5").stat().st_mtime_ns
    text = call("select", "store").stdout
    assert "kept 30 of 60 samples (50.0%): easy" in text
    assert "7 prototypes" in text
    assert (store / "prototypes.h5").stat().st_mtime_ns == stamp
    call("-q", "cluster", "store", "--n-clusters", "3")
    assert "3 prototypes" in call("select", "store").stdout
    assert load_prototypes(store / "prototypes.h5").k == 3


def test_a_second_identical_selection_changes_no_file(store, work, small, call):
    call("-q", "select", "store", "--keep-fraction", "0.7", "--output", "pruned")
    before = small.stamps(store, work / "pruned", but=["events.jsonl"])
    call("-q", "select", "store", "--keep-fraction", "0.7", "--output", "pruned")
    assert small.stamps(store, work / "pruned", but=["events.jsonl"]) == before


def test_every_cluster_keeps_its_floor(store, call):
    call("-q", "cluster", "store", "--n-clusters", "4")
    call("-q", "select", "store", "--keep-fraction", "0.5", "--balance", "1.0")
    file = SelectionFile.open(store / "selection.parquet")
    cluster, chosen = file.column("centroid"), file.column("kept")
    for number in range(4):
        size = int((cluster == number).sum())
        assert int(chosen[cluster == number].sum()) >= size // 2


@pytest.mark.parametrize("order", ["corpus", "shuffled", "easy-to-hard", "hard-to-easy"])
def test_orders_and_workers_do_not_change_the_set_of_keys(order, store, work, small, call):
    call("-q", "select", "store", "--keep-fraction", "0.5")
    call("-q", "write", "store", "-o", "pruned", "--order", order, "--samples-per-shard", "7", "--executor", "inline")
    found = [key for path in sorted((work / "pruned").glob("*.tar")) for key in small.members(path)]
    assert len(found) == 30
    assert set(found) == kept(store)
    call("verify", "pruned")


def test_workers_and_threads_of_the_writer_do_not_change_a_byte(store, work, small, call):
    call("-q", "select", "store", "--keep-fraction", "0.5")
    for executor, workers in (("inline", 1), ("local", 2)):
        call(
            *("-q", "write", "store", "-o", f"{executor}", "--samples-per-shard", "7", "--order", "shuffled"),
            *("--executor", executor, "--workers", workers),
        )
    assert small.digests(work / "inline") == small.digests(work / "local")


def test_a_packed_folder_goes_through_the_whole_flow(work, small, call):
    for number in range(40):
        target = work / "images" / f"class.{number % 3}" / f"im.{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(small.image(number))
        target.with_suffix(".txt").write_text(f"image {number}")
    call("-q", "pack", "images", "-o", "shards", "--samples-per-shard", "15")
    call("-q", "embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    call("-q", "select", "store", "--keep-fraction", "0.5", "--output", "pruned")
    found = small.entries(*sorted((work / "pruned").glob("*.tar")))
    assert len(found) == 40
    assert "class.0/im_0.jpg" in small.entries(*sorted((work / "shards").glob("*.tar")))
    assert "20 samples equal" in call("verify", "pruned").stdout
