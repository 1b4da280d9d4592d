"""Proof that nothing was lost or damaged: pruned shards against manifest and sources, a store against its records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sspruning.config import WriteConfig
from sspruning.errors import ShardError, StoreError, UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.stages.inspect import key_hash
from sspruning.stages.output_plan import groups_with_rows
from sspruning.stages.rewrite import Piece, Rewriting, SourceSample, rewritten
from sspruning.stages.sidecars import META, inside, manifest_path, read_manifest, read_sources
from sspruning.stages.verify_store import NO_DIGEST, SHOWN, VerifyReport, verify_artefacts, verify_store
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import file_sha256
from sspruning.storage.digests import DIGEST
from sspruning.storage.output_place import MANIFEST, OutputPlace, fetched
from sspruning.storage.samples import Sample, ShardReader
from sspruning.storage.sources import source_exists

__all__ = ["VerifyReport", "verify"]

PIECE_BYTES = 16 << 20
COPIED = "samples equal to their source, byte for byte"
REWRITTEN = "samples equal, byte for byte, to what their source becomes by the recorded settings"


def verify(folder: str | Path, progress: Progress | None = None) -> VerifyReport:
    """`VerifyReport` of a folder or URL of pruned shards, a store, or a run folder with a store.

    For pruned shards: every file's sha256, the ledger, exactly the selected keys, and every sample's bytes against the
    source shard, read again, and rewritten again where members were renamed, left out or made. For a store: every
    part's sha256 and its own invariants, and the digest of every other file, those made from the store included.

    Raises:
        UsageError: the folder is none of these.
        StoreError: the output is not finished, or its manifest is damaged.

    Cost:
        reads everything once; 24 bytes of memory a kept sample.
    """
    progress = progress or SilentProgress()
    report = VerifyReport()
    with fetched(folder) as place:
        if manifest_path(place.folder).exists():
            _verify_output(place, report, progress)
            return report
        if place.is_begun():
            raise StoreError(
                f"{place}/{MANIFEST}: missing, so the output is not finished; run the same `write` or `run` again"
            )
    folder = Path(folder)
    if _is_store(folder):
        verify_store(folder, report, progress)
        verify_artefacts(folder, report, progress)
    elif _is_store(folder / "store"):
        verify_store(folder / "store", report, progress)
        for root in (folder, folder / "store"):
            verify_artefacts(root, report, progress)
    else:
        raise UsageError(
            f"{place}: neither pruned shards nor a store; give the folder that `write`, `run` or `embed` made"
        )
    return report


def _is_store(folder: Path) -> bool:
    """True for a store, with or without its ``store.json``."""
    names = ("store.json", "corpus.json", "manifest.json")
    return (folder / "parts").is_dir() and any((folder / name).exists() for name in names)


def _digest(reader: ShardReader, sample: Sample) -> bytes:
    """blake2b-128 of a sample's raw blocks."""
    return _joined(reader, [(sample.block_start, sample.block_end)])


