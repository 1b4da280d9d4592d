"""Samples of a report to pictures: thumbnails and captions, read from the source shards by byte range."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
from PIL import Image

from sspruning.encoders.images import ImageError, decode_image
from sspruning.errors import MachineError, ShardError
from sspruning.progress import Ticker
from sspruning.records import I64
from sspruning.reporting.contents import Picture
from sspruning.reporting.words import cut
from sspruning.stages.report_numbers import groups_with_rows, ranks_of
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.parts import PartReader
from sspruning.storage.samples import split_name
from sspruning.storage.sources import Source, open_source
from sspruning.storage.store import CommitRecord, Store
from sspruning.storage.tar_members import raw_members
from sspruning.storage.urls import is_url

__all__ = ["read_pictures", "thumbnail"]

SIDE = 128  # of a thumbnail, the longer one
TINY = 64  # up to here the pixels are kept and shown as squares
QUALITY, TINY_QUALITY = 72, 90
CAPTION = 280  # characters
CAPTION_BYTES = 1 << 16
MEMBERS_READ = 64  # of a sample, in search of its caption
TEXTS = ("txt", "caption", "json")  # members that may hold a caption, the best first
SPOKEN = ("caption", "text", "description", "title", "alt")
GONE, CHANGED = "the source shard is gone or cannot be read", "the source shard has changed since it was embedded"


def thumbnail(data: bytes, max_pixels: int) -> tuple[str, bool]:
    """A data: URI of a small JPEG, and whether the picture has so few pixels that all of them are in it.

    Raises:
        ImageError: no image that can be decoded within the limits.
    """
    image = decode_image(data, max_pixels=max_pixels, draft_size=SIDE)
    tiny = max(image.size) <= TINY
    if not tiny:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.info.clear()  # a comment or a profile of the file would be written into the JPEG
    buffer = io.BytesIO()
    if tiny:
        image.save(buffer, "JPEG", quality=TINY_QUALITY, subsampling=0, optimize=True)
    else:
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), tiny


class _Source:
    """A source shard, if it is there."""

    def __init__(self, path: str, source: Source | None) -> None:
        self.path = path
        self._source = source

    @property
    def there(self) -> bool:
        return self._source is not None

    def read(self, start: int, size: int) -> bytes:
        """At most these bytes of the shard; fewer where it ends."""
        try:
            return b"" if self._source is None else self._source.read(start, size)
        except (OSError, ShardError, MachineError):
            return b""


@contextmanager
def _opened(path: str) -> Generator[_Source]:
    source = None
    with suppress(OSError, ShardError, MachineError):
        if is_url(path) or stat.S_ISREG(os.stat(path).st_mode):  # a pipe in its place is no shard  # noqa: PTH116
            source = open_source(path)
    try:
        yield _Source(path, source)
    finally:
        if source is not None:
            source.close()


@dataclass(frozen=True, slots=True)
class _Places:
    """Columns of a part that say where its samples lie."""

    keys: list[str]
    row: np.ndarray
    block_start: np.ndarray
    block_end: np.ndarray
    image_start: np.ndarray
    image_size: np.ndarray
    content: np.ndarray

    @classmethod
    def of(cls, part: PartReader) -> _Places:
        names = ("row", "block_start", "block_end", "image_start", "image_size")
        return cls(part.keys(), *(part.column(name) for name in names), part.content())


def read_pictures(
    store: Store, file: SelectionFile, rows: Iterable[int], ticker: Ticker
) -> tuple[dict[int, Picture], dict[str, int]]:
    """`Picture` of each of the given rows of the whole store, and how many have no image, by the reason.

    Args:
        store: parts, and where their shards lie.
        file: the selection.
        rows: what is wanted.
        ticker: told after each shard.

    Cost:
        one pass over the selection; an image file read and decoded for each row; one shard open at a time.
    """
    wanted, at = np.unique(np.fromiter(rows, np.int64)), 0
    found: dict[int, Picture] = {}
    missing: dict[str, int] = {}
    columns = ["centroid", "cosine_dist_to_cent", "score", "rank", "kept", "reason"]
    records, shards = [record for record in store.records() if record.n_rows], store.shards()
    for record, group in zip(records, groups_with_rows(file, columns), strict=True):
        own = wanted[np.searchsorted(wanted, at) : np.searchsorted(wanted, at + record.n_rows)] - at
        if len(own):
            ranks = pa.array(ranks_of(file.selection, group))
            group = group.set_column(columns.index("rank"), "rank", ranks)
            for place, picture in zip(
                own.tolist(), _of_shard(store, shards[record.shard_id].path, record, group, own), strict=True
            ):
                found[at + place] = picture
                if picture.note:
                    missing[picture.note] = missing.get(picture.note, 0) + 1
        at += record.n_rows
        ticker.tick(len(own))
    return found, missing


def _of_shard(store: Store, path: str, record: CommitRecord, group: pa.Table, own: I64) -> Iterator[Picture]:
    max_pixels = int(cast("int", store.settings.get("max_pixels", 50_000_000)))
    with store.open_part(record) as part:
        places = _Places.of(part)
    facts = group.take(pa.array(own)).to_pylist()
    with _opened(path) as source:
        for place, fact in zip(own.tolist(), facts, strict=True):
            image, tiny, note = _image(source, places, place, max_pixels)
            yield Picture(
                key=places.keys[place],
                shard=record.shard_id,
                row=int(places.row[place]),
                rank=fact["rank"],
                score=fact["score"],
                distance=fact["cosine_dist_to_cent"],
                cluster=fact["centroid"],
                reason=fact["reason"],
                kept=fact["kept"],
                image=image,
                tiny=tiny,
                note=note,
                caption="" if note in {GONE, CHANGED} else _caption(source, places, place),
            )


def _image(source: _Source, places: _Places, place: int, max_pixels: int) -> tuple[str, bool, str]:
    """Data: URI of one sample, whether it is tiny, and why there is none."""
    if not source.there:
        return "", False, GONE
    data = source.read(int(places.image_start[place]), int(places.image_size[place]))
    if hashlib.blake2b(data, digest_size=16).digest() != places.content[place].tobytes():
        return "", False, CHANGED
    try:
        return *thumbnail(data, max_pixels), ""
    except ImageError as error:
        return "", False, f"the image cannot be shown ({error.reason})"


def _caption(source: _Source, places: _Places, place: int) -> str:
    """Text of a sample's txt or json member, in one line, cut; empty where there is none."""
    start, end = int(places.block_start[place]), int(places.block_end[place])
    best, spoken = len(TEXTS), ""
    try:
        for number, member in enumerate(raw_members(source.path, source.read, start, end)):
            named = split_name(member.name)
            place = _preference(named[1]) if named else len(TEXTS)
            if place < best:
                data = source.read(member.payload, min(member.size, CAPTION_BYTES)).decode("utf-8", "replace")
                best, spoken = place, _spoken(data) if named and named[1].endswith("json") else data
            if number == MEMBERS_READ:
                break
    except (ShardError, ValueError, IndexError):  # blocks that have changed since
        return ""
    return cut(" ".join(spoken.split()), CAPTION)


def _preference(suffix: str) -> int:
    """Place in `TEXTS` of a suffix, or of how it ends; the number of these if it is none of them."""
    return next(
        (place for place, text in enumerate(TEXTS) if suffix == text or suffix.endswith(f".{text}")), len(TEXTS)
    )


def _spoken(text: str) -> str:
    """The caption in a JSON object, or the JSON as it stands."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(content, dict):
        for name in SPOKEN:
            if isinstance(content.get(name), str) and content[name].strip():
                return content[name]
    return text
