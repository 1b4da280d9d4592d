"""A selection in the forms that other tools read: key list, mask, weights, curriculum, DataComp uids, removed ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from sspruning.errors import StoreError, UsageError
from sspruning.progress import Progress, SilentProgress, Ticker
from sspruning.records import BoolArray, Selection
from sspruning.registry import Registry
from sspruning.stages.pieces import npy_header, parquet_pieces, refuse_existing, text_lines
from sspruning.stages.write import groups_with_rows
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import write_stream

__all__ = [
    "FORMS",
    "ExportReport",
    "Form",
    "Rows",
    "datacomp",
    "export_selection",
    "keys",
    "mask",
    "order",
    "removed",
    "weights",
]

BLOCK_ROWS = 65536
UID = re.compile(r"([0-9a-fA-F]{32})(-0)?")
UID_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])  # what numpy makes of "u8,u8"


class Form(Protocol):
    """A form: the bytes of the file. Options are keyword arguments with defaults."""

    def __call__(self, rows: Rows) -> Iterator[bytes]:
        """Pieces of the file. What the request lacks is raised before the first of them."""
        ...


FORMS: Registry[Form] = Registry(
    "export form",
    {
        "keys": "sspruning.stages.export:keys",
        "mask": "sspruning.stages.export:mask",
        "weights": "sspruning.stages.export:weights",
        "order": "sspruning.stages.export:order",
        "datacomp": "sspruning.stages.export:datacomp",
        "removed": "sspruning.stages.export:removed",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was exported, and where it stands now."""

    form: str
    path: str
    n_rows: int
    """Samples that the file speaks of."""
    n_kept: int
    n_embedded: int
    size: int
    """Bytes."""
    sha256: str


class Rows:
    """The rows of a selection on their way into a file."""

    def __init__(self, file: SelectionFile, output: Path, ticker: Ticker) -> None:
        """Nothing is read yet."""
        self._file = file
        self._ticker = ticker
        self.output = output
        self.written = 0
        """Samples that went into the file; counted by the form."""

    @property
    def facts(self) -> Selection:
        """The selection's own counts."""
        return self._file.selection

    def groups(self, *columns: str) -> Iterator[tuple[pa.Table, BoolArray]]:
        """(given columns, which rows are kept) of one shard at a time, in store order; may be asked for again.

        Raises:
            StoreError: damaged, or the rows are not as many as the file says.
        """
        n = n_kept = 0
        for table in groups_with_rows(self._file, ["kept", *columns]):
            kept = table.column("kept").to_numpy()
            n, n_kept = n + len(kept), n_kept + int(np.count_nonzero(kept))
            yield table.drop_columns("kept"), kept
            self._ticker.tick(len(kept))
        if (n, n_kept) != (self.facts.n_embedded, self.facts.n_kept):
            raise StoreError(
                f"{self._file.path}: has {n} rows, {n_kept} of them kept, and says {self.facts.n_embedded} and "
                f"{self.facts.n_kept}; run `sspruning select` again"
            )

    def want_suffix(self, *suffixes: str) -> str:
        """The suffix of the output, which is one of these.

        Raises:
            UsageError: it is another.
        """
        if self.output.suffix not in suffixes:
            raise UsageError(f"{self.output}: the name of this file must end in {' or '.join(suffixes)}")
        return self.output.suffix


