"""The verbs for other people's data: import-embeddings, export, decontaminate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sspruning import options as opt
from sspruning import terminal as say
from sspruning import terminal_tables as tables

__all__ = ["decontaminate_command", "export_command", "import_command"]


@say.verb
def import_command(
    source: Annotated[
        Path, typer.Argument(metavar="TABLE", help="clip-retrieval folder, .npy, .npz or parquet with embeddings.")
    ],
    shards: opt.Shards,
    store: Annotated[Path, typer.Option("--store", help="Folder of the embedding store.")],
    keys: Annotated[Path | None, typer.Option(help="Text file with a key a line, for .npy and .npz.")] = None,
    key_column: Annotated[str | None, typer.Option(help="Column of the keys. Default: key, id or image_path.")] = None,
    embedding_column: Annotated[str | None, typer.Option(help="Column of the embeddings.")] = None,
    model: Annotated[str | None, typer.Option(help="What made the embeddings, in words; kept with the store.")] = None,
    image_key: opt.ImageKey = None,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    sets: opt.Set = None,
) -> None:
    """Make a store of embeddings that were made elsewhere; the shards are read for byte ranges, not decoded."""
    from sspruning import exchange

    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    sections = {"corpus": {"image_key": image_key}, "execution": execution}
    report = exchange.import_embeddings(
        source,
        shards,
        store,
        keys=keys,
        key_column=key_column,
        embedding_column=embedding_column,
        model=model,
        config=opt.stored(store, sections, sets),
        progress=say.console(),
    )
    say.embedded(report, store)
    say.exit_if_quarantined(report)


@say.verb
def export_command(
    path: Annotated[
        str, typer.Argument(metavar="DIR", help="Run folder, store, selection.parquet, or folder of pruned shards.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Of the selection: keys, mask, weights, order, datacomp, removed; "
            "of the embeddings: npy, parquet, clip-retrieval, atlas; "
            "of pruned samples: folder, mds, and filelist, which takes any selection."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="File or folder to write.")],
    option: opt.FormOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that stands there.")] = False,
) -> None:
    """Write a selection, a store's embeddings, or pruned samples, in the form that another tool reads."""
    from sspruning import exchange

    report = exchange.export(
        path, to, output, options=opt.pairs(option or [], "--option"), overwrite=overwrite, progress=say.console()
    )
    if isinstance(report, exchange.SamplesReport):
        tables.exported_samples(report, to)
    else:
        tables.exported(report, to)


@say.verb
def decontaminate_command(
    store: opt.StoreDir,
    against: Annotated[list[str], typer.Option("--against", metavar="SHARDS", help="Evaluation shards; repeatable.")],
    threshold: Annotated[float, typer.Option(help="Cosine above which a sample is too near.")] = 0.9,
    drop: Annotated[bool, typer.Option("--drop", help="Leave these samples out of later selections.")] = False,
    workers: opt.Workers = None,
    executor: opt.Executor = None,
    ray_address: opt.RayAddress = None,
    num_gpus_per_worker: opt.NumGpusPerWorker = None,
    sets: opt.Set = None,
) -> None:
    """List the samples that are too near to an evaluation set, and with --drop keep them out of selections."""
    from sspruning import exchange

    execution = opt.execution(workers, executor, ray_address, num_gpus_per_worker)
    config = opt.stored(store, {"execution": execution}, sets)
    found = exchange.decontaminate(
        store, against, threshold=threshold, drop=drop, config=config, progress=say.console()
    )
    tables.contamination(found, dropped=drop)
