"""The folder of pruned shards: what stands there, what may be written into it, and what may be removed from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from sspruning.errors import StoreError, UsageError
from sspruning.records import JSONValue, ShardRef
from sspruning.stages.sidecars import META, VERSION, WORKING, inside, manifest_path, read_manifest
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import read_json
from sspruning.storage.digests import read_with_digest
from sspruning.storage.store import Store

__all__ = [
    "clear_output",
    "leftovers",
    "refuse_bad_output",
    "refuse_nested_output",
    "remove_files",
    "remove_strange_shards",
]


def refuse_nested_output(output: Path, shards: Iterable[ShardRef]) -> None:
    """Refuse an output that is an input folder or lies in one: the next run could take its shards for input.

    Raises:
        UsageError: names both folders.
    """
    resolved = output.resolve()
    for folder in {Path(shard.path).resolve().parent for shard in shards}:
        if resolved.is_relative_to(folder):
            raise UsageError(f"{output}: the output lies in the input folder {folder}; name a folder outside of it")


def refuse_bad_output(store: Store, output: Path, selection: str, shards_mark: str, *, overwrite: bool) -> None:
    """Refuse outputs that would harm something; with ``overwrite``, shards of another selection are removed.

    Shards of the same selection and settings may stay: they are gone on with, whatever index files are asked for.

    Args:
        store: the store that is written from.
        output: the folder.
        selection: fingerprint of what is written.
        shards_mark: fingerprint of the shards that shall stand there.
        overwrite: remove others.

    Raises:
        UsageError: the output is an input folder or the store, a file, or holds something else.
    """
    resolved = output.resolve()
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file stands there; name a folder")
    refuse_nested_output(output, store.shards().values())
    if resolved.is_relative_to(store.path.resolve()):
        raise UsageError(f"{output}: the output lies in the store; name another folder")
    if not manifest_path(output).exists():
        if not (output / META).exists() and output.exists() and any(output.glob("*.tar")):
            raise UsageError(f"{output}: holds .tar files that sspruning did not write; name another folder")
        return
    if _without_damaged_manifest(output, selection, overwrite=overwrite):
        return
    content = cast("dict[str, JSONValue]", read_json(manifest_path(output)))
    if content.get("format_version") == VERSION and content.get("shards_fingerprint") == shards_mark:
        return
    if not overwrite:
        what = "of another selection" if content.get("format_version") == VERSION else "that another release wrote"
        raise UsageError(f"{output}: holds shards {what}; name another folder, or give --overwrite")
    clear_output(output)


def _without_damaged_manifest(output: Path, selection: str, *, overwrite: bool) -> bool:
    """True if a damaged manifest was removed: the output is then one that is not finished.

    Raises:
        UsageError: the shards may be of another selection, and ``overwrite`` was not given.
    """
    path, problem = manifest_path(output), f"{manifest_path(output)}: damaged (not a manifest)"
    try:
        if "format" in read_with_digest(path):
            return False
    except StoreError as error:
        problem = str(error)
    if not overwrite and not _is_of(output, selection):
        raise UsageError(f"{problem}; --overwrite writes the shards again, whatever they are of")
    path.unlink()
    return True


def _is_of(output: Path, selection: str) -> bool:
    """True if the selection beside the shards says that it is this one."""
    with suppress(StoreError):
        return SelectionFile.open(output / META / "selection.parquet").selection.fingerprint == selection
    return False


def clear_output(output: Path) -> None:
    """Remove what sspruning wrote into ``output`` and nothing else; the manifest goes first."""
    content = cast("dict[str, Any]", read_json(manifest_path(output)))
    try:
        names = [*(str(shard["name"]) for shard in content["shards"]), *content["files"]]
    except (KeyError, TypeError) as error:
        raise StoreError(f"{manifest_path(output)}: damaged ({error!r}); write into another folder") from error
    for name in names:
        inside(output, name)
    manifest_path(output).unlink()
    remove_files(output, names)
    shutil.rmtree(output / META, ignore_errors=True)


def remove_files(output: Path, names: Iterable[str]) -> None:
    """Remove files of the output, and folders inside it that are empty then."""
    for name in names:
        path = inside(output, name)
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == output or not folder.is_relative_to(output):
                break
            with suppress(OSError):
                folder.rmdir()


def leftovers(output: Path) -> set[str]:
    """Index files that earlier, finished or unfinished writing may have left; not the working files of trainers."""
    found: set[str] = set()
    if manifest_path(output).exists():
        found.update(read_manifest(output)["files"])
    for path in (output / META / "shards").glob("shard-*.tar.json"):
        with suppress(StoreError, KeyError, TypeError):
            found.update(cast("dict[str, Any]", read_json(path))["files"])
    return {name for name in found if not name.startswith(WORKING)}


def remove_strange_shards(output: Path, names: set[str]) -> None:
    """Remove shards of an earlier, unfinished attempt with another plan."""
    for path in output.glob("shard-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if path.name not in names:
            path.unlink()
