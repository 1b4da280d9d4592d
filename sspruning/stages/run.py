"""The chain: which artefact lies where, what it depends on, and what has to be made again."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sspruning.clusterers import CLUSTERERS
from sspruning.clusterers.faiss_kmeans import import_faiss
from sspruning.config import Config, SelectConfig, default_workers
from sspruning.errors import DataError, StoreError
from sspruning.execution import EXECUTORS, Executor, make_executor
from sspruning.fingerprint import short
from sspruning.policies import POLICIES
from sspruning.progress import Progress, SilentProgress
from sspruning.records import EmbedReport, JSONValue, Manifest, Prototypes, Scores, Selection
from sspruning.stages.advise import AUTO, Advice, advise, known_to_lose, observe
from sspruning.stages.candidates import Scored
from sspruning.stages.chain import check_chain
from sspruning.stages.current_prototypes import drop_damaged, up_to_prototypes
from sspruning.stages.drift import drift
from sspruning.stages.embed import embed
from sspruning.stages.output_folder import refuse_nested_output, usable_output
from sspruning.stages.plan import make_plan
from sspruning.stages.score import assignment_path, check_metric, score
from sspruning.stages.select import select, selection_fingerprint
from sspruning.stages.share import WHOLE, Share
from sspruning.stages.shared_corpus import shared_corpus
from sspruning.stages.sidecars import META
from sspruning.stages.workspace import Workspace
from sspruning.stages.write import write
from sspruning.storage.artifacts import SelectionFile, score_path
from sspruning.storage.atomic import sweep
from sspruning.storage.corpus import open_corpus
from sspruning.storage.digests import list_files
from sspruning.storage.store import Store

__all__ = [
    "RunResult",
    "executor_for",
    "prune",
    "up_to_advice",
    "up_to_parts",
    "up_to_scores",
    "up_to_selections",
]


@contextmanager
def executor_for(config: Config, *folders: Path) -> Generator[Executor]:
    """The configured executor; its workers are stopped at the end of the block.

    Args:
        config: sections `execution`, and `encoder` for its device.
        folders: where workers write; at the end they are swept of what dead and stopped workers left unfinished.
    """
    place, device = config.execution, config.encoder.device
    workers = place.workers
    if workers is None and place.executor != "ray":  # a cluster is counted when it is there
        workers = default_workers(device)
    gpus = place.num_gpus_per_worker
    if gpus is None and device not in {"auto", "cuda"}:
        gpus = 0
    executor = make_executor(place.executor, workers, place.timeout_s, gpus_per_worker=gpus, address=place.ray_address)
    try:
        yield executor
    finally:
        executor.close()
        for folder in folders:
            sweep(folder, ours=True)


def check_names(config: Config) -> None:
    """Refuse a name that no table has, or a missing FAISS, before hours of work are spent.

    Raises:
        UsageError: unknown clusterer, metric, step, policy, option or executor, or scores to import that are not there.
        MachineError: FAISS is not installed.
    """
    CLUSTERERS.check(config.cluster.name)
    check_metric(config.score)
    POLICIES.check(config.select.keep, also=[AUTO])
    check_chain(config.select)
    EXECUTORS.check(config.execution.executor)
    if importlib.util.find_spec("faiss") is None:
        import_faiss()


def up_to_parts(
    folder: Path, config: Config, progress: Progress, share: Share = WHOLE, *, verify_inputs: bool = False
) -> EmbedReport:
    """`EmbedReport` of the store ``folder``, in which every sound shard of the share has its part now.

    Args:
        folder: made if missing.
        config: sections `corpus`, `encoder` and `execution` are used.
        progress: told after each shard.
        share: which of the shards are done here.
        verify_inputs: hash all inputs again instead of trusting size and modification time.
    """
    corpus = shared_corpus(config.corpus.input, folder, share)
    own, n_total, whole = share.of(corpus), None, share.task is None
    if not whole:
        progress.note(share.describe(corpus))
    if own.shards:
        n_total = make_plan(own, folder, config, progress, whole_run=False, whole_corpus=whole).n_in_shards
    workspace = Workspace.of(folder)
    with workspace.alone(share.task), executor_for(config, folder / "parts") as executor:
        report = embed(
            corpus,
            folder,
            config.encoder.spec(),
            config.corpus,
            executor,
            progress,
            verify_inputs=verify_inputs,
            n_total=n_total,
            share=share,
            look_again=lambda: open_corpus(config.corpus.input),
        )
        workspace.save_config(config)
    return report


def up_to_scores(
    workspace: Workspace, config: Config, executor: Executor, progress: Progress
) -> tuple[Prototypes, Scores]:
    """Prototypes and `Scores` of the store as it is now."""
    check_metric(config.score)
    prototypes = up_to_prototypes(workspace, config, executor, progress)
    workspace.sweep_scores()
    store = Store(workspace.store)
    scores = score(
        store,
        prototypes,
        workspace.prototypes,
        workspace.scores,
        config.score,
        executor,
        progress,
        device=config.cluster.device,
    )
    assignments = _assignments(store, scores, prototypes, config)
    columns = [score_path(Path(scores.folder), record.shard_id) for record in store.records()]
    list_files(workspace.scores, [*assignments.values(), *columns])
    known = set(prototypes.parts)
    old = {record.shard_id for record in store.records() if short(record.fingerprint) in known}
    if config.cluster.reuse and len(old) < len(store.records()):
        found = drift(store, assignments, old)
        progress.note(f"{found.n_new:,} new samples among {found.n_old:,} old ones: {found.verdict}: {found.reason}")
    return prototypes, scores


def _assignments(store: Store, scores: Scores, prototypes: Prototypes, config: Config) -> dict[str, Path]:
    """File with the prototype of each row, by shard."""
    folder = Path(scores.assignment_folder)
    return {
        record.shard_id: assignment_path(folder, record, prototypes, config.score.distance)
        for record in store.records()
    }


def up_to_advice(
    workspace: Workspace, config: Config, executor: Executor, progress: Progress, keep_fraction: float | None = None
) -> Advice:
    """`Advice` on the store as it is now, with prototypes and scores brought up to date."""
    prototypes, scores = up_to_scores(workspace, config, executor, progress)
    store = Store(workspace.store)
    return advise(observe(store, scores, _assignments(store, scores, prototypes, config)), keep_fraction)


def _advised(config: SelectConfig, advice: Advice, progress: Progress) -> SelectConfig:
    """``config`` with the advised policy instead of `auto`; says why."""
    progress.note(
        f"keep {AUTO}: {advice.keep}, for a fraction of {config.keep_fraction}\n" + "\n".join(advice.numbered)
    )
    if advice.keep != "random" and config.balance != advice.balance:
        progress.note(f"  balance stays {config.balance}, as set; {advice.balance} is advised")
    for warning in advice.warnings:
        progress.note(f"warning: {warning}")
    return config.model_copy(update={"keep": advice.keep})


def _existing_selection(path: Path, mark: str, asked: JSONValue) -> Selection | None:
    """The selection on disk if it is the one asked for, in the same words; None if it has to be made."""
    if not path.exists():
        return None
    try:
        found = SelectionFile.open(path).selection
    except StoreError:
        return None
    return found if found.fingerprint == mark and found.settings.get("asked") == asked else None


def up_to_selections(
    workspace: Workspace, config: Config, executor: Executor, progress: Progress, fractions: Sequence[float] = ()
) -> tuple[Prototypes, Scores, list[Selection]]:
    """Prototypes, scores and one `Selection` for each fraction of the store as it is now, each made only if needed.

    Where `select.keep` is auto, the advised policy decides as if it had been asked for by name.

    Args:
        workspace: where artefacts lie.
        config: the whole configuration.
        executor: where assignments run.
        progress: told of every stage.
        fractions: largest first; each has its own file. None given: the section's, in ``selection.parquet``.
    """
    check_names(config)
    for fraction in fractions or [config.select.keep_fraction]:
        warning = known_to_lose(config.select.model_copy(update={"keep_fraction": fraction}))
        if warning is not None:
            progress.note(warning)
    prototypes, scores = up_to_scores(workspace, config, executor, progress)
    store, chosen = Store(workspace.store), config.select
    assignments = _assignments(store, scores, prototypes, config)
    facts: dict[str, JSONValue] = {
        "metric": config.score.metric,
        "distance": config.score.distance,
        "n_clusters": prototypes.k,
        "content": store.content_fingerprint(),
    }
    if "key_prefix" in store.settings:
        facts["key_prefix"] = store.settings["key_prefix"]
    if chosen.keep == AUTO:
        chosen = _advised(chosen, advise(observe(store, scores, assignments), chosen.keep_fraction), progress)
        facts["asked"] = AUTO
    paths = {f: workspace.selection_of(f) for f in fractions} or {chosen.keep_fraction: workspace.selection}
    marks = {f: selection_fingerprint(scores, chosen.model_copy(update={"keep_fraction": f})) for f in paths}
    found = {f: _existing_selection(path, marks[f], facts.get("asked")) for f, path in paths.items()}
    missing = {f: path for f, path in paths.items() if found[f] is None}
    if missing:
        scored = Scored(store, prototypes, scores, assignments, config.model_copy(update={"select": chosen}))
        made = select(scored, missing, facts, progress)
        found.update({float(cast("float", one.settings["keep_fraction"])): one for one in made})
    workspace.list_files(*missing.values())
    return prototypes, scores, [cast("Selection", found[f]) for f in paths]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a whole run came to."""

    embedded: EmbedReport
    prototypes: Prototypes
    scores: Scores
    selection: Selection
    manifest: Manifest


