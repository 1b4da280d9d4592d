"""Proof for a store and what was made of it: parts against their records, all other files against their digests."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from sspruning.errors import StoreError
from sspruning.progress import Progress
from sspruning.stages.workspace import Workspace
from sspruning.storage.atomic import file_sha256
from sspruning.storage.digests import DIGEST, DIGESTS, listed, read_with_digest
from sspruning.storage.lost_parts import what_is_wrong
from sspruning.storage.store import Store

__all__ = ["NO_DIGEST", "SHOWN", "VerifyReport", "verify_artefacts", "verify_store"]

SHOWN = 20  # problems kept in full; the rest is counted
EMBED = "run `sspruning embed` again"
AGAIN = "run the command that made it again; if it is not made again, delete it first"
NO_DIGEST = "has no digest, so is of an earlier release, or damaged; run the command that made it again"


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


def verify_store(folder: Path, report: VerifyReport, progress: Progress) -> None:
    """Prove every part by its record and by itself, and the records and small files by the manifest."""
    if not (folder / "store.json").exists():
        report.problem(f"{folder / 'store.json'}: missing; run `sspruning embed` with the same settings again")
        return
    try:
        store = Store(folder)
        records = store.records()
        quarantined = store.quarantined()
    except StoreError as error:
        report.problem(str(error))
        return
    settled = {record.shard_id for record in records} | quarantined.keys()
    for shard_id in store.shards():
        if shard_id not in settled:
            report.problem(f"{what_is_wrong(store, shard_id)}; shard {shard_id} has no part, {EMBED}")
    for shard_id, problem in quarantined.items():
        report.notes.append(f"{shard_id}: in quarantine, {problem}")
    _verify_manifest(store, report)
    with progress.stage("parts", len(records), "parts") as ticker:
        for record in records:
            path = store.part_path(record)
            if file_sha256(path) != record.sha256:
                report.problem(f"{path}: content is not what its record says; delete it and {EMBED}")
            else:
                _check_part(store, record.shard_id, report)
            ticker.tick()


def _verify_manifest(store: Store, report: VerifyReport) -> None:
    """Prove the manifest by its digest, and by the manifest the records and the files that it lists."""
    path = store.path / "manifest.json"
    try:
        found = cast("dict[str, Any]", read_with_digest(path))
        noted = {entry["shard_id"]: entry for entry in found["parts"]}
    except (StoreError, TypeError, KeyError) as error:
        report.problem(f"{path}: missing or damaged ({error}); {EMBED}")
        return
    if DIGEST not in found:
        report.problem(f"{path}: {NO_DIGEST}")
        return
    for record in store.records():
        if noted.get(record.shard_id) != asdict(record):
            report.problem(f"{store.record_path(record.shard_id)}: not what {path.name} says; {EMBED}")
    _verify_files(store.path, cast("dict[str, str]", found["files"]), EMBED, report)


def _verify_files(folder: Path, digests: dict[str, str], cure: str, report: VerifyReport) -> None:
    for name, sha256 in digests.items():
        path = folder / name
        if not path.is_file():
            report.problem(f"{path}: missing; {cure}")
        elif file_sha256(path) != sha256:
            report.problem(f"{path}: not what was written; {cure}")
        else:
            report.count("other files as their digests say")


def verify_artefacts(root: Path, report: VerifyReport, progress: Progress) -> None:
    """Prove by their digests what lies between a store and the pruned shards: settings, prototypes, scores, selections.

    The stores of evaluation shards that `decontaminate` made are verified as well.
    """
    workspace = Workspace(root, root)
    if workspace.has_files() or (root / DIGESTS).exists():
        _verify_list(root, report)
    if workspace.scores.is_dir():
        _verify_list(workspace.scores, report)
    for side in sorted(parts.parent for parts in (root / "against").glob("*/parts")):
        verify_store(side, report, progress)
        if (side / "nearest").is_dir():
            _verify_list(side / "nearest", report)


def _verify_list(folder: Path, report: VerifyReport) -> None:
    try:
        _verify_files(folder, listed(folder), AGAIN, report)
    except StoreError as error:
        report.problem(f"{error}; run the command again that made the files beside it")


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
