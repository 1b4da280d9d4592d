"""Samples that a table of keys excludes: those and no others, from any kind of table."""

import hashlib
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Listening

from sspruning.errors import DataError, UsageError
from sspruning.stages import exclude as module
from sspruning.stages.decontaminate import compare
from sspruning.stages.exclude import check_exclude, decisive_steps, exclude, excluded

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N = 90
KEYS = [f"a.b/{key}" for key in keys_of(N)]
STRANGE = ["not here", "a.b/k9", "ä/ö", " a.b/k00000", "a.b/k00000 "]
WANTED = [*KEYS[5:50:9], KEYS[89], KEYS[0]]


def parquet(path, keys, kind=None, **columns):
    pq.write_table(pa.table({"key": pa.array(keys, kind or pa.string()), **columns}), path, row_group_size=7)


def npz(path, keys):
    with path.open("wb") as stream:
        np.savez(stream, key=np.array(keys, np.str_), other=np.zeros(3))


def text(path, keys):
    path.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")


KINDS = {
    "parquet": parquet,
    "dictionary": lambda path, keys: parquet(path, keys, pa.dictionary(pa.int32(), pa.string())),
    "large": lambda path, keys: parquet(path, keys, pa.large_string()),
    "more columns": lambda path, keys: parquet(path, keys, reason=["contaminated"] * len(keys)),
    "npz": npz,
    "compressed npz": lambda path, keys: np.savez_compressed(path, key=np.array(keys, np.str_)),
    "text": text,
    "text without a last line end": lambda path, keys: path.write_text("\n".join(keys), encoding="utf-8"),
    "text of Windows": lambda path, keys: path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*keys, ""]).encode()),
    "text with empty lines": lambda path, keys: path.write_text("\n\n".join(["", *keys, ""]), encoding="utf-8"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of four shards, one of them empty."""
    return make_store(tmp_path_factory.mktemp("exclude"), split(KEYS, planted(N), [40, 0, 1, 49]))


def plainly(keys):
    """(n,) which of the store's samples have one of these keys."""
    return np.array([key in set(keys) for key in KEYS])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_any_kind_of_table_excludes_its_keys_and_no_others(kind, store, tmp_path):
    path = tmp_path / "table.npz"
    KINDS[kind](path, [*STRANGE, *WANTED, *WANTED[:2]])
    found = excluded(store, path)
    np.testing.assert_array_equal(found.drop, plainly(WANTED))
    assert (found.n_keys, found.n_absent) == (len(WANTED) + 5, 5)


@given(keys=st.lists(st.sampled_from([*KEYS, *STRANGE])), rows=st.integers(1, 9))
def test_order_and_batches_of_the_table_do_not_matter(keys, rows, store, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "t"
    text(path, keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_ROWS", rows)
        found = excluded(store, path)
    np.testing.assert_array_equal(found.drop, plainly(keys))
    assert (found.n_keys, found.n_absent) == (len(set(keys)), len(set(keys) - set(KEYS)))


def test_a_key_with_the_hash_of_another_excludes_nothing(store, tmp_path, monkeypatch):
    true, victim = module.key_hash, KEYS[7]

    def colliding(key):
        return true(victim) if key.startswith("twin") else true(key)

    monkeypatch.setattr(module, "key_hash", colliding)
    text(tmp_path / "t", ["twin 1", "twin 2", KEYS[3]])
    found = excluded(store, tmp_path / "t")
    np.testing.assert_array_equal(found.drop, plainly([KEYS[3]]))
    assert (found.n_keys, found.n_absent) == (3, 2)
    text(tmp_path / "t", ["twin 1", victim, "twin 2", "twin 3"])
    found = excluded(store, tmp_path / "t")
    np.testing.assert_array_equal(found.drop, plainly([victim]))
    assert (found.n_keys, found.n_absent) == (4, 3)


def test_the_table_of_decontaminate_excludes_what_it_lists(store, tmp_path):
    evals = make_store(tmp_path / "evals", {"val": (["e"], planted(N)[[60]])})
    report = compare(store, evals, tmp_path / "contaminated.parquet", 0.999)
    listed = pq.read_table(report.path).column("key").to_pylist()
    assert KEYS[60] in listed
    np.testing.assert_array_equal(excluded(store, Path(report.path)).drop, plainly(listed))


# what is said


def notes(store, path):
    progress = Listening()
    excluded(store, path, progress)
    return progress.said


def test_nothing_is_said_where_every_key_is_known(store, tmp_path):
    text(tmp_path / "t", WANTED)
    assert notes(store, tmp_path / "t") == []


def test_strange_keys_are_counted(store, tmp_path):
    text(tmp_path / "t", [*WANTED, *STRANGE])
    [said] = notes(store, tmp_path / "t")
    assert f"{tmp_path / 't'}: 5 of {len(WANTED) + 5} keys are of no embedded sample" in said


def test_a_table_that_matches_nothing_is_allowed_and_warned_of(store, tmp_path):
    text(tmp_path / "t", STRANGE)
    [said] = notes(store, tmp_path / "t")
    assert said.startswith("warning: ")
    assert "none of its 5 keys, such as 'not here'," in said
    assert not excluded(store, tmp_path / "t").drop.any()


@pytest.mark.parametrize("kind", ["parquet", "npz", "text"])
def test_a_table_without_keys_is_allowed(kind, store, tmp_path):
    KINDS[kind](tmp_path / "t", [])
    [said] = notes(store, tmp_path / "t")
    assert said == f"{tmp_path / 't'}: holds no keys, so it excludes nothing"


# the step of the chain


def test_the_step_speaks_of_the_samples_that_are_left(store, tmp_path):
    text(tmp_path / "t", WANTED)
    rows = np.arange(0, N, 2)
    dropped = exclude(store, rows, table=str(tmp_path / "t"), reason="contaminated")
    np.testing.assert_array_equal(dropped.drop, plainly(WANTED)[::2])
    assert (dropped.reason, dropped.twin) == ("contaminated", None)
    assert exclude(store, rows, table=str(tmp_path / "t")).reason == "excluded"


def test_a_table_of_everything_is_refused(store, tmp_path):
    text(tmp_path / "t", KEYS[:30])
    with pytest.raises(UsageError, match="excludes all 30 samples that are left"):
        exclude(store, np.arange(30), table=str(tmp_path / "t"))
    assert exclude(store, np.arange(31), table=str(tmp_path / "t")).drop.sum() == 30


def test_the_fingerprint_follows_the_content_of_the_table_not_its_place(tmp_path):
    text(tmp_path / "one", WANTED)
    text(tmp_path / "two", WANTED)
    text(tmp_path / "other", WANTED[1:])

    def of(name, **more):
        return decisive_steps([{"dedup": {"threshold": 0.9}}, {"exclude": {"table": str(tmp_path / name), **more}}])

    assert of("one") == of("two") == of("two", reason="excluded")
    assert of("one") != of("other")
    assert of("one") != of("one", reason="contaminated")
    assert of("one")[0] == {"dedup": {"threshold": 0.9}}
    sha256 = hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest()
    assert of("one")[1] == {"exclude": {"table": sha256, "reason": "excluded"}}


def test_a_missing_table_is_named_before_and_after_the_work(store, tmp_path):
    options = {"table": str(tmp_path / "gone")}
    for call in (
        lambda: check_exclude(options),
        lambda: decisive_steps([{"exclude": options}]),
        lambda: exclude(store, np.arange(N), **options),
    ):
        with pytest.raises(UsageError, match="gone: no such file"):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "has the options table"),
        ({"table": 3}, "has the options table"),
        ({"table": "t", "reasons": "x"}, "has the options table"),
        ({"table": "t", "reason": 3}, "reason is what is said"),
        ({"table": "t", "reason": " "}, "reason is what is said"),
        ({"table": "t", "reason": "kept"}, "reason is what is said"),
    ],
)
def test_options_are_checked_before_the_work(options, words):
    with pytest.raises(UsageError, match=words):
        check_exclude(options)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_good_step_passes_the_check(kind, tmp_path):
    KINDS[kind](tmp_path / "table.npz", WANTED)
    check_exclude({"table": str(tmp_path / "table.npz"), "reason": "contaminated"})


