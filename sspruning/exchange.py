"""Other people's data beside shards: embeddings made elsewhere, evaluation sets to keep out, forms that others read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sspruning.config import Config, override
from sspruning.errors import UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.records import EmbedReport
from sspruning.stages.decontaminate import THRESHOLD, Contamination
from sspruning.stages.decontaminate import decontaminate as decontaminate_stage
from sspruning.stages.embedding_table import open_table
from sspruning.stages.exclude import EXCLUDE
from sspruning.stages.export import FORMS, ExportReport, export_selection
from sspruning.stages.export_embeddings import EMBEDDING_FORMS, EmbeddingsReport, export_embeddings
from sspruning.stages.export_samples import SAMPLE_FORMS, SamplesReport, export_samples
from sspruning.stages.import_embeddings import import_embeddings as import_stage
from sspruning.stages.plan import make_plan
from sspruning.stages.run import executor_for
from sspruning.stages.workspace import Workspace
from sspruning.storage.corpus import open_corpus
from sspruning.storage.output_place import local_only
from sspruning.storage.pruned import META
from sspruning.storage.store import Store

__all__ = [
    "Contamination",
    "EmbeddingsReport",
    "ExportReport",
    "SamplesReport",
    "decontaminate",
    "export",
    "import_embeddings",
]


def export(
    path: str | Path,
    to: str,
    output: str | Path,
    *,
    options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport | EmbeddingsReport | SamplesReport:
    """Report of the file or folder that now holds a selection, embeddings or samples in another tool's form.

    Args:
        path: run folder or store; for forms of a selection also a ``selection.parquet`` or a folder of pruned shards,
            for forms of samples the latter.
        to: keys, mask, weights, order, datacomp or removed for the selection; npy, parquet, clip-retrieval or atlas for
            the embeddings; folder, filelist or mds for the samples.
        output: where it goes.
        options: of the form.
        overwrite: replace a file that stands there.
        progress: told as rows go by.

    Raises:
        UsageError: unknown form or option, or an output that does not fit.
        StoreError: no selection or store there.
        DataError: samples that the form cannot hold.
        MachineError: no space, or a missing package.
    """
    place, output = local_only(path, "export reads"), local_only(output, "export writes")
    workspace = Workspace.of(place if place.is_dir() else place.parent)
    selection, settings = workspace.selection if place.is_dir() else place, workspace.config
    if (place / META / "manifest.json").exists():
        selection, settings = place / META / "selection.parquet", place / META / "config.yaml"
    if to in FORMS:
        return export_selection(
            selection, to, output, options=options, overwrite=overwrite, progress=progress or SilentProgress()
        )
    if to in SAMPLE_FORMS:
        return export_samples(
            place,
            to,
            output,
            selection=selection,
            settings=settings,
            options=options,
            overwrite=overwrite,
            progress=progress,
        )
    if to not in EMBEDDING_FORMS:
        FORMS.check(to, also=[*EMBEDDING_FORMS, *SAMPLE_FORMS])
    if options:
        raise UsageError(f"export form {to!r} has no options; got {', '.join(options)}")
    return export_embeddings(
        Store(workspace.store),
        output,
        to,
        selection=selection if to == "atlas" and selection.exists() else None,
        overwrite=overwrite,
        progress=progress or SilentProgress(),
    )


def decontaminate(
    store: str | Path,
    against: Sequence[str] | str,
    *,
    threshold: float = THRESHOLD,
    drop: bool = False,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Contamination:
    """`Contamination`: samples of the store that are too near to evaluation shards, listed in a table.

    Args:
        store: store or run folder.
        against: evaluation shards; embedded by the store's encoder.
        threshold: cosine above which a sample is listed.
        drop: later selections leave the listed samples out, by a step `exclude` in the settings.
        config: sections `encoder` and `execution` are used.
        progress: told of every stage.
    """
    workspace = Workspace.of(Path(store))
    given = config if config is not None else workspace.load_config()
    corpus = open_corpus([against] if isinstance(against, str) else list(against))
    opened, reporter = Store(workspace.store), progress or SilentProgress()
    with workspace.alone(), executor_for(given) as executor:
        workspace.drop_damaged()
        found = decontaminate_stage(
            opened, corpus, workspace.root, given.encoder.spec(), executor, reporter, threshold=threshold
        )
        if drop:
            step = {EXCLUDE: {"table": str(Path(found.path).absolute()), "reason": "contaminated"}}
            others = [one for one in given.select.steps if one.get(EXCLUDE, {}).get("reason") != "contaminated"]
            given = override(given, "select", steps=[step, *others])
        workspace.save_config(given)
    return found


def import_embeddings(
    source: str | Path,
    inputs: Sequence[str] | str,
    store: str | Path,
    *,
    keys: str | Path | None = None,
    key_column: str | None = None,
    embedding_column: str | None = None,
    model: str | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
) -> EmbedReport:
    """`EmbedReport` of the store at ``store``, which now holds embeddings that were made elsewhere.

    Args:
        source: clip-retrieval folder, ``.npy``, ``.npz``, or parquet.
        inputs: the shards that the embeddings belong to; they are read for byte ranges, not decoded.
        store: folder; made if missing.
        keys: text file with a key a line, for ``.npy`` and ``.npz``.
        key_column: column or array with the keys.
        embedding_column: column or array with the embeddings.
        model: what made them, in words.
        config: sections `corpus` and `execution` are used.
        progress: told after each shard.

    Raises:
        UsageError: no such file, column or shard, or a format that is none of these.
        DataError: a damaged table, a key twice, or no key of these shards.
        StoreError: the store was made from something else.
    """
    folder, reporter = Path(store), progress or SilentProgress()
    workspace = Workspace.of(folder)
    listed = [inputs] if isinstance(inputs, str) else list(inputs)
    given = override(config if config is not None else workspace.load_config(), "corpus", input=listed)
    corpus = open_corpus(listed)
    table = open_table(
        Path(source), keys=Path(keys) if keys else None, key_column=key_column, embedding_column=embedding_column
    )
    found = make_plan(corpus, folder, given, reporter, whole_run=False)
    with workspace.alone(), executor_for(given, folder / "parts") as executor:
        report = import_stage(
            table, corpus, folder, given.corpus, executor, reporter, model=model, n_total=found.n_in_shards
        )
        workspace.save_config(given)
    return report
