"""What is done in a store or a run, and what is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sspruning.errors import StoreError
from sspruning.stages.run import are_current
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import SelectionFile, load_prototypes
from sspruning.storage.store import Store

__all__ = ["Status", "status"]


@dataclass(slots=True)
class Status:
    """State of a workspace."""

    store: Path
    encoder: str
    n_shards: int
    n_committed: int
    pending: list[str]
    """Shards without a part and without a reason."""
    quarantined: dict[str, str]
    n_samples: int
    n_embedded: int
    skipped: dict[str, int]
    prototypes: str
    """In words: missing, stale, or what they are."""
    selection: str
    """In words: missing, or what it keeps."""
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True if every shard has its part."""
        return not self.pending and not self.quarantined


def status(folder: Path) -> Status:
    """`Status` of a store or a run folder. Reads records only.

    Raises:
        StoreError: no store there.
    """
    workspace = Workspace.of(folder)
    store = Store(workspace.store)
    records = store.records()
    quarantined = store.quarantined()
    skipped: Counter[str] = Counter()
    for record in records:
        skipped.update(record.skipped)
    done = {record.shard_id for record in records}
    encoder = store.settings["encoder"]
    name = encoder.get("model") or encoder.get("encoder") or encoder.get("name") if isinstance(encoder, dict) else None
    return Status(
        store=workspace.store,
        encoder=f"{name or 'unknown'}, {store.dim} dimensions",
        n_shards=len(store.shards()),
        n_committed=len(records),
        pending=[shard_id for shard_id in store.shards() if shard_id not in done and shard_id not in quarantined],
        quarantined={key: value for key, value in quarantined.items() if key not in done},
        n_samples=sum(record.n_samples for record in records),
        n_embedded=sum(record.n_rows for record in records),
        skipped=dict(sorted(skipped.items())),
        prototypes=_prototypes_in_words(workspace, store),
        selection=_selection_in_words(workspace),
    )


def _prototypes_in_words(workspace: Workspace, store: Store) -> str:
    if not workspace.prototypes.exists():
        return "none yet; `sspruning cluster` or `select` makes them"
    try:
        found = load_prototypes(workspace.prototypes)
    except StoreError as error:
        return str(error)
    words = f"{found.k} prototypes from {found.sample_size:,} samples"
    current = are_current(found, store, workspace.load_config().cluster)
    return words if current else f"{words}, stale: made from other parts or settings"


def _selection_in_words(workspace: Workspace) -> str:
    if not workspace.selection.exists():
        return "none yet; `sspruning select` makes it"
    try:
        found = SelectionFile.open(workspace.selection).selection
    except StoreError as error:
        return str(error)
    share = found.n_kept / max(found.n_embedded, 1)
    how = f"{found.settings['keep']} by {found.settings['metric']}"
    return f"keeps {found.n_kept:,} of {found.n_embedded:,} ({share:.1%}), {how}"
