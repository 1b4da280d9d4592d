"""Samples of a shard: members grouped by the webdataset rule, checked, and readable by byte range.

The key of a member is its path up to the first dot of the base name; what follows, in lower case, is its suffix.
Members of one sample must stand together, as webdataset needs it. Where webdataset would drop or merge in silence,
this layer raises, or counts the member in `ShardReader.ignored`, or gives the sample a `skip_reason`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from sspruning.errors import ShardError
from sspruning.storage.sources import open_source
from sspruning.storage.tar_scan import Hasher, MemberChunk, scan_tar

__all__ = ["KEY_CAP", "Member", "Sample", "ShardReader", "split_name"]

KEY_CAP = 4096  # bytes of a key, as stored
SUFFIX_CAP = 255  # bytes of a suffix; no file system has longer names
MEMBERS_CAP = 10_000  # members of one sample
FEW_MEMBERS = 16  # up to here a look at each is quicker than a set
_ORDINARY = re.compile(r"^((?:.*/)?[^/.\n]+)\.([^/\n]*)$", re.MULTILINE)
RESERVED_SUFFIXES = frozenset({"__key__", "__url__", "__local_path__", "__bad__"})  # loaders' own names


class Member(NamedTuple):
    """One file of a sample: its suffix and where its payload lies in the shard."""

    suffix: str
    start: int
    size: int


class Sample:
    """One sample of a shard, whole: every member, and the raw tar blocks they occupy."""

    __slots__ = ("_members", "_suffixes", "block_end", "block_start", "key", "row", "skip_reason")

    def __init__(self, key: str, row: int, first: tuple[str, int, int], block_start: int, block_end: int) -> None:
        """Begin a sample with its first member, given as (suffix, start, size)."""
        self.key = key
        self.row = row  # ordinal in the shard, skipped samples counted
        self._members = [first]
        self._suffixes: set[str] | None = None  # of all members, once there are many
        self.block_start = block_start
        self.block_end = block_end
        self.skip_reason: str | None = None
        """Why it can go no further: bad_name, key_too_long, reserved_suffix or too_many_members."""

    @property
    def members(self) -> list[Member]:
        """All members, in archive order."""
        return [Member(*member) for member in self._members]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of all members, in archive order."""
        return tuple(member[0] for member in self._members)

    def find(self, suffixes: Sequence[str]) -> Member | None:
        """First member whose suffix is one of ``suffixes``, in their order of preference; None if there is none."""
        for suffix in suffixes:
            for member in self._members:
                if member[0] == suffix:
                    return Member(*member)
        return None

    def extend(self, member: tuple[str, int, int], block_end: int) -> bool:
        """Add the member that follows; False if the sample has that suffix already.

        Beyond `MEMBERS_CAP` the sample is one to skip, and its members are no longer kept.
        """
        members = self._members
        if len(members) < FEW_MEMBERS:
            for other in members:
                if other[0] == member[0]:
                    return False
        elif len(members) >= MEMBERS_CAP:
            self.skip_reason = "too_many_members"
            self.block_end = block_end
            return True
        elif self._holds(member[0]):
            return False
        members.append(member)
        self.block_end = block_end
        return True

    def _holds(self, suffix: str) -> bool:
        """True if one of the many members has this suffix; from now on one has."""
        if self._suffixes is None:
            self._suffixes = {member[0] for member in self._members}
        before = len(self._suffixes)
        self._suffixes.add(suffix)
        return len(self._suffixes) == before


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case suffix of a member name, or None where webdataset sees no sample in it.

    ``a/b.c/d.seg.PNG`` gives ``("a/b.c/d", "seg.png")``. Names without a dot, dot files and names with a
    first folder or whole name ``__x__`` (which webdataset keeps for itself) give None.
    """
    slash = name.rfind("/")
    dot = name.find(".", slash + 1)
    if dot <= slash + 1 or (name.startswith("__") and _is_private(name)):
        return None
    return name[:dot], name[dot + 1 :].lower()


def _is_private(name: str) -> bool:
    """True if a name that begins with two underscores has a first path component ``__x__``, as webdataset skips it."""
    first = name.partition("/")[0]
    return first.endswith("__") and len(first) > 3


class ShardReader:
    """An open shard: iterate its samples, read byte ranges.

    Args:
        path: local path or URL of an uncompressed tar.
        hasher: fed every byte of the file once while `samples` runs to its end.
        allow_missing_end: accept an archive without its end marker.
    """

    def __init__(self, path: str, *, hasher: Hasher | None = None, allow_missing_end: bool = False) -> None:
        self.path = path
        self.ignored: Counter[str] = Counter()
        """Members that belong to no sample, by reason: directory_or_link, no_key."""
        self._hasher = hasher
        self._allow_missing_end = allow_missing_end
        self._source = open_source(path)
        self.size = self._source.size

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def check_unchanged(self, size: int, mtime_ns: int) -> None:
        """Make sure that the shard is still what it was when it was listed.

        Raises:
            ShardError: another file stands in its place, or none.
        """
        if self._source.state() != (size, mtime_ns):
            raise ShardError(
                self.path, 0, "the shard changed while it was read; run the same command again when it is complete"
            )

    def read(self, start: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``start``.

        Raises:
            ShardError: the file ends before, as it was cut or replaced while it was read, or the disk gives no answer.
        """
        data = self._source.read(start, size)
        if len(data) == size:
            return data
        parts = [data]
        got = len(data)
        while data and got < size:  # one call returns at most about 2 GiB
            data = self._source.read(start + got, size - got)
            parts.append(data)
            got += len(data)
        if got < size:
            raise ShardError(self.path, start + got, f"the file ends here but {size - got} more bytes were expected")
        return b"".join(parts)

    def samples(self) -> Iterator[Sample]:  # noqa: C901 - one hot loop; calls would cost a third of its speed
        """Samples in archive order, rows counted from 0.

        Raises:
            ShardError: a damaged archive, a member that occurs twice in a sample, or a key that comes back later.
        """
        self._source.prepare_scan()
        chunks = scan_tar(self.path, self._source, hasher=self._hasher, allow_missing_end=self._allow_missing_end)
        current: Sample | None = None
        current_key = None
        seen: set[int] = set()
        row = 0
        for chunk in chunks:
            named = _split_ordinary(chunk)
            members = zip(chunk.data_start, chunk.size, chunk.block_start, chunk.block_end, strict=True)
            for index, (start, size, block_start, block_end) in enumerate(members):
                if named is not None:
                    key, suffix = named[index]
                    reason = None
                else:
                    key, suffix, reason = self._split(chunk.names[index], regular=chunk.regular[index])
                    if key is None:
                        continue
                if current is not None and key == current_key:
                    if not current.extend((suffix, start, size), block_end):
                        raise ShardError(self.path, block_start, _repeated_suffix(key, suffix))
                else:
                    if current is not None:
                        yield current
                    identity = hash(key)
                    if identity in seen:
                        raise ShardError(self.path, block_start, _comes_back(key))
                    seen.add(identity)
                    current, current_key = Sample(key, row, (suffix, start, size), block_start, block_end), key
                    row += 1
                if reason is not None and current.skip_reason is None:
                    current.skip_reason = reason
        if current is not None:
            yield current

    def _split(self, raw: bytes, *, regular: bool) -> tuple[str | None, str, str | None]:
        """Key, suffix and skip reason of an unusual member; the key is None, and the member counted, if it has none."""
        if not regular:
            self.ignored["directory_or_link"] += 1
            return None, "", None
        reason = None
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name, reason = raw.decode("utf-8", "backslashreplace"), "bad_name"
        named = split_name(name)
        if named is None:
            self.ignored["no_key"] += 1
            return None, "", None
        key, suffix = named
        if len(suffix.encode()) > SUFFIX_CAP:
            suffix, reason = _shortened(suffix, SUFFIX_CAP // 8), "bad_name"
        if len(key.encode()) > KEY_CAP:
            key, reason = _shortened(key, KEY_CAP // 8), "key_too_long"
        elif "\0" in name:
            key, reason = key.replace("\0", "\\x00"), "bad_name"
        elif suffix in RESERVED_SUFFIXES:
            reason = "reserved_suffix"
        return key, suffix, reason


def _split_ordinary(chunk: MemberChunk) -> list[tuple[str, str]] | None:
    """Keys and suffixes of a whole chunk at once; None if any of its members needs the careful path."""
    try:
        text = b"\n".join(chunk.names).decode()
    except UnicodeDecodeError:
        return None
    longest = max(map(len, chunk.names))
    if "__" in text or "\0" in text or longest > KEY_CAP or not all(chunk.regular):
        return None
    named: list[tuple[str, str]] = _ORDINARY.findall(text)
    if len(named) != len(chunk.names) or text.count("\n") != len(named) - 1:
        return None
    if longest > SUFFIX_CAP and any(len(suffix.lower().encode()) > SUFFIX_CAP for _, suffix in named):
        return None
    return named if text.islower() else [(key, suffix.lower()) for key, suffix in named]


def _shortened(text: str, length: int) -> str:
    """The first ``length`` characters and a digest of all of them: texts may differ only behind the cut."""
    return f"{text[:length]}...{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _repeated_suffix(key: str, suffix: str) -> str:
    return (
        f"sample {key!r} has two members with the suffix {suffix!r} (compared in lower case); "
        "webdataset refuses such a shard, so remove or rename one of them"
    )


def _comes_back(key: str) -> str:
    return (
        f"the key {key!r} occurs again after other samples; members of a sample must stand together and keys must be "
        "unique, so sort the archive by name or rename one of the samples"
    )