def prune(config: Config, progress: Progress | None = None, *, overwrite: bool = False) -> RunResult:
    """`RunResult` of the whole chain: shards in, pruned shards out. Does only what is missing.

    Raises:
        SSPruningError: see the stages. Shards that could not be read are in the result, not an exception.
    """
    progress = progress or SilentProgress()
    check_names(config)
    root = Path(config.paths.run_dir or f"runs/{config.name}")
    place = usable_output(config.paths.output or "pruned", root)
    corpus = open_corpus(config.corpus.input)
    refuse_nested_output(place, corpus.shards)
    plan = make_plan(corpus, root / "store", config, progress)
    root.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(root, root / "store")
    folders = (*workspace.worked_in(), place.folder, place.folder / META / "shards")
    with workspace.alone(), executor_for(config, *folders) as executor:
        drop_damaged(workspace, progress)
        workspace.save_config(config)
        embedded = embed(
            corpus, workspace.store, config.encoder.spec(), config.corpus, executor, progress, n_total=plan.n_in_shards
        )
        if embedded.n_embedded == 0:
            raise DataError(f"no sample could be embedded; {_reasons(embedded)}")
        prototypes, scores, [selection] = up_to_selections(workspace, config, executor, progress)
        manifest = write(
            Store(workspace.store),
            SelectionFile.open(workspace.selection),
            str(place),
            config.write,
            executor,
            progress,
            recipe=config.to_yaml(recipe_only=True),
            overwrite=overwrite,
        )
    if manifest.n_kept != selection.n_kept:
        raise StoreError(
            f"{place}: {manifest.n_kept} samples written, {selection.n_kept} selected; remove it and run again"
        )
    return RunResult(embedded, prototypes, scores, selection, manifest)


def _reasons(report: EmbedReport) -> str:
    skipped = ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())
    damaged = "; ".join(f"{shard}: {problem}" for shard, problem in list(report.quarantined.items())[:3])
    return (
        "; ".join(part for part in (f"skipped: {skipped}" if skipped else "", damaged) if part) or "the corpus is empty"
    )
