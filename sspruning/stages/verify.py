"""Proof that nothing was lost or damaged: pruned shards against manifest and sources, a store against its records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.config import WriteConfig
from sspruning.errors import ShardError, StoreError, UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.stages.inspect import key_hash
from sspruning.stages.output_plan import groups_with_rows
from sspruning.stages.rewrite import Piece, Rewriting, SourceSample, rewritten
from sspruning.stages.sidecars import META, SOURCES, inside, manifest_path, read_manifest
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import file_sha256, read_json
from sspruning.storage.output_place import OutputPlace, fetched
from sspruning.storage.samples import Sample, ShardReader
from sspruning.storage.sources import source_exists
from sspruning.storage.store import Store

__all__ = ["VerifyReport", "verify"]

SHOWN = 20  # problems kept in full; the rest is counted
PIECE_BYTES = 16 << 20
COPIED = "samples equal to their source, byte for byte"
REWRITTEN = "samples equal, byte for byte, to what their source becomes by the recorded settings"


@dataclass(slots=True)
class VerifyReport:
    """What was proved, and what was found wrong."""

    checked: dict[str, int] = field(default_factory=dict)
    """How many of what were proved, in words."""
    problems: list[str] = field(default_factory=list)
    n_problems: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return self.n_problems == 0

    def problem(self, text: str) -> None:
        """Count a problem; the first twenty are kept in words."""
        self.n_problems += 1
        if self.n_problems <= SHOWN:
            self.problems.append(text)

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was proved."""
        self.checked[what] = self.checked.get(what, 0) + number


def verify(folder: str | Path, progress: Progress | None = None) -> VerifyReport:
    """`VerifyReport` of a folder or URL of pruned shards, a store, or a run folder with a store.

    For pruned shards: every file's sha256, the ledger, exactly the selected keys, and every sample's bytes against the
    source shard, read again, and rewritten again where members were renamed, left out or made. For a store: every
    part's sha256 and its own invariants.

    Raises:
        UsageError: the folder is none of these.

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
            raise UsageError(
                f"{folder}: the output is not finished (its manifest is missing); run the same `write` or `run` again"
            )
    folder = Path(folder)
    if (folder / "store.json").exists():
        _verify_store(folder, report, progress)
    elif (folder / "store" / "store.json").exists():
        _verify_store(folder / "store", report, progress)
    else:
        raise UsageError(
            f"{place}: neither pruned shards nor a store; give the folder that `write`, `run` or `embed` made"
        )
    return report


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
    selection = SelectionFile.open(folder / META / "selection.parquet")
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
    sources = {entry["shard_id"]: entry for entry in cast("list[dict]", read_json(place.folder / SOURCES))}
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


def _verify_store(folder: Path, report: VerifyReport, progress: Progress) -> None:
    store = Store(folder)
    records = {record.shard_id: record for record in store.records()}
    quarantined = store.quarantined()
    for shard_id in store.shards():
        if shard_id not in records and shard_id not in quarantined:
            report.problem(f"{folder}: shard {shard_id} has no part; run `sspruning embed` again")
    for shard_id, problem in quarantined.items():
        report.notes.append(f"{shard_id}: in quarantine, {problem}")
    with progress.stage("parts", len(records), "parts") as ticker:
        for record in records.values():
            path = store.part_path(record)
            if file_sha256(path) != record.sha256:
                report.problem(
                    f"{path}: content is not what its record says; delete it and run `sspruning embed` again"
                )
            else:
                _check_part(store, record.shard_id, report)
            ticker.tick()


def _check_part(store: Store, shard_id: str, report: VerifyReport) -> None:
    """Invariants of one part: unit rows, increasing row numbers, complete ledger."""
    record = next(found for found in store.records() if found.shard_id == shard_id)
    try:
        with store.open_part(record) as part:
            rows = part.column("row")
            embedding = part.embedding().astype(np.float32)
            length = np.linalg.norm(embedding, axis=1)
            sound = (
                bool((np.diff(rows.astype(np.int64)) > 0).all())
                and bool((np.abs(length - 1) < 0.01).all())
                and part.n_skipped == sum(record.skipped.values())
                and record.n_samples == record.n_rows + part.n_skipped
            )
    except StoreError as error:
        report.problem(str(error))
        return
    if not sound:
        report.problem(
            f"{store.part_path(record)}: rows or counts are inconsistent; delete it and run `sspruning embed` again"
        )
        return
    report.count("parts with the recorded sha256 and sound rows")
    report.count("embedded samples accounted for", record.n_rows)
