"""Inputs to shards: paths, URLs, folders, globs, braces, ``A::B`` and ``@list.txt``, in one sorted, checked list."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sspruning.errors import UsageError
from sspruning.records import ShardRef
from sspruning.storage.remote import check_url, is_url, matching, names, shown, stat

__all__ = ["Corpus", "expand_inputs", "open_corpus"]

SHARD_CAP = 1_000_000
NESTING_CAP = 32
LIST_CAP_BYTES = 1 << 28
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?(\d+))?")
ID_CAP = 140  # bytes of a shard's name in file names, which may have 255 together with what stands around it
PACKED = {".gz", ".tgz"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates stand for bytes that are no UTF-8
WILDCARDS = "*?["
ASKED_AT_ONCE = 32  # objects; a question takes a store some 30 ms


@dataclass(frozen=True, slots=True)
class Corpus:
    """The shards of a run, in the order that decides the order of everything after them."""

    shards: tuple[ShardRef, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)


def expand_inputs(inputs: Sequence[str]) -> list[str]:
    """Paths and URLs of the shards named by ``inputs``, in the given order; within a folder or a glob, by name.

    Each input may be a file, a folder (its ``*.tar`` files), a glob, a brace pattern such as
    ``'d/shard-{000000..000099}.tar'``, several of these joined by ``::``, or ``@list.txt`` with one input a line. All
    of these may be local or begin with ``s3://``, ``gs://`` or ``hf://``; ``https://`` has files and braces only.

    Raises:
        UsageError: nothing matches, a file is missing, a scheme or a character is not allowed.
        MachineError: a store refuses access or gives no answer, or a package is missing.
    """
    paths = list(_expand_all(inputs))
    if not paths:
        raise UsageError(
            "no input shards given; name files, folders, globs or patterns like 'd/s-{000000..000099}.tar'"
        )
    return paths


def _expand_all(inputs: Iterable[str], *, inside_list: bool = False) -> Iterator[str]:
    for text in inputs:
        for part in text.split("::"):
            yield from _expand_one(part.strip(), inside_list=inside_list)


def _expand_one(text: str, *, inside_list: bool) -> Iterator[str]:
    _refuse(text)
    if is_url(text):
        yield from _expand_url(text)
        return
    text = text.removeprefix("file:")
    if text.startswith("@"):
        if inside_list:
            raise UsageError(f"{text!r}: a list of shards cannot name another list")
        yield from _expand_all(_list_lines(Path(text[1:])), inside_list=True)
        return
    text = os.path.expanduser(text)  # noqa: PTH111 - the text may be a pattern, not a path
    if os.path.isdir(text):  # noqa: PTH112 - a pattern may be too long for a path; this says False then
        yield from _shards_in(text)
        return
    if os.path.exists(text):  # noqa: PTH110 - as above
        yield text
        return
    for pattern in _braces(text):
        if any(character in pattern for character in WILDCARDS):
            found = sorted(glob.glob(pattern))  # noqa: PTH207 - the pattern may be absolute
            if not found:
                raise UsageError(f"{pattern}: no file matches")
            yield from found
        else:
            yield pattern


def _shards_in(folder: str) -> list[str]:
    """The shards of a folder, by name."""
    files = [path for path in Path(folder).iterdir() if path.is_file()]
    found = sorted(str(path) for path in files if path.suffix == ".tar")
    if not found:
        packed = sum(path.suffix in PACKED for path in files)
        hint = (
            f"{packed} compressed ones, gunzip them first"
            if packed
            else "`sspruning pack FOLDER -o DIR` makes shards of images"
        )
        raise UsageError(f"{folder}: the folder holds no .tar files; {hint}")
    return found


def _expand_url(text: str) -> Iterator[str]:
    check_url(text)
    for url in _braces(text):
        check_url(url)
        if any(character in url for character in WILDCARDS):
            found = matching(url)
            if not found:
                raise UsageError(f"{url}: no object matches")
            yield from found
        elif Path(url).suffix in {".tar", *PACKED}:
            yield url
        else:
            folder = url.rstrip("/")
            own = [f"{folder}/{name}" for name in names(url, deep=False) if name.endswith(".tar")]
            if not own:
                raise UsageError(f"{url}: holds no .tar objects; name a folder of shards, a pattern, or a shard")
            yield from own


def _refuse(text: str) -> None:
    """Refuse what is not a plain path."""
    if not text or "\0" in text or "\n" in text or "\r" in text:
        raise UsageError(f"input {shown(text)!r}: empty, or with a NUL or line break in it")
    if text.startswith("-"):
        raise UsageError(f"input {text!r} starts with a dash; write ./{text} if the file is really called so")
    if text.startswith("pipe:"):
        raise UsageError(f"input {text!r}: `pipe:` runs a shell command and is never executed; copy the shards first")


def _list_lines(path: Path) -> list[str]:
    """Non-empty lines of a list file without comments."""
    if not path.is_file():
        raise UsageError(f"@{path}: no such list file")
    if path.stat().st_size > LIST_CAP_BYTES:
        raise UsageError(f"@{path}: larger than {LIST_CAP_BYTES} bytes; is it a list of shards?")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"@{path}: not a text file; a list names one input a line") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _braces(text: str) -> Iterator[str]:
    """Names of a brace pattern, by webdataset's own library; capped before it can fill the memory."""
    if "{" not in text:
        yield text
        return
    import braceexpand

    try:
        if _names_in(text) > SHARD_CAP:
            raise UsageError(f"{text}: more than {SHARD_CAP} names; narrow the pattern")
        yield from braceexpand.braceexpand(text)
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from error


