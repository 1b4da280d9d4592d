"""The command line: parse, build the configuration, call the stage, say what happened, exit with the right code."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sspruning import cli_choose as choose
from sspruning import cli_exchange as exchange
from sspruning import cli_report as showing
from sspruning import cli_trainers as trainers
from sspruning import options as opt
from sspruning import terminal as say
from sspruning import terminal_tables as tables

if TYPE_CHECKING:
    from sspruning.config import Config
    from sspruning.progress import Progress

__all__ = ["app", "main"]

app = typer.Typer(
    name="sspruning",
    help="Prune unlabeled image corpora before pretraining: webdataset shards in, fewer and smaller shards out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every verb does only what is missing, so the same command resumes a job that was stopped. "
    "Exit codes: 0 done, 2 usage, 3 data errors, 4 interrupted (run again), 5 machine (disk, memory, device).",
)


def _version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        from sspruning import __version__

        typer.echo(f"sspruning {__version__}")
        raise typer.Exit


@app.callback()
def common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks with errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prune unlabeled image corpora before pretraining: webdataset shards in, fewer and smaller shards out."""
    del version
    say.settings.quiet, say.settings.verbose = quiet, verbose


@app.command("inspect")
@say.verb
def inspect_command(
    shards: opt.Shards,
    image_key: Annotated[str, typer.Option(help="Image suffixes in order of preference.")] = "jpg;png;jpeg;webp",
) -> None:
    """Print what is in a corpus: samples, suffixes, sizes, problems. Decodes nothing."""
    from sspruning import api

    found = api.inspect(shards, image_key=image_key, progress=say.console())
    say.inspection(found, image_key)


@app.command("pack")
@say.verb
def pack_command(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of images, or a text file with a path a line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the shards.")],
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Upper bound; shards are balanced.")] = 10_000,
    overwrite: opt.Overwrite = False,
) -> None:
    """Make webdataset shards from a folder of images, byte for byte; keys are the relative paths."""
    from sspruning import api

    report = api.pack(source, output, samples_per_shard=samples_per_shard, overwrite=overwrite, progress=say.console())
    tables.packed(report, output)


def _progress(events: Path, config: Config) -> AbstractContextManager[Progress]:
    """Progress for people and ``events.jsonl``, and for whom the section `paths` names."""
    from sspruning.trackers import tracked

    paths = config.paths
    return tracked(say.console(events), prometheus=paths.prometheus, tensorboard=paths.tensorboard, wandb=paths.wandb)


@app.command("embed")
@say.verb
def embed_command(
    shards: opt.Shards,
    store: Annotated[Path, typer.Option("--store", help="Folder of the embedding store.")],
    encoder: opt.EncoderName = None,
    model: opt.Model = None,
    checkpoint: opt.Checkpoint = None,
    factory: opt.Factory = None,
    image_size: opt.ImageSize = None,
    image_key: opt.ImageKey = None,
    repeated_keys: opt.RepeatedKeys = None,
    batch_size: opt.BatchSize = None,
    device: opt.Device = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    verify_inputs: Annotated[
        bool, typer.Option("--verify-inputs", help="Hash all inputs again instead of trusting size and time.")
    ] = False,
    num_workers: opt.NumWorkers = None,
    worker_index: opt.WorkerIndex = None,
    dry_run: opt.DryRun = False,
    sets: opt.Set = None,
) -> None:
    """Embed every image of the shards into a store; resumes where it stopped. Tasks of a job array share the work."""
    from sspruning.stages.fill import usable_folder
    from sspruning.stages.run import up_to_parts
    from sspruning.stages.share import share_of

    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    share = share_of(os.environ, num_workers, worker_index)
    config = opt.stored(
        store,
        {
            "corpus": {"input": shards, "image_key": image_key, "repeated_keys": repeated_keys},
            "encoder": {
                "name": encoder,
                "model": model,
                "checkpoint": checkpoint,
                "factory": factory,
                "image_size": image_size,
                "batch_size": batch_size,
                "device": device,
            },
            "execution": execution,
        },
        sets,
    )
    if dry_run:
        say.print_plan(config, store, whole_run=False, share=share)
        return
    usable_folder(store)
    with _progress(store / "logs" / share.events, config) as progress:
        report = up_to_parts(store, config, progress, share, verify_inputs=verify_inputs)
        say.embedded(report, store)
        say.exit_if_quarantined(report)


