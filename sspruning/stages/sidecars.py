"""What stands beside the pruned shards: index files of trainers, the proof of where samples came from, the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sspruning.errors import StoreError
from sspruning.records import JSONValue, Manifest, Output, OutputSample, OutputShard
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import read_json, write_bytes, write_json, write_stream
from sspruning.storage.digests import DIGEST, changed_at, damaged, fits_digest, read_with_digest, with_digest
from sspruning.storage.output_place import WORKING, LocalPlace, OutputPlace
from sspruning.storage.pruned import META
from sspruning.trainers import TRAINERS, Files

__all__ = [
    "META",
    "SOURCES",
    "VERSION",
    "WORKING",
    "digests_here",
    "inside",
    "manifest_path",
    "output_from",
    "output_of",
    "read_manifest",
    "read_sources",
    "record_name",
    "record_path",
    "up_to_date",
    "write_manifest",
    "write_shard_files",
    "write_sidecars",
]

SOURCES = f"{META}/sources.json"
FORMAT, VERSION = "sspruning-output", 2
COPY_BYTES = 4 << 20
KEYS = frozenset({"fingerprint", "shards_fingerprint", "n_kept", "n_embedded", "write", "image_key", "shards", "files"})


def manifest_path(output: Path) -> Path:
    """The file that makes an output count."""
    return output / META / "manifest.json"


def record_path(output: Path, name: str) -> Path:
    """Commit record of one output shard, as long as the output is not finished."""
    return output / record_name(name)


def record_name(name: str) -> str:
    """Name of that record in the output."""
    return f"{WORKING}{name}.json"


def inside(output: Path, name: str) -> Path:
    """The file ``name`` of the output.

    Raises:
        StoreError: the name leads out of the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise StoreError(f"{output}: {name!r} is named as a file of this folder but would lie outside of it")
    return output / path


def read_manifest(output: Path) -> dict[str, Any]:
    """Content of the manifest of a finished output.

    Raises:
        StoreError: there is none, it is damaged, or of another format version; says what to do.
    """
    path = manifest_path(output)
    if not path.exists():
        raise StoreError(f"{output}: no finished pruned shards here ({path} is missing); `sspruning write` makes them")
    content = read_with_digest(path)
    if content.get("format") != FORMAT:
        raise StoreError(f"{path}: not a manifest that sspruning wrote; write the output into another folder")
    version = content.get("format_version")
    if version != VERSION:
        cure = "use the release that wrote it, or write it again with --overwrite"
        raise StoreError(f"{output}: output format {version!r}, this release reads {VERSION}; {cure}")
    if not content.keys() >= KEYS:
        lost = ", ".join(sorted(KEYS - content.keys()))
        raise StoreError(f"{path}: damaged (without {lost}); write the output into another folder")
    return cast("dict[str, Any]", content)


def output_from(folder: Path, shards: Sequence[Mapping[str, Any]], image_key: Sequence[str]) -> Output:
    """The `Output` of shards that stand in ``folder``, by what the manifest says of each."""
    listed = [
        OutputShard(name=one["name"], n_samples=one["n_samples"], size=one["size"], suffixes=one["suffixes"])
        for one in shards
    ]
    return Output(folder=str(folder), shards=listed, image_key=tuple(image_key))


def output_of(folder: str | Path) -> Output:
    """The `Output` that stands in a folder of pruned shards, by its manifest; no shard is read.

    Raises:
        StoreError: the output is not finished, damaged, or of another format version.
    """
    content = read_manifest(Path(folder))
    try:
        return output_from(Path(folder), content["shards"], content["image_key"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{manifest_path(Path(folder))}: damaged ({error!r}); write into another folder") from error


def up_to_date(place: OutputPlace, mark: str) -> Manifest | None:
    """The manifest of a finished output with this fingerprint; None if any file is missing or not what it was.

    Cost:
        files that were changed after the manifest are read.
    """
    output = place.folder
    if not manifest_path(output).exists():
        return None
    content = read_manifest(output)
    if content["fingerprint"] != mark or DIGEST not in content or not _has_sources(output):
        return None
    if any(place.size(inside(output, shard["name"]).name) != shard["size"] for shard in content["shards"]):
        return None
    digests = digests_here(place, {shard["name"]: shard["sha256"] for shard in content["shards"]} | content["files"])
    if damaged(digests, manifest_path(output)):
        return None
    return Manifest(
        n_kept=content["n_kept"],
        n_embedded=content["n_embedded"],
        fingerprint=mark,
        shards=content["shards"],
        path=str(place),
    )


def digests_here(place: OutputPlace, digests: Mapping[str, str]) -> dict[Path, str]:
    """sha256 of each file that is on this machine, by its path: shards behind a URL are not."""
    remote = not isinstance(place, LocalPlace)
    found = {inside(place.folder, name): sha256 for name, sha256 in digests.items()}
    return {path: sha256 for path, sha256 in found.items() if not (remote and path.suffix == ".tar")}


def read_sources(output: Path) -> list[dict[str, Any]]:
    """`shard_id`, `path` and `sha256` of each source that gave a sample.

    Raises:
        StoreError: missing or damaged.
    """
    path = output / SOURCES
    content = read_json(path)
    if not isinstance(content, list) or not all(fits_digest(entry) for entry in content):
        raise StoreError(f"{path}: damaged (a digest is not that of its entry); run the same command again")
    return cast("list[dict[str, Any]]", content)


def _has_sources(output: Path) -> bool:
    """True unless the list of sources is missing or known to be damaged: it is read if changed after the manifest."""
    try:
        if changed_at(output / SOURCES) > manifest_path(output).stat().st_mtime_ns:
            read_sources(output)
    except (OSError, StoreError):
        return False
    return True


def _write_files(output: Path, files: Files) -> dict[str, str]:
    """sha256 of each file that now stands, by its name."""
    return {name: write_stream(inside(output, name), pieces)[0] for name, pieces in files}


def write_shard_files(
    output: Path, shard: OutputShard, samples: Sequence[OutputSample], index: Sequence[str]
) -> dict[str, str]:
    """sha256 of each index file of one shard, by its name, after it was written."""
    found: dict[str, str] = {}
    for name in index:
        found.update(_write_files(output, TRAINERS.resolve(name).shard_files(shard, samples)))
    return found


def write_sidecars(
    selection: SelectionFile, sources: list[JSONValue], output: Output, index: Sequence[str], recipe: str
) -> dict[str, str]:
    """sha256 of each file that belongs to the whole output, by its name, after it was written.

    Args:
        selection: copied beside the shards.
        sources: where the samples came from.
        output: the shards, all of which stand.
        index: trainers whose index files are written.
        recipe: YAML text of what decided the result.
    """
    folder = Path(output.folder)
    found = {
        f"{META}/selection.parquet": write_stream(folder / META / "selection.parquet", _pieces(selection.path))[0],
        f"{META}/config.yaml": write_bytes(folder / META / "config.yaml", recipe.encode())[0],
    }
    # has paths, so the manifest, which has none, leaves it out: each entry has its own digest
    entries = [with_digest(cast("dict[str, JSONValue]", source)) for source in sources]
    write_json(folder / SOURCES, cast("JSONValue", entries))
    for name in index:
        found.update(_write_files(folder, TRAINERS.resolve(name).files(output)))
    return found


def write_manifest(output: Path, facts: Mapping[str, JSONValue]) -> None:
    """Write the manifest, which comes last and makes the output count."""
    write_json(manifest_path(output), with_digest({"format": FORMAT, "format_version": VERSION, **facts}))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(COPY_BYTES):
            yield piece