def _names_in(text: str) -> int:
    """Number of names of a brace pattern, counted without making them: the library holds whole ranges in memory."""
    groups = [(0, 1, 0)]  # of each open brace: names of finished alternatives, of the current one, where it began
    for index, character in enumerate(text):
        if character == "{":
            groups.append((0, 1, index + 1))
            if len(groups) > NESTING_CAP + 1:
                raise UsageError(f"{text[:80]}...: braces nested more than {NESTING_CAP} deep; simplify the pattern")
        elif len(groups) > 1 and character == ",":
            finished, current, start = groups.pop()
            groups.append((finished + current, 1, start))
        elif len(groups) > 1 and character == "}":
            finished, current, start = groups.pop()
            outer_finished, outer_current, outer_start = groups.pop()
            count = _range_length(text[start:index]) or finished + current
            groups.append((outer_finished, min(outer_current * count, SHARD_CAP + 1), outer_start))
    return groups[0][1]


def _range_length(text: str) -> int:
    """Number of names of ``1..9``, ``a..f`` or ``1..9..2``; 0 if the text is no range."""
    found = _RANGE.fullmatch(text)
    if not found:
        return 0
    first, last, step = found.groups()
    ends = (int(first), int(last)) if first[-1].isdigit() else (ord(first), ord(last))
    return abs(ends[1] - ends[0]) // (int(step or 1) or 1) + 1


def _shard_ids(paths: Sequence[str]) -> list[str]:
    """One name for each path, unique: the stem, with as many folders in front as it takes to tell them apart.

    A name that is too long for the files that are called after it ends in a digest of the whole.
    """
    folders = [Path("/" + path.partition("://")[2]) if is_url(path) else Path(path) for path in paths]
    return [_short_id(name) for name in _unique_names(folders)]


def _short_id(name: str) -> str:
    encoded = name.encode()
    if len(encoded) <= ID_CAP:
        return name
    mark = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return f"{encoded[: ID_CAP - len(mark) - 1].decode(errors='ignore')}~{mark}"


def _unique_names(paths: Sequence[Path]) -> list[str]:
    parts = [path.relative_to(path.anchor).parts for path in paths]
    depth = [1] * len(paths)
    while True:
        names = ["+".join(part[-n:])[: -len(".tar")] for part, n in zip(parts, depth, strict=True)]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        if not repeated:
            return names
        deeper = [n + (name in repeated and n < len(p)) for p, n, name in zip(parts, depth, names, strict=True)]
        if deeper == depth:
            same = [str(path) for path, name in zip(paths, names, strict=True) if name in repeated]
            raise UsageError(f"{' and '.join(same[:2])} have one name when folders are joined by +; rename one of them")
        depth = deeper


def open_corpus(inputs: Sequence[str]) -> Corpus:
    """The corpus that ``inputs`` name: every shard checked to be there, readable and named once.

    Cost: one ``stat`` a shard, or one question to its store; nothing is opened.

    Raises:
        UsageError: a shard is missing, is no regular file, is named twice, does not end in ``.tar``, or has a name
            that is not text.
        MachineError: a store refuses access or gives no answer, or a package is missing.
    """
    paths = [
        path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - keep symbolic links
        for path in expand_inputs(inputs)
    ]
    counted = Counter(paths)
    twice = [path for path, count in counted.items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: named twice among the inputs; every shard counts once")
    for path in paths:
        _check_name(path)
    shard_ids = _shard_ids(paths)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        remote = dict(pool.map(_asked, filter(is_url, paths)))
    shards = []
    for path, shard_id in zip(paths, shard_ids, strict=True):
        size, version = remote[path] if path in remote else _looked_at(path)
        shards.append(ShardRef(shard_id, path, size, version))
    return Corpus(tuple(sorted(shards, key=lambda shard: shard.shard_id)))


def _check_name(path: str) -> None:
    if _CONTROL.search(path):
        raise UsageError(f"{path!r}: the name has control characters in it or is not UTF-8; rename the file")
    if not is_url(path) and not os.path.exists(path):  # noqa: PTH110 - no error for a name that is too long
        raise UsageError(f"{path}: no such shard")
    if not is_url(path) and not Path(path).is_file():
        raise UsageError(f"{path}: not a regular file")
    if Path(path).suffix != ".tar":
        hint = "gunzip it first" if Path(path).suffix in PACKED else "shards are uncompressed .tar files"
        raise UsageError(f"{path}: does not end in .tar; {hint}")
    if not is_url(path) and not os.access(path, os.R_OK):
        raise UsageError(f"{path}: not readable by this user")


def _looked_at(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def _asked(url: str) -> tuple[str, tuple[int, int]]:
    try:
        return url, stat(url)
    except FileNotFoundError as error:
        raise UsageError(f"{url}: no such shard") from error