# what is no table


def no_table(path, error, *words):
    """Both the check and the look-up refuse it, with the file's name and all these words."""
    with pytest.raises(error) as caught:
        check_exclude({"table": str(path)})
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_parquet_file_without_keys_is_refused(tmp_path):
    pq.write_table(pa.table({"name": ["a"], "score": [1.0]}), tmp_path / "t")
    no_table(tmp_path / "t", UsageError, "no column 'key'", "name, score")


def test_keys_that_are_numbers_are_refused(tmp_path):
    pq.write_table(pa.table({"key": [1, 2]}), tmp_path / "t")
    no_table(tmp_path / "t", DataError, "holds int64, expected strings")
    np.savez(tmp_path / "n.npz", key=np.arange(3))
    no_table(tmp_path / "n.npz", DataError, "int64 (3,), expected (n,) unicode strings")


def test_missing_keys_are_refused(tmp_path):
    parquet(tmp_path / "t", ["a", None])
    no_table(tmp_path / "t", DataError, "nulls")


def test_an_npz_without_keys_is_refused(tmp_path):
    np.savez(tmp_path / "n.npz", keys=np.array(["a"]))
    no_table(tmp_path / "n.npz", UsageError, "no array 'key'", "keys")


def test_an_npz_with_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "n.npz", key=np.array(["a", None], object))
    no_table(tmp_path / "n.npz", DataError, "pickle")


@pytest.mark.parametrize(
    "content",
    [b"a\nb\0c\n", b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08\x00\xff", b"x" * 10_000, b"PAR1 and no more", b"PK\x03\x04"],
)
def test_files_of_other_kinds_are_refused(content, tmp_path):
    (tmp_path / "t").write_bytes(content)
    no_table(tmp_path / "t", DataError)


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_cut_table_is_refused(kind, tmp_path):
    KINDS[kind](tmp_path / "t", KEYS)
    whole = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(whole[: len(whole) // 2])
    no_table(tmp_path / "t", DataError, "cannot be read as a table of keys")


def test_half_of_a_surrogate_pair_is_no_key(tmp_path):
    npz(tmp_path / "t", ["a", "\ud800"])
    no_table(tmp_path / "t", DataError, "surrogates")
