"""Files for other tools, as pieces of bytes that come about while rows are read: npy, parquet, lines of text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sspruning.errors import UsageError
from sspruning.storage.artifacts import ParquetPieces
from sspruning.storage.atomic import sweep

__all__ = ["npy_header", "parquet_pieces", "refuse_existing", "text_lines"]


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The first bytes of a ``.npy`` file whose values, in C order, follow."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(buffer, {"descr": description, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def parquet_pieces(tables: Iterable[pa.Table], schema: pa.Schema, *, plain: Sequence[str] = ()) -> Iterator[bytes]:
    """The bytes of a parquet file, a row group for each table that has rows, as they come about.

    Args:
        tables: rows; one table is held at a time.
        schema: what they are cast to.
        plain: columns whose values hardly repeat, stored without a dictionary.
    """
    sink = ParquetPieces()
    coded = [name for name in schema.names if name not in plain]
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"), schema, compression="zstd", write_page_checksum=True, use_dictionary=coded
    ) as writer:
        for table in tables:
            if table.num_rows:
                writer.write_table(table.cast(schema), row_group_size=table.num_rows)
                yield b"".join(sink.take())
    yield b"".join(sink.take())


def text_lines(keys: Sequence[str], *columns: Sequence[str]) -> bytes:
    """One line for each key, with further columns behind tabs.

    Raises:
        UsageError: a key with a line break in it, or with a tab where columns follow; names the first.
    """
    unfit = "\n\r\t" if columns else "\n\r"
    text = "".join(keys)
    if any(character in text for character in unfit):
        first = next(key for key in keys if any(character in key for character in unfit))
        raise UsageError(
            f"the key {first!r} has a line break or tab in it, which a file of lines cannot hold; "
            "export to a parquet form instead, or rename the sample"
        )
    return "".join("\t".join(line) + "\n" for line in zip(keys, *columns, strict=True)).encode()


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise unless a file may be written to ``output``; what a killed export left of it is removed.

    Raises:
        UsageError: a folder stands there, or a file without ``overwrite``.
    """
    if output.is_dir():
        raise UsageError(f"{output}: a folder stands there; name a file")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: stands there already; name another file, or give --overwrite")
    sweep(output.parent)
