"""Pruned samples for trainers that read no tar: a folder of files, a list of image paths, MosaicML streaming shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sspruning.config import load_config
from sspruning.errors import StoreError, UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.records import JSONValue
from sspruning.registry import Registry
from sspruning.storage.atomic import read_json, sweep, write_json
from sspruning.storage.pruned import META, PrunedFolder

__all__ = [
    "SAMPLE_FORMS",
    "ExportRequest",
    "SampleForm",
    "SamplesReport",
    "claim_folder",
    "export_record",
    "export_samples",
    "save_record",
]

RECORD = ".sspruning-export.json"
"""A file, as readers of image folders take any folder for a class, and hidden ones too."""
RECORD_FORMAT = "sspruning-export"


class SampleForm(Protocol):
    """A form: writes the whole output. Options are keyword arguments with defaults."""

    def __call__(self, request: ExportRequest) -> SamplesReport:
        """What stands at the request's output now."""
        ...


SAMPLE_FORMS: Registry[SampleForm] = Registry(
    "export form",
    {
        "folder": "sspruning.stages.export_folder:folder",
        "filelist": "sspruning.stages.export_filelist:filelist",
        "mds": "sspruning.stages.export_mds:mds",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesReport:
    """What was exported, and where it stands now."""

    form: str
    path: str
    n_rows: int
    """Samples that the output holds or names."""
    n_files: int
    """Files of it: of samples, of shards, or the one list."""
    n_written: int
    """Files that this call wrote; the others stood there from an earlier one."""
    size: int
    """Bytes of the files."""
    notes: list[str] = field(default_factory=list)
    """What people should know of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What is exported, and where to."""

    source: Path
    """A folder of pruned shards; for a file list also what holds a selection."""
    selection: Path
    """The selection that belongs to it."""
    settings: Path
    """The settings that belong to it; may be missing."""
    output: Path
    overwrite: bool
    progress: Progress

    def pruned(self) -> PrunedFolder:
        """The pruned shards.

        Raises:
            UsageError: the source is no folder of pruned shards.
        """
        return PrunedFolder.open(self.source)

    def image_key(self) -> tuple[str, ...]:
        """Suffixes of the image, in order of preference, as the settings of the source have them, or the default."""
        return load_config(self.settings if self.settings.exists() else None).corpus.suffixes


def export_samples(
    source: Path,
    to: str,
    output: Path,
    *,
    selection: Path | None = None,
    settings: Path | None = None,
    options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SamplesReport:
    """`SamplesReport` of what now stands at ``output``.

    Args:
        source: a folder of pruned shards; for a file list, a run or store does as well.
        to: a name of `SAMPLE_FORMS`.
        output: a folder, or for a file list a ``.txt`` file.
        selection: the ``selection.parquet`` of the source; None: the one beside the pruned shards.
        settings: the ``config.yaml`` of the source, which says how images are called; None: as above.
        options: of the form.
        overwrite: replace a file list that stands there; a folder is never emptied.
        progress: told as samples go by.

    Raises:
        UsageError: unknown form or option, or an output that cannot be used.
        DataError: a sample that the form cannot hold, or a damaged shard.
        MachineError: no space, or a missing package.
    """
    given = dict(options or {})
    SAMPLE_FORMS.check_options(to, given)
    request = ExportRequest(
        source=source,
        selection=selection or source / META / "selection.parquet",
        settings=settings or source / META / "config.yaml",
        output=output,
        overwrite=overwrite,
        progress=progress or SilentProgress(),
    )
    return SAMPLE_FORMS.resolve(to)(request, **given)


def export_record(output: Path) -> dict[str, JSONValue] | None:
    """What an export wrote of itself into the folder ``output``; None if no export did."""
    path = output / RECORD
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise StoreError(f"{path}: damaged; delete the folder and export again")
    return record


def claim_folder(output: Path, pruned: PrunedFolder, **facts: JSONValue) -> tuple[dict[str, JSONValue], bool]:
    """The record of this export, and whether ``output`` holds it already; nothing is written.

    Args:
        output: where it goes.
        pruned: what is exported; its fingerprint belongs to the record.
        facts: form and options.

    Raises:
        UsageError: the folder holds something else, or lies among the pruned shards.
    """
    record: dict[str, JSONValue] = {"format": RECORD_FORMAT, "format_version": 1, "source": pruned.fingerprint, **facts}
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file stands there; name a folder")
    if output.resolve().is_relative_to(pruned.path.resolve()):
        raise UsageError(f"{output}: lies in the folder of the pruned shards, {pruned.path}; name another one")
    sweep(output)
    if not output.exists() or not any(output.iterdir()):
        return record, False
    found = export_record(output)
    if found is None:
        raise UsageError(f"{output}: holds files that are no export of sspruning; name a new folder")
    if any(found.get(name) != value for name, value in record.items()):
        raise UsageError(f"{output}: holds an export of other samples or with other options; name a new folder")
    return record, True


def save_record(output: Path, record: dict[str, JSONValue]) -> None:
    """Keep the record of an export in its folder."""
    write_json(output / RECORD, record)