def _joined(reader: ShardReader, pieces: list[Piece]) -> bytes:
    """blake2b-128 of pieces of a shard."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        if isinstance(piece, bytes):
            digest.update(piece)
            continue
        for start in range(*piece, PIECE_BYTES):
            digest.update(reader.read(start, min(PIECE_BYTES, piece[1] - start)))
    return digest.digest()


def _rewritten(reader: ShardReader, sample: Sample, shard_id: str, centroid: int, rule: Rewriting) -> bytes:
    """blake2b-128 of the blocks that a source sample becomes in the output."""
    source = SourceSample(
        path=reader.path,
        shard_id=shard_id,
        start=sample.block_start,
        end=sample.block_end,
        image=None,
        centroid=centroid,
    )
    return _joined(reader, rewritten(rule, reader.read, source))


@dataclass(slots=True)
class _Known:
    """Samples of the output by key hash, sorted for searching."""

    hashes: np.ndarray
    digests: np.ndarray
    seen: np.ndarray


def _rule(folder: Path, content: dict) -> Rewriting:
    """What was done to the samples, by the manifest."""
    try:
        section = WriteConfig(**{key: value for key, value in content["write"].items() if key != "index"})
    except (TypeError, ValueError) as error:
        raise StoreError(f"{folder / META / 'manifest.json'}: damaged ({error})") from error
    return Rewriting.of(section, content["image_key"], prefixed="key_prefix" in content.get("settings", {}))


def _verify_output(place: OutputPlace, report: VerifyReport, progress: Progress) -> None:
    folder = place.folder
    content = read_manifest(folder)
    if DIGEST not in content:
        report.problem(f"{folder / META / 'manifest.json'}: {NO_DIGEST}")
    rule = _rule(folder, content)
    for name in sorted(place.tars() - {shard["name"] for shard in content["shards"]}):
        report.problem(f"{place}/{name}: not in the manifest")
    for name, sha256 in content["files"].items():
        path = inside(folder, name)
        if not path.exists() or file_sha256(path) != sha256:
            report.problem(f"{place}/{name}: missing, or not what the manifest records; run the same command again")
    known = _read_output(place, content, report, progress)
    if len(known.hashes) != content["n_kept"]:
        report.problem(f"{place}: {len(known.hashes)} samples in the shards, the manifest says {content['n_kept']}")
    try:
        selection = SelectionFile.open(folder / META / "selection.parquet")
    except StoreError as error:
        report.problem(f"{error}; run the same command again")
        return
    if selection.selection.n_kept != content["n_kept"]:
        report.problem(
            f"{place}: the selection has {selection.selection.n_kept} samples, the manifest says {content['n_kept']}"
        )
    try:
        _verify_sources(place, selection, rule, known, report, progress)
    except StoreError as error:
        report.problem(str(error))
        return
    for index in np.flatnonzero(~known.seen).tolist()[:SHOWN]:
        report.problem(
            f"{place}: a sample with key hash {known.hashes[index]:016x} is in the shards but was not selected"
        )
    report.n_problems += max(0, int((~known.seen).sum()) - SHOWN)


def _read_output(place: OutputPlace, content: dict, report: VerifyReport, progress: Progress) -> _Known:
    """Digest every sample of the output and compare each shard with the manifest."""
    hashes: list[int] = []
    digests: list[bytes] = []
    with progress.stage("output", content["n_kept"], "samples") as ticker:
        for shard in content["shards"]:
            inside(place.folder, shard["name"])
            path = place.source(shard["name"])
            sha256 = hashlib.sha256()
            own: list[bytes] = []
            try:
                with ShardReader(path, hasher=sha256) as reader:
                    for sample in reader.samples():
                        hashes.append(key_hash(sample.key))
                        own.append(_digest(reader, sample))
            except (ShardError, OSError) as error:
                report.problem(str(error))
                continue
            finally:
                digests.extend(own)
                ticker.tick(len(own))
            joined = hashlib.blake2b(b"".join(own), digest_size=16).hexdigest()
            if (
                sha256.hexdigest() != shard["sha256"]
                or joined != shard["samples_digest"]
                or len(own) != shard["n_samples"]
            ):
                report.problem(f"{path}: content is not what the manifest records; remove it and run `write` again")
            else:
                report.count("shards with the recorded sha256, samples and size")
    order = np.argsort(np.array(hashes[: len(digests)], np.uint64), kind="stable")
    table = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
    return _Known(np.array(hashes[: len(digests)], np.uint64)[order], table[order], np.zeros(len(order), np.bool_))


def _verify_sources(
    place: OutputPlace,
    selection: SelectionFile,
    rule: Rewriting,
    known: _Known,
    report: VerifyReport,
    progress: Progress,
) -> None:
    """Compare every kept sample with its source shard, or, where that is gone, its key with the selection."""
    sources = {entry["shard_id"]: entry for entry in read_sources(place.folder)}
    with progress.stage("sources", selection.selection.n_kept, "samples") as ticker:
        for table in groups_with_rows(selection, ["key", "shard", "kept", "centroid"]):
            kept = table.filter(table.column("kept"))
            keys = kept.column("key").to_pylist()
            if not keys:
                continue
            shard_id = table.column("shard")[0].as_py()
            entry = sources.get(shard_id)
            if entry is None:
                report.problem(f"{place}: samples of {shard_id} are selected but it is not among the sources")
                continue
            if source_exists(entry["path"]):
                centroids = dict(zip(keys, kept.column("centroid").to_pylist(), strict=True))
                _compare(entry["path"], shard_id, centroids, rule, known, report)
            else:
                report.notes.append(
                    f"{entry['path']}: source not found; its samples were compared with the digests taken when "
                    "they were copied, not with the source"
                )
                _mark(keys, known, report)
            ticker.tick(len(keys))


def _find(known: _Known, key: str) -> int:
    """Index of a key in the output, or -1."""
    wanted = np.uint64(key_hash(key))
    at = int(np.searchsorted(known.hashes, wanted))
    return at if at < len(known.hashes) and known.hashes[at] == wanted else -1


def _mark(keys: list[str], known: _Known, report: VerifyReport) -> None:
    for key in keys:
        at = _find(known, key)
        if at < 0:
            report.problem(f"sample {key!r} is selected but missing in the output")
        else:
            known.seen[at] = True
            report.count("samples present, source gone")


def _compare(
    path: str, shard_id: str, centroids: dict[str, int], rule: Rewriting, known: _Known, report: VerifyReport
) -> None:
    """Prove the kept samples of one source shard equal, byte for byte.

    Args:
        path: of the source shard.
        shard_id: its name in the store.
        centroids: prototype of each kept sample, by its key in the store; those that are found are taken out.
        rule: what was done to the samples.
        known: the output.
        report: told of each.
    """
    prefix = f"{shard_id}/" if rule.prefixed else ""
    proved = REWRITTEN if rule.needed else COPIED
    try:
        with ShardReader(path) as reader:
            for sample in reader.samples():
                key = prefix + sample.key
                if key not in centroids:
                    continue
                centroid = centroids.pop(key)
                at = _find(known, key)
                if at < 0:
                    report.problem(f"{path}: sample {key!r} is selected but missing in the output")
                    continue
                known.seen[at] = True
                digest = (
                    _rewritten(reader, sample, shard_id, centroid, rule) if rule.needed else _digest(reader, sample)
                )
                if digest != known.digests[at].tobytes():
                    report.problem(f"{path}: sample {key!r} differs from its copy in the output")
                else:
                    report.count(proved)
    except (ShardError, UsageError, OSError) as error:
        report.problem(str(error))
    for key in sorted(centroids):
        report.problem(f"{path}: sample {key!r} is selected but not in its source any more")