app.command("cluster")(choose.cluster_command)
app.command("score")(choose.score_command)
app.command("advise")(choose.advise_command)
app.command("select")(choose.select_command)
app.command("sweep")(choose.sweep_command)
app.command("decontaminate")(exchange.decontaminate_command)
app.command("import-embeddings")(exchange.import_command)
app.command("export")(exchange.export_command)
app.command("check-trainer")(trainers.check_trainer_command)
app.command("report")(showing.report_command)
app.command("show")(showing.show_command)
app.command("plot")(showing.plot_command)


@app.command("write")
@say.verb
def write_command(
    selection: Annotated[
        Path, typer.Argument(metavar="SELECTION", help="selection.parquet, or the folder that holds it.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or URL for the pruned shards.")],
    store: Annotated[Path | None, typer.Option("--store", help="The store; default: beside the selection.")] = None,
    samples_per_shard: opt.SamplesPerShard = None,
    num_shards: opt.NumShards = None,
    min_shards: opt.MinShards = None,
    order: Annotated[str | None, typer.Option(help="corpus, shuffled, easy-to-hard or hard-to-easy.")] = None,
    seed: opt.Seed = None,
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
    """Write the kept samples as new shards: raw bytes copied, digests checked, trainers' index files beside them."""
    from sspruning import api

    where = store or (selection if selection.is_dir() else selection.parent)
    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.stored(
        where,
        {
            "write": {
                **opt.writing(samples_per_shard, num_shards, min_shards, cls, rename_suffix, members, index),
                "order": order,
                "seed": seed,
            },
            "execution": execution,
        },
        sets,
    )
    manifest = api.write(selection, output, store=store, config=config, progress=say.console(), overwrite=overwrite)
    say.written(manifest)


@app.command("run")
@say.verb
def run_command(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="See configs/quickstart.yaml.")],
    sets: opt.Set = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    overwrite: opt.Overwrite = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Run the whole chain from one file: embed, cluster, score, select, write."""
    from sspruning import api
    from sspruning.config import load_config
    from sspruning.stages.fill import usable_folder
    from sspruning.stages.report import report

    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.overridden(load_config(config_file, sets), {"execution": execution}, None)
    root = Path(config.paths.run_dir or f"runs/{config.name}")
    if dry_run:
        say.print_plan(config, root / "store", whole_run=True)
        return
    usable_folder(root)
    with _progress(root / "events.jsonl", config) as progress:
        result = api.prune(config, progress, overwrite=overwrite)
        say.embedded(result.embedded, root / "store")
        say.line(f"{result.prototypes.k:,} prototypes ({result.prototypes.info.get('k_reason')})")
        say.selected(result.selection)
        say.written(result.manifest)
        say.reported(report(root, pruned=config.paths.output or "pruned", progress=progress))
        say.exit_if_quarantined(result.embedded)


@app.command("status")
@say.verb
def status_command(store: opt.StoreDir) -> None:
    """Say what is done in a store or a run. Exit 0 only when every shard is embedded."""
    from sspruning import api

    found = api.status(store)
    say.status(found)


@app.command("verify")
@say.verb
def verify_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Pruned shards, also by URL; a store or a run folder.")],
) -> None:
    """Prove that nothing was lost or damaged; reads everything again, sources included."""
    from sspruning import api

    found = api.verify(opt.place(folder), say.console())
    say.verified(found, opt.place(folder))


@app.command("demo")
@say.verb
def demo_command(
    folder: Annotated[Path, typer.Option("--dir", help="Folder for everything the demo makes.")] = Path(
        "sspruning-demo"
    ),
    dataset: Annotated[
        str, typer.Option(help="digits (no network), cifar10 or fashion-mnist (downloaded).")
    ] = "digits",
    keep_fraction: Annotated[float, typer.Option(help="Share of samples that stays.")] = 0.7,
    workers: opt.Workers = None,
) -> None:
    """Run everything on a small data set in under a minute, and show what came of it."""
    from sspruning.stages.demo import demo
    from sspruning.stages.report import report

    progress = say.console(folder / "events.jsonl")
    result = demo(
        folder,
        dataset=dataset,
        keep_fraction=keep_fraction,
        workers=workers,
        progress=progress,
    )
    tables.demo(result)
    say.reported(report(folder / "run", pruned=folder / "pruned", progress=progress))


def main() -> None:
    """The whole command line; the process ends after it."""
    say.settings.last = True
    app()
