"""The verbs that choose samples, from a store to a selection: cluster, score, advise, select."""

from __future__ import annotations

from typing import Annotated

import typer

from sspruning import options as opt
from sspruning import terminal as say
from sspruning import terminal_tables as tables
from sspruning.errors import UsageError

__all__ = ["advise_command", "cluster_command", "score_command", "select_command", "sweep_command"]


@say.verb
def cluster_command(
    store: opt.StoreDir,
    n_clusters: opt.NClusters = None,
    niter: Annotated[int | None, typer.Option(help="Lloyd iterations.")] = None,
    full_rounds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Then N more over all embeddings instead of a sample, by all workers."),
    ] = None,
    seed: opt.Seed = None,
    force: Annotated[bool, typer.Option("--force", help="Cluster again even if nothing changed.")] = False,
    reuse: Annotated[
        bool | None, typer.Option("--reuse/--no-reuse", help="Let new shards join the prototypes that are there.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="K,K,...", help="Compare numbers of prototypes instead; writes nothing.")
    ] = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    sets: opt.Set = None,
) -> None:
    """Find prototypes: k-means over the embeddings of a store."""
    from sspruning import api

    section = {"n_clusters": n_clusters, "niter": niter, "full_rounds": full_rounds, "seed": seed, "reuse": reuse}
    config = opt.stored(store, {"cluster": section, "execution": {"workers": workers, "executor": executor}}, sets)
    if sweep is not None:
        tables.swept_k(api.choose_k(store, opt.whole_numbers(sweep, "--sweep"), config=config, progress=say.console()))
        return
    found = api.cluster(store, config=config, progress=say.console(), force=force)
    say.clustered(found)


@say.verb
def score_command(
    store: opt.StoreDir,
    metric: Annotated[str | None, typer.Option(help="prototype_distance, prototype_margin, random, imported.")] = None,
    distance: Annotated[str | None, typer.Option(help="cosine or euclidean.")] = None,
    table: opt.Import = None,
    column: opt.Column = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    sets: opt.Set = None,
) -> None:
    """Score how hard every sample is; larger = harder. Brings the prototypes up to date first."""
    from sspruning import api

    if table is not None:
        metric = metric or "imported"
        sets = sets if column else ["score.column=", *(sets or [])]  # a new table does not inherit the old one's column
    scoring = {"metric": metric, "distance": distance, "table": table and str(table.absolute()), "column": column}
    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.stored(store, {"score": scoring, "execution": execution}, sets)
    if (table or column) and config.score.metric != "imported":
        raise UsageError(f"--import and --column belong to imported scores, but the metric is {config.score.metric!r}")
    found = api.score(store, config=config, progress=say.console())
    say.scores(found)


@say.verb
def advise_command(
    store: opt.StoreDir,
    keep_fraction: opt.KeepFraction = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    sets: opt.Set = None,
) -> None:
    """Say which policy and fraction the evidence speaks for, and why; brings prototypes and scores up to date."""
    from sspruning import api

    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.stored(store, {"execution": execution}, sets)
    found = api.advise(store, keep_fraction, config=config, progress=say.console())
    say.advised(found, store)


@say.verb
def select_command(
    store: opt.StoreDir,
    recipe: opt.Recipe = None,
    keep: opt.Keep = None,
    keep_fraction: opt.KeepFractions = None,
    step: opt.Step = None,
    option: opt.PolicyOption = None,
    balance: opt.Balance = None,
    floor: opt.Floor = None,
    metric: Annotated[str | None, typer.Option(help="Score to select by.")] = None,
    seed: opt.Seed = None,
    output: opt.OutputOrNone = None,
    samples_per_shard: opt.SamplesPerShard = None,
    num_shards: opt.NumShards = None,
    min_shards: opt.MinShards = None,
    cls: opt.Cls = None,
    rename_suffix: opt.RenameSuffix = None,
    members: opt.Members = None,
    index: opt.Index = None,
    overwrite: opt.Overwrite = False,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    sets: opt.Set = None,
) -> None:
    """Choose which samples stay; brings prototypes and scores up to date, and with --output writes the shards."""
    from sspruning import api

    asked = opt.fractions(keep_fraction)
    section = {**opt.choice(keep, recipe, step, option), "balance": balance, "floor": floor, "seed": seed}
    if len(asked) == 1:
        section["keep_fraction"] = asked[0]
    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.stored(
        store,
        {
            "select": section,
            "score": {"metric": metric},
            "write": opt.writing(samples_per_shard, num_shards, min_shards, cls, rename_suffix, members, index),
            "execution": execution,
        },
        sets,
    )
    found = api.select(
        store,
        output=output,
        keep_fractions=asked if len(asked) > 1 else (),
        config=config,
        progress=say.console(),
        overwrite=overwrite,
    )
    for selection in found.selections:
        say.selected(selection)
    for manifest in found.manifests:
        say.written(manifest)
    if not found.manifests:
        say.line(f"  write the shards with: sspruning write {found.selection.path} --output pruned/")


@say.verb
def sweep_command(
    store: opt.StoreDir,
    keep_fraction: opt.KeepFractions = "0.9,0.8,0.7,0.6,0.5,0.3,0.1",
    recipe: opt.Recipe = None,
    keep: opt.Keep = None,
    step: opt.Step = None,
    option: opt.PolicyOption = None,
    balance: opt.Balance = None,
    floor: opt.Floor = None,
    seed: opt.Seed = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    sets: opt.Set = None,
) -> None:
    """Compare fractions: balance, tail, copies and overlap of each; makes the selections that are missing."""
    from sspruning import api

    section = {**opt.choice(keep, recipe, step, option), "balance": balance, "floor": floor, "seed": seed}
    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.stored(store, {"select": section, "execution": execution}, sets)
    found = api.sweep(store, opt.fractions(keep_fraction), config=config, progress=say.console())
    tables.swept(found)
