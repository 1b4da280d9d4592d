"""Members become samples by webdataset's rule; what webdataset would drop or merge in silence is said."""

import os
import tarfile
import warnings

import pytest
import webdataset
from corpora import END, member, pax, tar
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import ShardError
from sspruning.storage import samples as samples_module
from sspruning.storage.samples import KEY_CAP, ShardReader, split_name


@pytest.fixture(scope="module")
def shard_path(tmp_path_factory):
    """One path for all shards of a test: Hypothesis writes there again and again."""
    return tmp_path_factory.mktemp("samples") / "shard.tar"


def open_bytes(path, archive):
    path.write_bytes(archive)
    return ShardReader(str(path))


def read_all(path, archive):
    """Samples as (key, {suffix: content}, skip reason), and the ignored members."""
    with open_bytes(path, archive) as reader:
        found = [
            (sample.key, {m.suffix: reader.read(m.start, m.size) for m in sample.members}, sample.skip_reason)
            for sample in reader.samples()
        ]
        return found, dict(reader.ignored)


def by_webdataset(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        return [
            (
                sample["__key__"],
                {suffix: value for suffix, value in sample.items() if not suffix.startswith("__")},
                None,
            )
            for sample in data
        ]


STEMS = st.text(st.sampled_from("abcXY01_-é "), min_size=1, max_size=6)
FOLDERS = st.lists(st.text(st.sampled_from("abc._"), min_size=1, max_size=4), max_size=2)
SUFFIXES = st.lists(
    st.sampled_from(["jpg", "JPG", "txt", "seg.png", "Seg.PNG", "1.5.jpg", "cls", "json", "npy", "", "É", "ǅ.İ"]),
    min_size=1,
    max_size=4,
    unique_by=str.lower,
)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])


@st.composite
def valid_shards(draw):
    """(name, content) of every member of a shard that keeps the rules, folders and links in between."""
    keys = draw(
        st.lists(st.tuples(FOLDERS, STEMS).map(lambda pair: "/".join([*pair[0], pair[1]])), max_size=6, unique=True)
    )
    files = []
    for key in keys:
        if draw(st.booleans()):
            files.append(tarfile.TarInfo(key + ".d"))
            files[-1].type = draw(st.sampled_from([tarfile.DIRTYPE, tarfile.SYMTYPE]))
        files += [(f"{key}.{suffix}", draw(st.binary(max_size=9))) for suffix in draw(SUFFIXES)]
    return files


@given(valid_shards(), FORMATS)
def test_any_valid_shard_reads_as_by_webdataset(shard_path, files, form):
    found, _ = read_all(shard_path, tar(files, form))
    assert found == by_webdataset(shard_path)


@given(valid_shards(), st.integers(0, 3), FORMATS)
def test_the_quick_and_the_careful_path_agree(shard_path, files, unusual, form):
    files = files + [("__meta__.json", b"m"), (".hidden", b"h"), ("noext", b"n")][:unusual]
    quick = read_all(shard_path, tar(files, form))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_module, "_split_ordinary", lambda chunk: None)
        assert read_all(shard_path, tar(files, form)) == quick


NAME = st.text(st.sampled_from("aB./_\n\0é\x85\u2028"), min_size=1, max_size=12)


@given(st.lists(NAME, min_size=1, max_size=4))
def test_a_chunk_is_split_at_once_only_as_its_names_would_be_one_by_one(names):
    raw = [name.encode() for name in names]
    chunk = samples_module.MemberChunk(raw, [0] * len(raw), [0] * len(raw), [0] * len(raw), [0] * len(raw), [True])
    named = samples_module._split_ordinary(chunk)
    assert named is None or named == [split_name(name) for name in names]


