"""Inputs name shards in many ways; each shard is there once, under one name, in one order."""

import os
import random

import pytest

from sspruning.errors import UsageError
from sspruning.storage import corpus
from sspruning.storage.corpus import expand_inputs, open_corpus


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four empty shards and two other files, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("s-000.tar", "s-001.tar", "s-002.tar", "t [1].tar", "notes.txt", "u.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(*inputs):
    return [shard.path.rpartition("/")[2] for shard in open_corpus(inputs).shards]


ALL = ["s-000.tar", "s-001.tar", "s-002.tar", "t [1].tar"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["."], ALL),
        (["s-001.tar"], ["s-001.tar"]),
        (["t [1].tar"], ["t [1].tar"]),
        (["s-*.tar"], ALL[:3]),
        (["s-00[12].tar"], ALL[1:3]),
        (["s-00?.tar"], ALL[:3]),
        (["s-{000..002}.tar"], ALL[:3]),
        (["s-{000,002}.tar"], [ALL[0], ALL[2]]),
        (["{s-000,t [[]1]}.tar"], [ALL[0], ALL[3]]),
        (["s-000.tar::s-002.tar"], [ALL[0], ALL[2]]),
        (["s-{000..001}.tar::s-002.tar", "t [1].tar"], ALL),
        (["s-002.tar", "s-000.tar"], [ALL[0], ALL[2]]),
        (["file:s-000.tar"], ["s-000.tar"]),
        (["../{here}/s-000.tar"], ["s-000.tar"]),
    ],
)
def test_every_way_to_name_shards_finds_them(folder, inputs, expected):
    assert names(*[text.replace("{here}", folder.name) for text in inputs]) == expected


def test_an_absolute_path_a_url_of_a_file_and_a_home_folder_name_the_same_shard(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    expected = [str(folder / "s-000.tar")]
    for text in (str(folder / "s-000.tar"), f"file://{folder}/s-000.tar", "~/s-000.tar"):
        assert [shard.path for shard in open_corpus([text]).shards] == expected


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_file_names_shards_with_comments_and_empty_lines(folder, end):
    lines = ["# my shards", "", "s-{000..001}.tar", "  s-002.tar  ", "#s-009.tar", "t*"]
    (folder / "list.txt").write_bytes(end.join(lines).encode())
    assert names("@list.txt") == ALL


def test_a_brace_pattern_may_be_longer_than_a_file_name(folder):
    for number in range(200):
        (folder / f"s-{number:03d}.tar").touch()
    pattern = "s-{" + ",".join(f"{number:03d}" for number in range(200)) + "}.tar"
    assert len(names(pattern)) == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("s-000.tar::", "empty"),
        ("s-000.tar\0", "NUL"),
        ("s-000.tar\ns-001.tar", "line break"),
        ("s-000\rx.tar", "line break"),
        ("-rf.tar", "starts with a dash"),
        ("pipe:cat s-000.tar", "runs a shell command"),
        ("s-000.tar::pipe:cat x", "runs a shell command"),
        ("ftp://example.org/s.tar", "ftp:// is not read; use s3://"),
        ("s3:///s.tar", "names no bucket"),
        ("s3://key:word@bucket/s.tar", r"s3://bucket/s.tar: the URL has credentials"),
        ("s3://key:wo/rd@bucket/s.tar", r"^s3://bucket/s.tar: the URL has credentials"),
        ("https://user:pa/ss@example.org/s.tar", r"^https://example.org/s.tar: the URL has credentials"),
        ("https://user@example.org/s.tar", r"https://example.org/s.tar: the URL has credentials"),
        ("https://example.org/s.tar?signature=x", r"^https://example.org/s.tar: a query string"),
        ("http://example.org/s.tar", "read from this machine only"),
        ("s3://key:word@bucket/s-{0..999999999}.tar", r"^s3://bucket/s-\{0..999999999\}.tar: the URL has credentials"),
        ("s3://buc[ket/s.tar", "is no URL"),
        ("https://example.org/s*.tar", "HTTP cannot list"),
        ("https://example.org/folder", "HTTP cannot list"),
        ("s-009.tar", "s-009.tar: no such shard"),
        ("s-{000..003}.tar", "s-003.tar: no such shard"),
        ("x-*.tar", "no file matches"),
        ("s-{000..001.tar", "s-{000..001.tar"),
        ("notes.txt", "does not end in .tar; shards are"),
        ("u.tar.gz", "gunzip it first"),
        ("*", "does not end in .tar"),
        ("@list.txt", "no such list file"),
        ("@.", "no such list file"),
        ("n" * 300 + ".tar", "no such shard"),
    ],
)
def test_what_cannot_be_a_shard_is_refused_by_name(folder, text, message):
    with pytest.raises(UsageError, match=message):
        open_corpus([text])


def test_no_inputs_at_all_is_an_error():
    with pytest.raises(UsageError, match="no input shards given"):
        expand_inputs([])