def export_selection(
    selection: Path,
    to: str,
    output: Path,
    *,
    options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """`ExportReport` of the file that now stands, whole, at ``output``.

    Args:
        selection: a ``selection.parquet``.
        to: a name of `FORMS`.
        output: the file; its suffix has to fit the form.
        options: of the form.
        overwrite: replace a file that stands there.
        progress: told after each shard.

    Raises:
        UsageError: unknown form or option, a name that does not fit, a file that stands there, or keys that the form
            cannot hold.
        StoreError: the selection is missing or damaged.

    Cost:
        one or two reads of the columns that the form needs. Memory: one shard, except that `order` holds the kept
        keys and 24 bytes for each, and `datacomp` 56 bytes for each.
    """
    given = dict(options or {})
    FORMS.check_options(to, given)
    file = SelectionFile.open(selection)
    refuse_existing(output, overwrite=overwrite)
    if output.exists() and output.samefile(selection):
        raise UsageError(f"{output}: is the selection itself; name another file")
    with (progress or SilentProgress()).stage("export", None, "samples") as ticker:
        rows = Rows(file, output, ticker)
        pieces = FORMS.resolve(to)(rows, **given)
        first = next(pieces, b"")  # a request that cannot be served makes no folder
        sha256, size = write_stream(output, chain([first], pieces))
    return ExportReport(
        form=to,
        path=str(output),
        n_rows=rows.written,
        n_kept=file.selection.n_kept,
        n_embedded=file.selection.n_embedded,
        size=size,
        sha256=sha256,
    )


def keys(rows: Rows) -> Iterator[bytes]:
    """The keys of the kept samples, one a line, in store order; for ``.txt``.

    Raises:
        UsageError: a key with a line break in it, which no list of lines can hold.
    """
    rows.want_suffix(".txt")
    for table, kept in rows.groups("key"):
        found = _chosen(table, kept)
        rows.written += len(found)
        if found:
            yield text_lines(found)


def _chosen(table: pa.Table, chosen: BoolArray) -> list[str]:
    """Keys of the chosen rows."""
    return table.column("key").filter(pa.array(chosen)).to_pylist()


def mask(rows: Rows) -> Iterator[bytes]:
    """``.npy`` of (N,) bool in store order: the sample is kept."""
    rows.want_suffix(".npy")
    yield npy_header((rows.facts.n_embedded,), np.dtype(np.bool_))
    for _, kept in rows.groups():
        rows.written += len(kept)
        yield kept.tobytes()


def weights(rows: Rows, *, by: str = "selection") -> Iterator[bytes]:
    """``.npy`` of (N,) float32 in store order: the weight of a kept sample in the loss, 0 for a dropped one.

    Args:
        rows: the selection.
        by: "selection": its column `weight`. "balanced": every cluster that keeps samples has the same total weight,
            and the mean over the kept samples is 1: n_kept / (clusters * kept samples of the cluster).

    There is no InfoBatch (arXiv:2303.04947) here: its 1 / (1 - r) makes up for the share r of the easy samples that
    each epoch leaves out at random. A selection keeps its easy samples in every epoch, so the factor would only count
    them more than once.
    """
    rows.want_suffix(".npy")
    known = ("selection", "balanced")
    if by not in known:
        raise UsageError(f"weights by {by!r}; known: {', '.join(known)}")
    factor = _balancing(rows) if by == "balanced" else None
    yield npy_header((rows.facts.n_embedded,), np.dtype("<f4"))
    column = "weight" if factor is None else "centroid"
    for table, kept in rows.groups(column):
        values = table.column(column).to_numpy()
        rows.written += len(kept)
        yield np.where(kept, values if factor is None else factor[values], 0).astype("<f4").tobytes()


def _balancing(rows: Rows) -> np.ndarray:
    """(k,) weight of the kept samples of each cluster; 0 for clusters that keep none."""
    counts = np.zeros(0, np.int64)
    for table, kept in rows.groups("centroid"):
        labels = table.column("centroid").to_numpy()
        own = np.bincount(labels[kept], minlength=max(len(counts), int(labels.max()) + 1))
        own[: len(counts)] += counts
        counts = own
    used = counts > 0
    factor = np.zeros(len(counts), np.float64)
    factor[used] = counts.sum() / (np.count_nonzero(used) * counts[used])
    return factor


def order(rows: Rows, *, first: str = "easy") -> Iterator[bytes]:
    """Columns `key` and `score` of the kept samples as a curriculum, for ``.parquet`` or ``.tsv`` (with a header line).

    Equal scores stand in the order of `rank`, in a selection without ranks in store order.

    Args:
        rows: the selection.
        first: "easy": scores rise; "hard": scores fall.

    Raises:
        UsageError: for ``.tsv``, a key with a tab or a line break in it.
    """
    suffix = rows.want_suffix(".parquet", ".tsv")
    if first not in {"easy", "hard"}:
        raise UsageError(f"order with first {first!r}; known: easy, hard")
    columns = ("key", "score", "rank") if rows.facts.ranked else ("key", "score")
    table = pa.concat_tables([table.filter(pa.array(kept)) for table, kept in rows.groups(*columns)])
    name = table.column("key").cast(pa.large_string()).combine_chunks()
    score, *rank = (table.column(column).to_numpy() for column in columns[1:])
    del table
    placed = np.lexsort((*rank, score if first == "easy" else -score))
    rows.written += len(placed)

    def blocks() -> Iterator[pa.Table]:
        for start in range(0, len(placed), BLOCK_ROWS):
            own = placed[start : start + BLOCK_ROWS]
            yield pa.table({"key": name.take(pa.array(own)).cast(pa.string()), "score": score[own]})

    if suffix == ".parquet":
        yield from parquet_pieces(blocks(), pa.schema([("key", pa.string()), ("score", pa.float32())]))
        return
    yield b"key\tscore\n"
    for block in blocks():
        yield text_lines(block.column("key").to_pylist(), [str(value) for value in block.column("score").to_numpy()])


def datacomp(rows: Rows) -> Iterator[bytes]:
    """``.npy`` of the kept uids as DataComp's resharder reads them: dtype ``u8,u8``, high half first, sorted.

    Keys must be uids of 32 hexadecimal digits; the ``-0`` that the resharder itself puts behind them may follow. Uids
    are not looked for in the samples' json members.

    Raises:
        UsageError: a key that is no uid, or a uid that occurs twice; names the first.
    """
    rows.want_suffix(".npy")
    halves = []
    for table, kept in rows.groups("key"):
        fits = [(key, UID.fullmatch(key)) for key in _chosen(table, kept)]
        wrong = next((key for key, fit in fits if fit is None), None)
        if wrong is not None:
            raise UsageError(
                f"the key {wrong!r} is no DataComp uid (32 hexadecimal digits); export the form keys instead"
            )
        digits = "".join(fit[1] for _, fit in fits if fit)
        halves.append(np.frombuffer(bytes.fromhex(digits), ">u8").reshape(-1, 2).astype("<u8"))
    both = np.concatenate(halves) if halves else np.empty((0, 2), "<u8")
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    twice = np.flatnonzero((both[1:] == both[:-1]).all(1))
    if len(twice):
        high, low = both[twice[0]].tolist()
        raise UsageError(f"the uid {high:016x}{low:016x} occurs twice; the resharder would write its samples twice")
    rows.written += len(both)
    yield npy_header((len(both),), UID_DTYPE)
    for start in range(0, len(both), BLOCK_ROWS):
        yield both[start : start + BLOCK_ROWS].tobytes()


def removed(rows: Rows, *, ids: str = "key") -> Iterator[bytes]:
    """Columns `id` and `reason` of the dropped samples, both strings, for ``.parquet``.

    NeMo Curator's image removal reads column `id` of all parquet files in a folder, so give this one a folder of its
    own. Samples without an embedding are in no selection, and not here either.

    Args:
        rows: the selection.
        ids: "key": the key. "shard_row": shard and ordinal, such as ``00012_000345``: what NeMo's own tar reader, which
            does not read keys, calls a sample that it reads one shard at a time; true where every sample has a jpg.
    """
    rows.want_suffix(".parquet")
    if ids not in {"key", "shard_row"}:
        raise UsageError(f"removed with ids {ids!r}; known: key, shard_row")
    columns = ["key"] if ids == "key" else ["shard", "row"]

    def tables() -> Iterator[pa.Table]:
        for table, kept in rows.groups(*columns, "reason"):
            gone = table.filter(pa.array(~kept))
            rows.written += gone.num_rows
            if ids == "key":
                names = gone.column("key")
            else:
                places = zip(gone.column("shard").to_pylist(), gone.column("row").to_pylist(), strict=True)
                names = pa.array([f"{shard}_{row:06d}" for shard, row in places], pa.string())
            yield pa.table({"id": names, "reason": gone.column("reason")})

    yield from parquet_pieces(tables(), pa.schema([("id", pa.string()), ("reason", pa.string())]))
