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


@pytest.mark.parametrize("rules", [(), ("--cls", "cluster", "--rename-suffix", "jpeg=jpg", "--index", "all")])
def test_workers_and_threads_of_the_writer_do_not_change_a_byte(rules, store, work, small, call):
    call("-q", "select", "store", "--keep-fraction", "0.5")
    for executor, workers in (("inline", 1), ("local", 2)):
        call(
            *("-q", "write", "store", "-o", f"{executor}", "--num-shards", "5", "--order", "shuffled", *rules),
            *("--executor", executor, "--workers", workers),
        )
    assert small.digests(work / "inline") == small.digests(work / "local")


def test_shards_that_share_keys_are_told_apart_by_a_flag(work, small, call):
    for name in ("a", "b"):
        small.shard(work / "in" / f"{name}.tar", small.samples(0, 10))
    embed = ("-q", "embed", "in", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    assert "--repeated-keys prefix" in call(*embed, code=2).stderr
    call(*embed, "--repeated-keys", "prefix")
    call("-q", "select", "store", "--keep-fraction", "1.0", "-o", "pruned", "--executor", "inline")
    found = small.members(work / "pruned" / "shard-000000.tar")
    assert set(found) == {f"{name}/{key}" for name in ("a", "b") for key in small.samples(0, 10)}
    call("-q", "embed", "in/a.tar", "--store", "store", "--repeated-keys", "refuse", code=3)


def shards(folder):
    return len(list(folder.glob("*.tar")))


def test_a_number_of_shards_sticks_until_a_size_is_asked_for(store, work, call):
    plain = ("-q", "select", "store", "--keep-fraction", "0.5", "--executor", "inline", "--overwrite", "-o", "pruned")
    call(*plain, "--num-shards", "4")
    assert shards(work / "pruned") == 4
    call(*plain)
    assert shards(work / "pruned") == 4
    call(*plain, "--samples-per-shard", "5")
    assert shards(work / "pruned") == 6
    call(*plain, "--set", "write.num_shards=2")
    call(*plain, "--set", "write.samples_per_shard=10")
    assert shards(work / "pruned") == 3
    call(*plain, "--samples-per-shard", "10", "--min-shards", "7")
    assert shards(work / "pruned") == 7


def test_members_stick_until_all_are_asked_for(store, work, small, call):
    plain = ("-q", "select", "store", "--keep-fraction", "0.5", "--executor", "inline", "--overwrite", "-o", "pruned")
    one = ("--rename-suffix", "jpeg=jpg", "--rename-suffix", "png=jpg", "--rename-suffix", "webp=jpg")
    call(*plain, *one, "--members", "txt; .JPG", "--cls", "zero", "--index", "none")
    call(*plain)
    found = small.members(work / "pruned" / "shard-000000.tar")
    assert {tuple(own) for own in found.values()} == {("jpg", "txt", "cls")}
    assert not (work / "pruned" / "sizes.json").exists()
    call(*plain, "--rename-suffix", "none", "--members", "all", "--cls", "keep", "--index", "open_clip")
    source = small.entries(*(work / "shards").glob("*.tar"))
    assert small.entries(work / "pruned" / "shard-000000.tar").items() <= source.items()
    assert (work / "pruned" / "sizes.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num-shards", "4", "--samples-per-shard", "5"), "give one of them"),
        (("--num-shards", "4", "--min-shards", "5"), "num_shards is 4, but min_shards asks for at least 5"),
        (("--num-shards", "61"), "61 shards are asked for but 48 samples are kept"),
        (("--rename-suffix", "jpeg"), "expected OLD=NEW"),
        (("--rename-suffix", "jpeg=a/b"), "is no suffix of a member"),
        (("--index", "timn"), "unknown trainer 'timn'. Did you mean 'timm'?"),
        (("--cls", "label"), "'keep', 'cluster', 'zero' or 'none'"),
        (("--members", "txt"), "would be left without the image"),
        (("--rename-suffix", "txt=cls"), "would get two members .cls"),
    ],
)
def test_flags_that_cannot_be_followed_say_why(flags, words, store, work, call):
    result = call("-q", "select", "store", "-o", "pruned", "--executor", "inline", *flags, code=2)
    assert words in result.stderr
    assert not list(work.glob("pruned/*.tar"))


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
