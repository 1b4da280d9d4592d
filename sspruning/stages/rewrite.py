"""Samples written member by member: other suffixes, fewer members, a class, keys with their shard's name in front.

Payloads are never touched. A member whose name stays is copied with its headers; links, directories and members without
a key, which no reader sees, are left out. The same rules turn a source sample into the same bytes when it is verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sspruning.config import WriteConfig
from sspruning.errors import UsageError
from sspruning.storage.samples import split_name
from sspruning.storage.tar_members import RawMember, Read, new_header, padding, raw_members, renamed_header

__all__ = ["Piece", "Rewriting", "SourceSample", "rewritten"]

CLS = "cls"

Piece: TypeAlias = "bytes | tuple[int, int]"
"""Bytes, or start and end of a range of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """What becomes of the members of a sample. Small and picklable."""

    cls: Literal["keep", "cluster", "zero", "none"]
    rename: tuple[tuple[str, str], ...]
    """(old, new) suffixes."""
    members: tuple[str, ...] | None
    """Suffixes, after renaming, of the members that are written; None: all."""
    prefixed: bool
    """Keys of the store, and so of the output, have the shard's name in front."""
    image_key: tuple[str, ...]
    """Suffixes, after renaming, of the embedded member, in order of preference."""

    @classmethod
    def of(cls, config: WriteConfig, image_key: Sequence[str], *, prefixed: bool) -> Rewriting:
        """What the section `write` asks for.

        Args:
            config: the section.
            image_key: suffixes of the embedded member in the source.
            prefixed: whether keys of the store have the shard's name in front.
        """
        return cls(
            cls=config.cls,
            rename=tuple(sorted(config.rename_suffix.items())),
            members=None if config.members is None else tuple(config.members),
            prefixed=prefixed,
            image_key=tuple(dict.fromkeys(config.rename_suffix.get(suffix, suffix) for suffix in image_key)),
        )

    @property
    def needed(self) -> bool:
        """False if samples can be copied as they stand."""
        return self.prefixed or self.cls != "keep" or bool(self.rename) or self.members is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSample:
    """Where a sample stands in a source shard."""

    path: str
    shard_id: str
    start: int
    end: int
    """Of its blocks."""
    image: int | None
    """First byte of the image that was embedded; None: not known, and not checked."""
    centroid: int
    """Its prototype; looked at for the class `cluster` alone."""


def rewritten(rule: Rewriting, read: Read, sample: SourceSample) -> list[Piece]:
    """Pieces of the sample's blocks in the output.

    Args:
        rule: what becomes of its members.
        read: reads the source shard.
        sample: where it stands there.

    Raises:
        UsageError: two members would get one name, or the embedded image would be gone or hidden by another member.
        ShardError: headers that cannot be read.
    """
    rename, prefix = dict(rule.rename), f"{sample.shard_id}/" if rule.prefixed else ""
    taken: dict[str, RawMember] = {}
    pieces: list[Piece] = []
    key = ""
    for member in raw_members(sample.path, read, sample.start, sample.end):
        named = split_name(member.name)
        if named is None:
            continue
        key, suffix = named
        new = rename.get(suffix, suffix)
        if (rule.members is not None and new not in rule.members) or (new == CLS and rule.cls != "keep"):
            continue
        if new in taken:
            raise UsageError(_collision(sample, key, new, rename))
        taken[new] = member
        if new == suffix and not prefix:
            pieces.append((member.start, member.end))
            continue
        name = prefix + (member.name if new == suffix else f"{key}.{new}")
        headers = read(member.start, member.payload - member.start)
        pieces += [renamed_header(sample.path, headers, member.start, name), (member.payload, member.end)]
    if sample.image is not None:
        _refuse_lost_image(rule, sample, key, taken)
    if rule.cls in {"cluster", "zero"}:
        content = b"%d" % (sample.centroid if rule.cls == "cluster" else 0)
        pieces += [new_header(f"{prefix}{key}.{CLS}", len(content)), content + padding(len(content))]
    return pieces


def _refuse_lost_image(rule: Rewriting, sample: SourceSample, key: str, taken: Mapping[str, RawMember]) -> None:
    """Raise unless readers that look for the image by its suffix find the one that was embedded."""
    found = next((taken[suffix] for suffix in rule.image_key if suffix in taken), None)
    if found is None or all(member.payload != sample.image for member in taken.values()):
        raise UsageError(
            f"{sample.path}: sample {key!r} would be left without the image that was embedded; "
            f"give its suffix, one of {', '.join(rule.image_key)}, to --members, and let no --rename-suffix hide it"
        )
    if found.payload != sample.image:
        raise UsageError(
            f"{sample.path}: sample {key!r}: after renaming, {found.name!r} would be taken for its image, but another "
            "member was embedded; rename to a suffix that is not of images"
        )


def _collision(sample: SourceSample, key: str, suffix: str, rename: Mapping[str, str]) -> str:
    renamed = " and ".join(f"{old}={new}" for old, new in sorted(rename.items()) if new == suffix)
    return (
        f"{sample.path}: sample {key!r} would get two members .{suffix} by --rename-suffix {renamed}; "
        "rename to a suffix that no other member has"
    )