@given(NAME.filter(lambda name: "\0" not in name and "\n" not in name))
def test_names_are_split_as_by_webdataset_dot_files_apart(name):
    key, suffix = webdataset.tariterators.base_plus_ext(name)
    base = name.rpartition("/")[2]
    if base.startswith("."):
        assert split_name(name) is None  # webdataset makes a key of the folder, and loses or merges the file
    elif not name.startswith("__"):
        assert split_name(name) == (None if key is None else (key, suffix.lower()))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a/b.c/d.seg.PNG", ("a/b.c/d", "seg.png")),
        ("a.1.5.jpg", ("a", "1.5.jpg")),
        ("c.", ("c", "")),
        ("./a.jpg", ("./a", "jpg")),
        ("../../etc/x.jpg", ("../../etc/x", "jpg")),
        ("/abs/y.jpg", ("/abs/y", "jpg")),
        ("a\nb.jpg", ("a\nb", "jpg")),
        ("<script>.jpg", ("<script>", "jpg")),
        ("_a_.jpg", ("_a_", "jpg")),
        ("__a.jpg", ("__a", "jpg")),
        ("a__.jpg", ("a__", "jpg")),
        ("d/__x__/a.jpg", ("d/__x__/a", "jpg")),
        ("noext", None),
        (".hidden", None),
        ("d/.hid.jpg", None),
        ("d.x/", None),
        ("__x__/a.jpg", None),
        ("__a.b__", None),
        ("", None),
    ],
)
def test_a_name_is_cut_at_the_first_dot_of_its_base(name, parts):
    assert split_name(name) == parts


