"""The place of pruned shards: what stands there, what may be written into it, and what may be removed from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from sspruning.errors import StoreError, UsageError
from sspruning.records import JSONValue, ShardRef
from sspruning.stages.fill import usable_folder
from sspruning.stages.sidecars import META, VERSION, WORKING, inside, manifest_path, read_manifest
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import read_json
from sspruning.storage.digests import read_with_digest
from sspruning.storage.output_place import MANIFEST, LocalPlace, OutputPlace, place_of
from sspruning.storage.remote_place import try_out
from sspruning.storage.store import Store
from sspruning.storage.urls import is_url

__all__ = [
    "clear_output",
    "leftovers",
    "refuse_bad_output",
    "refuse_nested_output",
    "remove_files",
    "remove_strange_shards",
    "usable_output",
]

NUMBERED = re.compile(r"shard-[0-9]{6}\.tar")


def usable_output(output: str | Path, beside: Path) -> OutputPlace:
    """The place ``output``, which can be written as far as can be seen before; nothing stays there yet.

    Args:
        output: folder or URL.
        beside: folder below which a URL has its small files.

    Raises:
        UsageError: a file stands where the folder has to be, it is not writable, or nothing can be written to the URL.
        MachineError: no answer from where the URL leads, or no permission.
    """
    place = place_of(output, beside)
    if isinstance(place, LocalPlace):
        usable_folder(place.folder)
    else:
        try_out(str(place))
    return place


def refuse_nested_output(place: OutputPlace, shards: Iterable[ShardRef]) -> None:
    """Refuse an output that is an input folder or lies in one: the next run could take its shards for input.

    Raises:
        UsageError: names both folders.
    """
    for folder in {_folder_of(shard.path) for shard in shards}:
        if place.lies_in(folder):
            raise UsageError(f"{place}: the output lies in the input folder {folder}; name a folder outside of it")


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] if is_url(path) else str(Path(path).resolve().parent)


def refuse_bad_output(store: Store, place: OutputPlace, selection: str, shards_mark: str, *, overwrite: bool) -> None:
    """Refuse outputs that would harm something; with ``overwrite``, shards of another selection are removed.

    Shards of the same selection and settings may stay: they are gone on with, whatever index files are asked for.

    Args:
        store: the store that is written from.
        place: where the output goes, opened.
        selection: fingerprint of what is written.
        shards_mark: fingerprint of the shards that shall stand there.
        overwrite: remove others.

    Raises:
        UsageError: the output is an input folder or the store, a file, or holds something else.
    """
    output = place.folder
    if output.exists() and not output.is_dir():
        raise UsageError(f"{place}: a file stands there; name a folder")
    refuse_nested_output(place, store.shards().values())
    if place.lies_in(str(store.path)):
        raise UsageError(f"{place}: the output lies in the store; name another folder")
    if not manifest_path(output).exists():
        if not place.is_begun() and place.tars():
            raise UsageError(f"{place}: holds .tar files that sspruning did not write; name another folder")
        return
    if _without_damaged_manifest(place, selection, overwrite=overwrite):
        return
    content = cast("dict[str, JSONValue]", read_json(manifest_path(output)))
    if content.get("format_version") == VERSION and content.get("shards_fingerprint") == shards_mark:
        return
    if not overwrite:
        what = "of another selection" if content.get("format_version") == VERSION else "that another release wrote"
        raise UsageError(f"{place}: holds shards {what}; name another folder, or give --overwrite")
    clear_output(place)


def _without_damaged_manifest(place: OutputPlace, selection: str, *, overwrite: bool) -> bool:
    """True if a damaged manifest was removed: the output is then one that is not finished.

    Raises:
        UsageError: the shards may be of another selection, and ``overwrite`` was not given.
    """
    problem = f"{place}/{MANIFEST}: damaged (not a manifest)"
    try:
        if "format" in read_with_digest(manifest_path(place.folder)):
            return False
    except StoreError as error:
        problem = str(error)
    if not overwrite and not _is_of(place.folder, selection):
        raise UsageError(f"{problem}; --overwrite writes the shards again, whatever they are of")
    place.remove([MANIFEST])
    return True


def _is_of(output: Path, selection: str) -> bool:
    """True if the selection beside the shards says that it is this one."""
    with suppress(StoreError):
        return SelectionFile.open(output / META / "selection.parquet").selection.fingerprint == selection
    return False


def clear_output(place: OutputPlace) -> None:
    """Remove what sspruning wrote there and nothing else; the manifest goes first."""
    output = place.folder
    content = cast("dict[str, Any]", read_json(manifest_path(output)))
    try:
        names = [*(str(shard["name"]) for shard in content["shards"]), *content["files"]]
    except (KeyError, TypeError) as error:
        raise StoreError(f"{manifest_path(output)}: damaged ({error!r}); write into another folder") from error
    for name in names:
        inside(output, name)
    place.remove([MANIFEST])
    remove_files(place, names)
    place.clear()


def remove_files(place: OutputPlace, names: Iterable[str]) -> None:
    """Remove files of the output, and folders inside it that are empty then.

    Raises:
        StoreError: a name leads out of the output.
    """
    place.remove([str(inside(place.folder, name).relative_to(place.folder)) for name in names])


def leftovers(output: Path) -> set[str]:
    """Index files that earlier, finished or unfinished writing may have left; not the working files of trainers."""
    found: set[str] = set()
    if manifest_path(output).exists():
        found.update(read_manifest(output)["files"])
    for path in (output / META / "shards").glob("shard-*.tar.json"):
        with suppress(StoreError, KeyError, TypeError):
            found.update(cast("dict[str, Any]", read_json(path))["files"])
    return {name for name in found if not name.startswith(WORKING)}


def remove_strange_shards(place: OutputPlace, names: set[str]) -> None:
    """Remove shards of an earlier, unfinished attempt with another plan."""
    place.remove(sorted(name for name in place.tars() - names if NUMBERED.fullmatch(name)))
