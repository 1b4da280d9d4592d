"""What a path names: a store with its selection and its prototypes, opened and checked to belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sspruning.errors import StoreError, UsageError
from sspruning.metrics.distances import pair_distance
from sspruning.records import Prototypes
from sspruning.stages.report_numbers import groups_with_rows
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import SelectionFile, load_prototypes
from sspruning.storage.store import Store

__all__ = ["Place"]

ROWS_COMPARED = 32


@dataclass(frozen=True, slots=True)
class Place:
    """A store and its selection, as a path names them."""

    workspace: Workspace
    store: Store
    file: SelectionFile | None
    """None if nothing is selected yet."""
    prototypes: Prototypes | None
    """None if there are none, or others than the selection was made of."""

    @classmethod
    def of(cls, path: Path) -> Place:
        """What a run folder, a store or a ``selection.parquet`` names.

        Raises:
            UsageError: nothing is there.
            StoreError: no store there, or a selection that was made of another one.
        """
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; name a run folder, a store or a selection.parquet")
        workspace = Workspace.of(path if path.is_dir() else path.parent)
        chosen = workspace.selection if path.is_dir() else path
        store = Store(workspace.store)
        file = SelectionFile.open(chosen) if chosen.exists() else None
        if file is not None and file.selection.settings.get("content") != store.content_fingerprint():
            raise StoreError(
                f"{chosen}: was not made from the store {workspace.store} as it is now; run `sspruning select` again"
            )
        return cls(workspace, store, file, _prototypes(workspace, store, file))


def _prototypes(workspace: Workspace, store: Store, file: SelectionFile | None) -> Prototypes | None:
    try:
        found = load_prototypes(workspace.prototypes)
    except StoreError:
        return None
    return found if file is None or _fits(found, store, file) else None


def _fits(prototypes: Prototypes, store: Store, file: SelectionFile) -> bool:
    """True if the first rows of a selection lie as far from these prototypes as the selection says."""
    first = next((record for record in store.records() if record.n_rows), None)
    group = next(groups_with_rows(file, ["centroid", "cosine_dist_to_cent"]), None)
    if first is None or group is None:
        return True
    label = group.column("centroid").to_numpy()[:ROWS_COMPARED]
    said = group.column("cosine_dist_to_cent").to_numpy()[:ROWS_COMPARED]
    if label.max() >= prototypes.k or store.dim != prototypes.centroids.shape[1]:
        return False
    with store.open_part(first) as part:
        rows = part.embedding(0, ROWS_COMPARED)
    return bool(np.allclose(pair_distance(rows, prototypes.centroids, label, cosine=True), said, atol=1e-5))
