"""What stands beside the pruned shards: index files that trainers read, and the proof of where samples came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.records import JSONValue
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import file_sha256, write_bytes, write_json, write_stream
from sspruning.storage.store import Store

__all__ = ["META", "write_sidecars"]


META = ".sspruning"  # folder of everything in the output that is no shard and no index of a trainer
COPY_BYTES = 4 << 20


def write_sidecars(
    store: Store,
    selection: SelectionFile,
    planned: np.ndarray,
    output: Path,
    shards: list[dict[str, JSONValue]],
    facts: dict[str, JSONValue],
    recipe: str,
) -> None:
    """Write every file of the output that is no shard; the manifest comes last and makes the output count."""
    meta = output / META
    names = [str(shard["name"]) for shard in shards]
    counts = [cast("int", shard["n_samples"]) for shard in shards]
    write_stream(meta / "selection.parquet", _pieces(selection.path))
    write_bytes(meta / "config.yaml", recipe.encode())
    used = np.unique(planned["part"]).tolist()
    records = [record for record in store.records() if record.n_rows]
    where = store.shards()
    sources: list[JSONValue] = [
        {
            "shard_id": records[number].shard_id,
            "path": where[records[number].shard_id].path,
            "sha256": records[number].shard_sha256,
        }
        for number in used
    ]
    write_json(meta / "sources.json", sources)  # has paths, so the manifest, which has none, leaves it out
    files: dict[str, JSONValue] = {
        "sizes.json": cast("JSONValue", dict(zip(names, counts, strict=True))),
        "_info.json": _timm_info(names, counts),
        "shardindex.json": _wids_index(shards),
    }
    for name, value in files.items():
        write_json(output / name, value)
    digests: dict[str, JSONValue] = {
        name: file_sha256(output / name)
        for name in sorted([*files, f"{META}/selection.parquet", f"{META}/config.yaml"])
    }
    content: dict[str, JSONValue] = {
        "format": "sspruning-output",
        "format_version": 1,
        **facts,
        "selection": selection.selection.fingerprint,
        "settings": selection.selection.settings,
        "shards": cast("JSONValue", shards),
        "files": digests,
    }
    write_json(meta / "manifest.json", content)


def _timm_info(names: list[str], counts: list[int]) -> JSONValue:
    """Timm's ``_info.json``; all four fields are required by its reader."""
    split: dict[str, JSONValue] = {
        "name": "train",
        "num_samples": sum(counts),
        "filenames": cast("JSONValue", names),
        "shard_lengths": cast("JSONValue", counts),
    }
    return {"splits": {"train": split}}


def _wids_index(shards: list[dict[str, JSONValue]]) -> JSONValue:
    """The index of ``wids``: counts and sizes for random access."""
    listed: list[JSONValue] = [
        {"url": shard["name"], "nsamples": shard["n_samples"], "filesize": shard["size"]} for shard in shards
    ]
    return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(COPY_BYTES):
            yield piece