def test_a_folder_without_shards_tells_how_to_make_some(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.tar files; `sspruning pack"):
        open_corpus(["empty"])


def test_a_folder_inside_a_folder_is_not_searched_and_is_no_shard(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "x.tar").write_bytes(b"")
    (folder / "dir.tar").mkdir()
    assert names(".") == ALL
    with pytest.raises(UsageError, match=r"dir\.tar: not a regular file"):
        open_corpus(["*.tar"])


def test_a_fifo_is_not_read(folder):
    os.mkfifo(folder / "fifo.tar")
    with pytest.raises(UsageError, match="not a regular file"):
        open_corpus(["fifo.tar"])
    assert names(".") == ALL


@pytest.mark.parametrize("inputs", [["s-000.tar", "./s-000.tar"], [".", "s-000.tar"], ["s-000.tar::s-00[0].tar"]])
def test_a_shard_named_twice_is_refused(folder, inputs):
    with pytest.raises(UsageError, match="named twice"):
        open_corpus(inputs)


def test_a_list_may_not_name_another_list(folder):
    (folder / "a.txt").write_text("@a.txt\n")
    with pytest.raises(UsageError, match="cannot name another list"):
        open_corpus(["@a.txt"])


@pytest.mark.parametrize("content", [b"s-000.tar\0\n", b"-x\n", b"pipe:true\n", b"s3://k:s@b/c.tar\n", b"\xff\xfe\x00"])
def test_lines_of_a_list_are_checked_like_arguments(folder, content):
    (folder / "list.txt").write_bytes(content)
    with pytest.raises(UsageError):
        open_corpus(["@list.txt"])


BOMBS = [
    "s-{0..999999999}.tar",
    "s-{0..99999999999999999999999}.tar",
    "s-{0..999999999..7}.tar",
    "{0..999}" * 3 + ".tar",
    "{x" + "{0..999}" * 3 + ",y}.tar",
    "{x" + "{a..z}" * 6 + ",y}.tar",
    "{x" + "{a,b}" * 40 + ",y}.tar",
    "{a,b}" * 40 + ".tar",
    "{" * 5000 + "}" * 5000,
    "{0.." + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_a_brace_bomb_is_refused_before_it_fills_the_memory(folder, text):
    with pytest.raises(UsageError):
        open_corpus([text])


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("{0..4999}", 5000),
        ("{a,b}{0..9}", 20),
        ("{t-{000..399},v-{000..399}}", 800),
        ("{9..0..3}", 4),
        ("{a..c}{c..a}", 9),
        ("{Z..a}", 2),
        ("{x}{1..3..0}", 3),
        ("{,.bak}", 2),
    ],
)
def test_large_and_nested_patterns_below_the_limit_are_expanded(tmp_path, monkeypatch, pattern, count):
    monkeypatch.chdir(tmp_path)
    assert len(expand_inputs([f"s{pattern}.tar"])) == count
    monkeypatch.setattr(corpus, "SHARD_CAP", count - 1)
    with pytest.raises(UsageError, match="narrow the pattern"):
        expand_inputs([f"s{pattern}.tar"])


def test_shards_have_the_stem_as_their_name(folder):
    assert [shard.shard_id for shard in open_corpus(["."]).shards] == ["s-000", "s-001", "s-002", "t [1]"]


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return [str(root / path) for path in paths]


def test_equal_stems_get_as_many_folders_as_tell_them_apart(tmp_path):
    paths = touch(tmp_path, "x/a/0.tar", "x/b/0.tar", "y/b/0.tar", "y/b/1.tar")
    found = {shard.path: shard.shard_id for shard in open_corpus(paths).shards}
    assert list(map(found.get, paths)) == ["a+0", "x+b+0", "y+b+0", "1"]


def test_folders_that_hold_plus_signs_never_make_two_shards_one(tmp_path):
    found = open_corpus(touch(tmp_path, "a+b/c.tar", "a/b/c.tar", "x/a+b.tar", "a/b.tar")).shards
    assert sorted(shard.shard_id for shard in found) == ["a+b", "a+b+c", "b", "b+c"]
    with pytest.raises(UsageError, match="have one name when folders are joined by"):
        open_corpus(touch(tmp_path, "a+b.tar", "a/b.tar", "c/b.tar"))


def test_a_shard_in_the_root_folder_has_a_name_without_a_slash():
    assert corpus._shard_ids(["/0.tar", "/data/0.tar"]) == ["0", "data+0"]


def test_the_order_of_inputs_does_not_matter(tmp_path):
    paths = touch(tmp_path, "x/0.tar", "y/0.tar", "y/1.tar", "z/2.tar", "z/10.tar")
    first = open_corpus(paths)
    assert [shard.shard_id for shard in first.shards] == ["1", "10", "2", "x+0", "y+0"]
    for seed in range(5):
        random.Random(seed).shuffle(paths)  # noqa: S311
        assert open_corpus(paths) == first
    assert open_corpus([f"{tmp_path}/{folder}" for folder in "xzy"]) == first


def test_size_and_modification_time_are_those_of_the_file(folder):
    (folder / "s-001.tar").write_bytes(b"x" * 700)
    os.utime("s-001.tar", ns=(5, 1_234_567_890_123_456_789))
    opened = open_corpus(["s-000.tar", "s-001.tar"])
    assert opened.shards[1].size == opened.size_bytes == 700
    assert opened.shards[1].mtime_ns == 1_234_567_890_123_456_789


def test_symbolic_links_keep_their_own_name(folder):
    (folder / "link.tar").symlink_to(folder / "s-000.tar")
    assert [shard.shard_id for shard in open_corpus(["link.tar"]).shards] == ["link"]


def test_a_link_to_nowhere_is_no_shard(folder):
    (folder / "dead.tar").symlink_to(folder / "gone.tar")
    with pytest.raises(UsageError, match=r"dead\.tar: no such shard"):
        open_corpus(["dead.tar"])
