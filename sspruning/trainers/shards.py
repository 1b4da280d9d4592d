"""What trainers ask of an output folder: paths and ranges of its shards, suffixes of its samples, JSON as bytes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from sspruning.records import JSONValue, Output

__all__ = ["count_samples", "folder_of", "image_suffixes", "json_pieces", "key_of", "paths_of", "quoted", "shard_range"]

_NUMBERED = re.compile(r"(.*?)([0-9]+)(\D*)")


def folder_of(output: Output) -> str:
    """The folder as an absolute path: trainers are started elsewhere."""
    return str(Path(output.folder).absolute())


def paths_of(output: Output) -> list[str]:
    """Absolute paths of all shards, in order."""
    folder = Path(output.folder).absolute()
    return [str(folder / shard.name) for shard in output.shards]


def shard_range(output: Output) -> str:
    """Absolute path of all shards as one brace pattern, such as /data/shard-{000000..000041}.tar."""
    return f"{folder_of(output)}/{_braces([shard.name for shard in output.shards])}"


def _braces(names: list[str]) -> str:
    """Names as one pattern: the name itself, a range where numbers of one width follow each other, or a list."""
    if len(names) == 1:
        return names[0]
    first, last = _NUMBERED.fullmatch(names[0]), _NUMBERED.fullmatch(names[-1])
    if first and last:
        head, start, tail = first.groups()
        width, stop = len(start), int(last[2])
        if names == [f"{head}{number:0{width}d}{tail}" for number in range(int(start), stop + 1)]:
            return f"{head}{{{start}..{stop:0{width}d}}}{tail}"
    return "{" + ",".join(names) + "}"


def quoted(text: str) -> str:
    """Text as one word of a shell command."""
    return shlex.quote(text)


def image_suffixes(output: Output) -> dict[str, int]:
    """Samples by the suffix of their image, in the order in which suffixes are preferred."""
    found: dict[str, int] = {}
    for joined, count in output.suffixes.items():
        own = joined.split(";")
        image = next((suffix for suffix in output.image_key if suffix in own), "")
        found[image] = found.get(image, 0) + count
    return {suffix: found[suffix] for suffix in (*output.image_key, "") if suffix in found}


def count_samples(output: Output, *, without: Iterable[str]) -> int:
    """Number of samples that have none of the given suffixes."""
    wanted = set(without)
    return sum(count for joined, count in output.suffixes.items() if wanted.isdisjoint(joined.split(";")))


def key_of(name: str) -> str:
    """Key of a sample from the name of one of its members: what stands before the first dot of the base name."""
    return name[: name.find(".", name.rfind("/") + 1)]


def json_pieces(value: JSONValue) -> list[bytes]:
    """JSON text of a value; equal values give equal bytes."""
    return [json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"]
