"""Hostile inputs, settings and outputs: cases 65 to 69 and 91 to 96, and our own from 103 on."""

import os

from hostile.harness import Case, Refused, shard_of

__all__ = ["CONFIGS", "INPUTS"]

RUN = """\
name: hostile
corpus: {input: shards}
encoder: {name: pixels}
cluster: {name: numpy_kmeans, n_clusters: 2}
execution: {executor: inline}
paths: {run_dir: store, output: pruned}
"""
URLS = {
    "ftp://example.org/x.tar": "is not read",
    "http://example.org/x.tar": "this machine only",
    "https://example.org/x.tar?signature=hidden": "a query string",
    "s3://key:hidden@b/x.tar": "has credentials in it",
    "file://x.tar::gopher://b/x.tar": "is not read",
}


def nothing(folder):
    """No shard at all: the hostile thing is the command."""


def listed(content):
    """A builder of ``list.txt``."""
    return lambda folder: (folder / "list.txt").write_bytes(content) and None


def called(name):
    """A builder of a sound shard with this name."""

    def build(folder):
        with open(os.path.join(os.fsencode(folder), b"shards", name), "wb") as stream:  # noqa: PTH118, PTH123
            stream.write(shard_of())

    return build


def given(number, title, text, message, build=nothing):
    return Case(number, title, build, Refused(message), inputs=(text,))


INPUTS = [
    given(65, "pipe:", "pipe:touch MARKER", "never executed"),
    given(65, "pipe: behind ::", "shards::pipe:touch MARKER", "never executed"),
    given(65, "pipe: in a list", "@list.txt", "never executed", listed(b"pipe:touch MARKER\n")),
    *(given(66, text.partition("/")[0] + message, text, message) for text, message in URLS.items()),
    given(67, "a dash first", "@list.txt", "starts with a dash", listed(b"-rf.tar\n")),
    given(68, "brace bomb", "shards/{0..999999999}.tar", "narrow the pattern"),
    given(68, "nested brace bomb", "{a,b}" * 40 + ".tar", "narrow the pattern"),
    given(69, "NUL in a list", "@list.txt", "with a NUL", listed(b"shards/a\0.tar\n")),
    given(69, "missing shard", "shards/none.tar", "no such shard"),
    given(69, "shard named twice", "shards::shards/a.tar", "named twice"),
    given(
        69, "folder called .tar", "shards/*.tar", "not a regular file", lambda folder: (folder / "shards/d.tar").mkdir()
    ),
    given(
        69, "FIFO called .tar", "shards/*.tar", "not a regular file", lambda folder: os.mkfifo(folder / "shards/f.tar")
    ),
    given(69, "list that is a device", "@/dev/zero", "no such list file"),
    given(103, "line break in a file name", "shards", "control characters", called(b"b\n.tar")),
    given(103, "ANSI escape in a file name", "shards", "control characters", called(b"b\x1b[31m.tar")),
    given(103, "file name that is not UTF-8", "shards", "not UTF-8", called(b"b\xff.tar")),
]


def written(number, title, text, message, build=nothing, code=2):
    """A case of a configuration: lines that come after the usual ones, or, if it has a %, all of it."""

    def make(folder):
        (folder / "hostile.yaml").write_text(text.lstrip("%") if text.startswith("%") else RUN + text)
        return build(folder)

    return Case(number, title, make, Refused(message, code))


def setting(number, text, message):
    """A case of one value on the command line."""
    case = written(number, text, "", message)
    return Case(case.number, text, case.build, case.outcome, settings=(text,))


def link_to_itself(folder):
    (folder / "pruned").symlink_to("pruned")


def file_in_place(folder):
    (folder / "pruned").write_text("not a folder")


BOMB = "a: &a [x, x]\n" + "\n".join(f"b{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}, *a]" for n in range(30))

CONFIGS = [
    written(
        91, "!!python/object/apply", "write: !!python/object/apply:os.system ['touch MARKER']", "not readable as YAML"
    ),
    written(91, "!!python/object/new", "write: !!python/object/new:os.system ['touch MARKER']", "not readable as YAML"),
    written(91, "!!python/name", "write: !!python/name:os.system", "not readable as YAML"),
    written(91, "!!python/module", "write: !!python/module:antigravity", "not readable as YAML"),
    written(92, "alias bomb", BOMB, "references (*name) are not read"),
    written(92, "nested 2,000 deep", "%a: " + "[" * 2_000, "nested too deeply"),
    written(92, "more than a megabyte", "#" * (1 << 20), "not a configuration"),
    written(92, "number of 20,000 sexagesimal digits", "write: " + "1:" * 20_000 + "1", "at most 16384"),
    written(93, "unknown key", "selct: {}", "Did you mean 'select'"),
    written(93, "2,000 unknown keys", "\n".join(f"k{n}: 1" for n in range(2000)), "1,980 problems more"),
    written(93, "key twice", "name: other", "occurs twice"),
    written(93, "key twice in a section", "write: {seed: 1, seed: 2}", "occurs twice"),
    setting(94, "select.keep_fraction=.nan", "greater than 0"),
    setting(94, "select.keep_fraction=-1", "greater than 0"),
    setting(94, "select.keep_fraction=0", "greater than 0"),
    setting(94, "select.keep_fraction=1e309", "less than or equal to 1"),
    setting(94, "select.keep_fraction=1.5", "less than or equal to 1"),
    setting(94, "cluster.n_clusters=0", "greater than or equal to 1"),
    setting(94, "cluster.n_clusters=5", "there are 4 samples"),
    setting(94, "corpus.max_pixels=-1", "greater than 0"),
    setting(95, "paths.output=shards", "input folder"),
    setting(95, "paths.output=shards/pruned", "input folder"),
    setting(95, "paths.output=shards/../shards/a/b", "input folder"),
    written(96, "output that is a file", "", "name a folder", file_in_place),
    written(96, "output that is a link to itself", "", "a link that leads nowhere", link_to_itself),
    setting(96, "paths.output=hostile.yaml/pruned", "name a folder"),
    setting(96, "paths.run_dir=hostile.yaml/run", "name a folder"),
]
