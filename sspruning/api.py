"""The stages as functions: what the command line calls, and what notebooks and batch jobs can call.

Every function does only what is missing, and returns the record of its stage. Settings that are not given are the ones
last used for that store, or the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sspruning.config import Config, load_config, override
from sspruning.errors import StoreError, UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.records import EmbedReport, Manifest, Prototypes, Scores, Selection
from sspruning.stages import run as chain
from sspruning.stages.advise import Advice
from sspruning.stages.choose_k import KSweep, sweep_k
from sspruning.stages.current_prototypes import up_to_prototypes
from sspruning.stages.inspect import Inspection, inspect_corpus
from sspruning.stages.output_folder import usable_output
from sspruning.stages.pack import PackReport, pack
from sspruning.stages.plan import Plan, make_plan
from sspruning.stages.run import RunResult, executor_for, prune
from sspruning.stages.share import Share
from sspruning.stages.sidecars import META
from sspruning.stages.status import Status, status
from sspruning.stages.sweep import SweepRow, compare_selections
from sspruning.stages.verify import VerifyReport, verify
from sspruning.stages.workspace import Workspace
from sspruning.stages.write import write as write_stage
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.corpus import open_corpus
from sspruning.storage.digests import DIGESTS, damaged_files
from sspruning.storage.output_place import place_of
from sspruning.storage.store import Store

__all__ = [
    "Advice",
    "EmbedReport",
    "Inspection",
    "KSweep",
    "Manifest",
    "PackReport",
    "Plan",
    "Prototypes",
    "RunResult",
    "Scores",
    "Selected",
    "Selection",
    "Status",
    "Store",
    "SweepRow",
    "VerifyReport",
    "advise",
    "choose_k",
    "cluster",
    "embed",
    "inspect",
    "load",
    "pack",
    "plan",
    "prune",
    "score",
    "select",
    "status",
    "sweep",
    "verify",
    "write",
]


def inspect(
    inputs: Sequence[str], *, image_key: str = "jpg;png;jpeg;webp", progress: Progress | None = None
) -> Inspection:
    """`Inspection` of the shards that ``inputs`` name; nothing is decoded."""
    config = override(Config(), "corpus", image_key=image_key)
    return inspect_corpus(open_corpus(list(inputs)), config.corpus.suffixes, progress)


def _config(folder: Path, config: Config | None) -> Config:
    return config if config is not None else Workspace.of(folder).load_config()


def embed(
    inputs: Sequence[str] | str,
    store: str | Path,
    *,
    config: Config | None = None,
    progress: Progress | None = None,
    verify_inputs: bool = False,
    worker_index: int = 0,
    num_workers: int = 1,
) -> EmbedReport:
    """`EmbedReport` of the store at ``store``, which now holds the embeddings of every sound shard.

    Args:
        inputs: shards: paths or URLs, folders, globs, brace patterns.
        store: folder; made if missing.
        config: sections `corpus`, `encoder` and `execution` are used.
        progress: told after each shard.
        verify_inputs: hash all inputs again instead of trusting size and modification time.
        worker_index: which of ``num_workers`` calls this is, from 0: it does every ``num_workers``-th shard of the
            sorted list from there on, and reports on these.
        num_workers: calls that share the work, in processes of their own, on one machine or on many that see the
            same files; another number may go on where these stopped.

    Raises:
        UsageError: nothing to read, repeated keys, or a worker index that is none.
        StoreError: the store was made with other settings.
    """
    share = Share(worker_index, num_workers)
    listed = [inputs] if isinstance(inputs, str) else list(inputs)
    given = override(_config(Path(store), config), "corpus", input=listed)
    return chain.up_to_parts(Path(store), given, progress or SilentProgress(), share, verify_inputs=verify_inputs)


def plan(config: Config, store: Path, progress: Progress | None = None) -> Plan:
    """`Plan` of a run into ``store``: what would be done, with counts and bytes."""
    return make_plan(open_corpus(config.corpus.input), store, config, progress or SilentProgress())


def cluster(
    store: str | Path, *, config: Config | None = None, progress: Progress | None = None, force: bool = False
) -> Prototypes:
    """`Prototypes` of the store, made again only if the parts or the settings changed, or with ``force``."""
    workspace = Workspace.of(Path(store))
    given = _config(Path(store), config)
    with workspace.alone(), executor_for(given, *workspace.worked_in()) as executor:
        found = up_to_prototypes(workspace, given, executor, progress or SilentProgress(), force=force)
        workspace.save_config(given)
    return found


def score(store: str | Path, *, config: Config | None = None, progress: Progress | None = None) -> Scores:
    """`Scores` of every embedded sample; brings the prototypes up to date first."""
    workspace = Workspace.of(Path(store))
    given = _config(Path(store), config)
    with workspace.alone(), executor_for(given, *workspace.worked_in()) as executor:
        _, found = chain.up_to_scores(workspace, given, executor, progress or SilentProgress())
        workspace.save_config(given)
    return found


def advise(
    store: str | Path,
    keep_fraction: float | None = None,
    *,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Advice:
    """`Advice`: which policy and fraction the evidence speaks for; brings prototypes and scores up to date first.

    Args:
        store: store or run folder.
        keep_fraction: what has to be kept, in (0, 1]; None leaves that to the advice as well.
        config: sections `cluster`, `score` and `execution` are used; `select` plays no part.
        progress: told of every stage.

    Raises:
        UsageError: a fraction outside (0, 1].
    """
    workspace = Workspace.of(Path(store))
    given = _config(Path(store), config)
    override(given, "select", keep_fraction=keep_fraction)  # refuses what is no fraction before hours of work
    with workspace.alone(), executor_for(given, *workspace.worked_in()) as executor:
        found = chain.up_to_advice(workspace, given, executor, progress or SilentProgress(), keep_fraction)
        workspace.save_config(given)
    return found


def choose_k(
    store: str | Path, ks: Sequence[int], *, config: Config | None = None, progress: Progress | None = None
) -> KSweep:
    """`KSweep`: several numbers of prototypes compared, with a recommendation; writes nothing."""
    return sweep_k(Store(Workspace.of(Path(store)).store), ks, _config(Path(store), config).cluster, progress)


@dataclass(frozen=True, slots=True)
class Selected:
    """What `select` came to, with what it brought up to date."""

    prototypes: Prototypes
    scores: Scores
    selections: list[Selection]
    """One for each fraction, in the order in which they were asked for."""
    manifests: list[Manifest]
    """Of the shards that were written, in the same order; empty if none were."""

    @property
    def selection(self) -> Selection:
        """The only one, or the first."""
        return self.selections[0]

    @property
    def manifest(self) -> Manifest | None:
        """The only one, or the first; None if nothing was written."""
        return self.manifests[0] if self.manifests else None


def select(
    store: str | Path,
    *,
    output: str | Path | None = None,
    keep_fractions: Sequence[float] = (),
    config: Config | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Selected:
    """`Selected`: the selection, with prototypes and scores brought up to date; with ``output`` also the shards.

    Args:
        store: store or run folder.
        output: folder or URL for pruned shards; None selects only. Several fractions go to ``keep-F`` inside.
        keep_fractions: several fractions in one pass, each with its own ``selection-F.parquet``; none: the section's.
        config: sections `cluster`, `score`, `select`, `write` and `execution` are used.
        progress: told of every stage.
        overwrite: replace the shards of another selection in ``output``.
    """
    workspace = Workspace.of(Path(store))
    given = _config(Path(store), config)
    for fraction in keep_fractions:
        override(given, "select", keep_fraction=fraction)  # refuses what is no fraction before hours of work
    reporter = progress or SilentProgress()
    fractions = list(dict.fromkeys(keep_fractions))
    outputs = [str(output)] if output is not None else []
    if outputs and fractions:
        outputs = [f"{outputs[0].rstrip('/')}/keep-{fraction:g}" for fraction in fractions]
    places = [usable_output(where, workspace.root) for where in outputs]
    folders = [folder for place in places for folder in (place.folder, place.folder / META / "shards")]
    with workspace.alone(), executor_for(given, *workspace.worked_in(), *folders) as executor:
        prototypes, scores, selections = chain.up_to_selections(workspace, given, executor, reporter, fractions)
        workspace.save_config(given)
        manifests = [
            write_stage(
                Store(workspace.store),
                SelectionFile.open(Path(selection.path)),
                where,
                given.write,
                executor,
                reporter,
                recipe=given.to_yaml(recipe_only=True),
                overwrite=overwrite,
            )
            for selection, where in zip(selections, outputs, strict=False)
        ]
    return Selected(prototypes, scores, selections, manifests)


def sweep(
    store: str | Path,
    keep_fractions: Sequence[float],
    *,
    config: Config | None = None,
    progress: Progress | None = None,
) -> list[SweepRow]:
    """`SweepRow` of each fraction, the largest first; makes the selections that are missing.

    Args:
        store: store or run folder.
        keep_fractions: fractions to compare.
        config: sections `cluster`, `score`, `select` and `execution` are used.
        progress: told of every stage.
    """
    found = select(store, keep_fractions=keep_fractions, config=config, progress=progress)
    return compare_selections([Path(selection.path) for selection in found.selections])


def write(
    selection: str | Path,
    output: str | Path,
    *,
    store: str | Path | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Manifest:
    """`Manifest` of the pruned shards that now stand in ``output``.

    Args:
        selection: a ``selection.parquet``, or the folder that holds one.
        output: folder, made if missing, or URL, such as ``s3://bucket/pruned``.
        store: the store it was made from; None looks beside the selection.
        config: sections `write` and `execution` are used.
        progress: told after each shard.
        overwrite: replace the shards of another selection.

    Raises:
        UsageError: no store beside the selection, or an output that would harm something.
        StoreError: the selection belongs to another store.
    """
    path = Path(selection)
    path = Workspace.of(path).selection if path.is_dir() else path
    if path.exists() and path in damaged_files(path.parent):
        raise StoreError(f"{path}: damaged (not what {DIGESTS} beside it says); run `sspruning select` again")
    file = SelectionFile.open(path)
    where = Path(store) if store is not None else path.parent
    workspace = Workspace.of(where)
    if not (workspace.store / "store.json").exists():
        raise UsageError(f"{path}: no store beside it; say which with --store")
    opened = Store(workspace.store)
    if file.selection.settings.get("content") != opened.content_fingerprint():
        raise StoreError(
            f"{path}: was not made from the store {workspace.store} as it is now; run `sspruning select` on it again"
        )
    given = _config(where, config)
    place = place_of(output, path.parent)
    with executor_for(given, place.folder, place.folder / META / "shards") as executor:
        return write_stage(
            opened,
            file,
            output,
            given.write,
            executor,
            progress or SilentProgress(),
            recipe=given.to_yaml(recipe_only=True),
            overwrite=overwrite,
        )


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """`Config` of a YAML file with ``section.key=value`` overrides; pass it to `prune`."""
    return load_config(Path(path), list(overrides))
