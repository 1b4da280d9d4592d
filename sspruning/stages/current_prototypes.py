"""Prototypes of a store as it is now: those on disk, or new ones if they were made from something else."""

from __future__ import annotations

from sspruning.config import ClusterConfig, Config
from sspruning.errors import StoreError
from sspruning.execution import Executor
from sspruning.fingerprint import fingerprint
from sspruning.progress import Progress
from sspruning.records import Prototypes
from sspruning.stages.cluster import cluster, clustering_fingerprint
from sspruning.stages.finish import catch_up
from sspruning.stages.full_rounds import clear_rounds, full_rounds, last_state
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import load_prototypes, save_prototypes
from sspruning.storage.atomic import sweep
from sspruning.storage.digests import DIGESTS
from sspruning.storage.store import Store

__all__ = ["are_current", "drop_damaged", "prototypes_mark", "up_to_prototypes"]


def prototypes_mark(store: Store, config: ClusterConfig) -> str:
    """What prototypes depend on: all parts, and the settings that decide."""
    return fingerprint({"content": store.content_fingerprint(), "cluster": clustering_fingerprint(config)})


def are_current(found: Prototypes, store: Store, config: ClusterConfig) -> bool:
    """True if prototypes are the ones asked for, or may serve for more data."""
    joins = config.reuse and found.info.get("settings") == clustering_fingerprint(config)
    return joins or found.fingerprint == prototypes_mark(store, config)


def _current_prototypes(workspace: Workspace, store: Store, config: ClusterConfig) -> Prototypes | None:
    """Existing prototypes if they will do; None if they have to be made."""
    if not workspace.prototypes.exists():
        return None
    try:
        found = load_prototypes(workspace.prototypes)
    except StoreError:
        return None
    return found if are_current(found, store, config) else None


def _refuse_gaps(store: Store) -> None:
    """Refuse a store with shards that have neither a part nor a reason: their samples would be left out in silence.

    Raises:
        StoreError: names them.
    """
    settled = {record.shard_id for record in store.records()} | store.quarantined().keys()
    missing = sorted(store.shards().keys() - settled)
    if missing:
        raise StoreError(
            f"{store.path}: {len(missing)} of {len(store.shards())} shards are not embedded, such as {missing[0]}; "
            "run `sspruning embed` again, it does only these"
        )


def drop_damaged(workspace: Workspace, progress: Progress) -> None:
    """Remove artefacts that are not what was written, so that they are made again."""
    for path in workspace.drop_damaged():
        progress.note(f"{path}: removed, to be made again: it is not what {DIGESTS} beside it says")


def _clustered(
    workspace: Workspace, store: Store, config: ClusterConfig, executor: Executor, progress: Progress
) -> Prototypes:
    """`Prototypes` of the sample, then of everything if that is asked for, from where a killed run left off."""
    mark = prototypes_mark(store, config)
    if config.full_rounds == 0:
        return cluster(store, config, progress, mark)
    start = last_state(workspace.rounds, mark) or cluster(store, config, progress, mark)
    return full_rounds(store, start, config, workspace.rounds, executor, progress)


def up_to_prototypes(
    workspace: Workspace, config: Config, executor: Executor, progress: Progress, *, force: bool = False
) -> Prototypes:
    """`Prototypes` of the store as it is now, made only if those on disk were made from something else.

    Args:
        workspace: where artefacts lie.
        config: section `cluster` is used.
        executor: where rounds over all embeddings run.
        progress: told of every stage.
        force: make them in any case, and from the start.
    """
    store = Store(workspace.store)
    _refuse_gaps(store)
    catch_up(store)
    drop_damaged(workspace, progress)
    found = None if force else _current_prototypes(workspace, store, config.cluster)
    sweep(workspace.root)
    if force:
        clear_rounds(workspace.rounds)
    if found is None:
        if workspace.prototypes.exists():
            progress.note("prototypes are made again: those that are there were made from other parts or settings")
        found = _clustered(workspace, store, config.cluster, executor, progress)
        save_prototypes(workspace.prototypes, found)
        workspace.list_files(workspace.prototypes)
    clear_rounds(workspace.rounds)
    return found