def test_what_belongs_to_no_sample_is_counted(shard_path):
    folder = tarfile.TarInfo("d/")
    folder.type = tarfile.DIRTYPE
    link = tarfile.TarInfo("d/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
    files = [folder, ("d/a.jpg", b"1"), link, ("d/a.txt", b"2"), ("__meta__/x.json", b"3"), (".hidden", b"4")]
    found, ignored = read_all(shard_path, tar([*files, ("README", b"5"), ("__info__.x__", b"6")]))
    assert found == [("d/a", {"jpg": b"1", "txt": b"2"}, None)]
    assert ignored == {"directory_or_link": 2, "no_key": 4}


@pytest.mark.parametrize(
    ("names", "at", "message"),
    [
        (["a.jpg", "a.jpg"], 1, "two members with the suffix 'jpg'"),
        (["a.jpg", "a.txt", "a.JPG"], 2, "two members with the suffix 'jpg'"),
        (["a.jpg", "b.jpg", "a.txt", "b.txt"], 2, "'a' occurs again"),
        (["a.jpg", "b.jpg", "c.jpg", "a.jpg"], 3, "'a' occurs again"),
        (["a.jpg", "__m__/x", "b.jpg", "a.txt"], 3, "'a' occurs again"),
    ],
)
def test_repeated_members_and_keys_are_errors_at_their_place(shard_path, names, at, message):
    with open_bytes(shard_path, tar([(name, b"x") for name in names])) as reader:
        with pytest.raises(ShardError, match=message) as caught:
            list(reader.samples())
        assert caught.value.offset == at * 1024
        assert caught.value.path == str(shard_path)


def test_a_key_that_returns_after_thousands_of_samples_is_found(shard_path):
    names = [f"{number}.jpg" for number in range(2100)] + ["3.txt"]
    with open_bytes(shard_path, tar([(name, b"") for name in names])) as reader:
        with pytest.raises(ShardError, match="'3' occurs again") as caught:
            list(reader.samples())
        assert caught.value.offset == 2100 * 512


def test_a_sample_may_lie_across_chunks(shard_path):
    files = [(f"{number // 3}.{['jpg', 'txt', 'cls'][number % 3]}", b"%d" % number) for number in range(1500)]
    found, _ = read_all(shard_path, tar(files))
    assert found == by_webdataset(shard_path)


SKIPPED = {
    "bad_name": [member(b"\xff\xfe.jpg", b"1"), pax({b"path": b"a\0b.jpg"}) + member(b"x", b"1")],
    "key_too_long": [
        pax({b"path": b"k" * 5000 + b".jpg"}) + member(b"x", b"1"),
        pax({b"path": "ü".encode() * 2049 + b".jpg"}) + member(b"x", b"1"),
    ],
    "reserved_suffix": [member(b"s.__key__", b"1"), member(b"s.__URL__", b"1"), member(b"s.__bad__", b"1")],
}


@pytest.mark.parametrize(("reason", "number"), [(r, n) for r in SKIPPED for n in range(len(SKIPPED[r]))])
def test_unusable_names_are_samples_with_a_reason(shard_path, reason, number):
    archive = member(b"a.jpg", b"0") + SKIPPED[reason][number] + member(b"z.jpg", b"2") + END
    with open_bytes(shard_path, archive) as reader:
        found = list(reader.samples())
    assert [sample.skip_reason for sample in found] == [None, reason, None]
    assert [sample.row for sample in found] == [0, 1, 2]
    key = found[1].key
    assert len(key.encode()) <= KEY_CAP
    assert "\0" not in key


@pytest.mark.parametrize("reason", ["bad_name", "key_too_long"])
def test_different_unusable_names_stay_different_samples(shard_path, reason):
    names = {"bad_name": [b"\xff.jpg", b"\xfe.jpg"], "key_too_long": [b"k" * 5000 + b"%d.jpg" % n for n in range(2)]}
    archive = b"".join(pax({b"path": name}) + member(b"x", b"1") for name in names[reason]) + END
    found, _ = read_all(shard_path, archive)
    assert [skip_reason for _, _, skip_reason in found] == [reason, reason]
    assert len({key for key, _, _ in found}) == 2


def test_one_reserved_member_marks_its_whole_sample(shard_path):
    found, _ = read_all(shard_path, tar([("s.jpg", b"1"), ("s.__url__", b"2"), ("s.txt", b"3")]))
    assert found == [("s", {"jpg": b"1", "__url__": b"2", "txt": b"3"}, "reserved_suffix")]


def test_a_key_of_the_greatest_length_is_kept(shard_path):
    key = "k" * KEY_CAP
    found, _ = read_all(shard_path, tar([(key + ".jpg", b"1")], tarfile.PAX_FORMAT))
    assert found == [(key, {"jpg": b"1"}, None)]


def test_blocks_of_samples_are_whole_and_touch_each_other(shard_path, tiny_corpus):
    archive = tiny_corpus[0].read_bytes()
    with ShardReader(str(tiny_corpus[0])) as reader:
        found = list(reader.samples())
        blocks = [reader.read(sample.block_start, sample.block_end - sample.block_start) for sample in found]
    assert b"".join(blocks) == archive[: found[-1].block_end]
    assert [sample.key for sample in found] == [f"{number:06d}" for number in range(4)]
    alone, _ = read_all(shard_path, blocks[2] + END)
    assert alone[0] == by_webdataset(tiny_corpus[0])[2]


def test_find_prefers_suffixes_in_the_order_asked_for(shard_path):
    with open_bytes(shard_path, tar([("a.png", b"1"), ("a.JPG", b"22"), ("a.txt", b"3")])) as reader:
        (sample,) = reader.samples()
        assert sample.suffixes == ("png", "jpg", "txt")
        assert sample.find(["jpg", "png"]).size == 2
        assert sample.find(["webp", "png"]).size == 1
        assert sample.find(["webp"]) is None
        assert sample.find([]) is None


def test_reading_past_the_end_is_an_error_that_says_how_much_is_missing(shard_path):
    with open_bytes(shard_path, bytes(10)) as reader:
        assert reader.read(4, 6) == bytes(6)
        assert reader.read(10, 0) == b""
        with pytest.raises(ShardError, match="2 more bytes were expected") as caught:
            reader.read(4, 8)
        assert caught.value.offset == 10
        with pytest.raises(ShardError, match="5 more bytes"):
            reader.read(20, 5)


def test_a_read_that_the_system_cuts_short_is_completed(shard_path, monkeypatch):
    whole = os.pread
    with open_bytes(shard_path, b"0123456789") as reader:
        monkeypatch.setattr(os, "pread", lambda fd, size, start: whole(fd, min(size, 3), start))
        assert reader.read(1, 8) == b"12345678"


def test_an_archive_without_its_end_marker_is_read_only_when_allowed(shard_path):
    shard_path.write_bytes(member(b"a.jpg", b"1"))
    with ShardReader(str(shard_path)) as reader, pytest.raises(ShardError, match="marker is missing"):
        list(reader.samples())
    with ShardReader(str(shard_path), allow_missing_end=True) as reader:
        assert len(list(reader.samples())) == 1


def test_empty_archives_have_no_samples(shard_path):
    assert read_all(shard_path, END) == ([], {})


@pytest.mark.realdata
def test_real_shards_read_as_by_webdataset(shard_path, real_shards):
    path = min(real_shards.glob("*.tar"))
    found, _ = read_all(shard_path, path.read_bytes())
    assert found == by_webdataset(shard_path)
