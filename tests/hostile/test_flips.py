"""Any valid shard, cut or changed anywhere: a named error or exactly equal samples, never fewer in silence."""

import tarfile
import warnings

import pytest
import webdataset
from corpora import tar
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.errors import ShardError
from sspruning.storage.samples import RESERVED_SUFFIXES, ShardReader, split_name

WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/."), min_size=1, max_size=9
)
KEYS = st.lists(WORDS, min_size=1, max_size=3).map("/".join) | WORDS.map(lambda word: (word * 40)[:300])
SUFFIXES = st.sampled_from(["jpg", "PNG", "txt", "seg.png", "json", "cls", "1.5.jpg", "npy"])
SIZES = st.sampled_from([0, 1, 511, 512, 513, 1500])
FORMS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


PLAIN_KEYS = st.lists(st.text("abcXY01_- ", min_size=1, max_size=9), min_size=1, max_size=3).map("/".join)


@st.composite
def shards(draw, names=KEYS):
    """(name, content) of every member of a shard that keeps the rules; names are of any alphabet and length."""
    keys = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    files = []
    for key in keys:
        names = [f"{key}.{suffix}" for suffix in draw(st.lists(SUFFIXES, min_size=1, max_size=3, unique=True))]
        sizes = [draw(SIZES) for _ in names]
        files += [
            (name, bytes([number + 1]) * size) for number, (name, size) in enumerate(zip(names, sizes, strict=True))
        ]
    return [(name, content) for name, content in files if _is_a_sample(name)]


def _is_a_sample(name):
    parts = split_name(name)
    return parts is not None and parts[1] not in RESERVED_SUFFIXES


def samples(path):
    """(key, {suffix: payload}) of every sample, and how many members belong to none."""
    with ShardReader(str(path)) as reader:
        found = [
            (sample.key, sample.skip_reason, {m.suffix: reader.read(m.start, m.size) for m in sample.members})
            for sample in reader.samples()
        ]
        return found, sum(reader.ignored.values())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One path for all shards: Hypothesis writes there again and again."""
    return tmp_path_factory.mktemp("flips") / "shard.tar"


@given(shards(), FORMS)
def test_names_of_any_alphabet_read_as_by_webdataset(path, files, form):
    path.write_bytes(tar(files, form))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        theirs = [(s["__key__"], None, {k: v for k, v in s.items() if not k.startswith("__")}) for s in data]
    assert samples(path) == (theirs, 0)


@given(shards(), FORMS, st.floats(0, 1, exclude_max=True))
@settings(max_examples=60)
def test_a_cut_anywhere_is_an_error_or_takes_padding_only(path, files, form, share):
    content = tar(files, form)
    path.write_bytes(content)
    whole = samples(path)
    path.write_bytes(content[: int(len(content) * share)])
    try:
        assert samples(path) == whole
    except ShardError as error:
        assert error.path == str(path)  # noqa: PT017 - no error is right too
        assert error.offset <= len(content) * share  # noqa: PT017


@given(shards(PLAIN_KEYS), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
@settings(max_examples=120)
def test_a_flip_anywhere_is_an_error_or_changes_that_byte_of_a_payload(path, files, share, bit):
    """Names are short: those of PAX and GNU records stand in payloads, which no tar reader can check."""
    content = bytearray(tar(files))
    path.write_bytes(content)
    whole, ignored = samples(path)
    at = int(len(content) * share)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    try:
        found, still_ignored = samples(path)
    except ShardError as error:
        assert error.path == str(path)  # noqa: PT017 - no error is right too
        assert error.offset <= at  # noqa: PT017
        return
    assert ignored == still_ignored
    assert [(key, reason, list(members)) for key, reason, members in found] == [
        (key, reason, list(members)) for key, reason, members in whole
    ]
    mine, theirs = (b"".join(b"".join(members.values()) for _, _, members in shard) for shard in (found, whole))
    assert sum(a != b for a, b in zip(mine, theirs, strict=True)) <= 1
