"""HDF5 datasets from a file that may have been damaged or made to harm: checked before a byte of them is read.

HDF5 follows links and external storage to any file of the machine, fills what was never written, and inflates without
a limit. A dataset is read only if all of its values stand in the file itself, in the filters that sspruning writes;
then what is read is never larger than the file. Text, the one thing that is compressed, is inflated here and not by
HDF5.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from sspruning.errors import StoreError

__all__ = ["checked_dataset", "text_array", "text_values"]

TEXT_CAP = 4096  # bytes of one text, and so of a row of a text column
CHUNK_CAP = 64 << 20  # bytes that one chunk may have in memory; ours have 32 MiB at most
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_TEXT_FILTERS = [_SHUFFLE, _DEFLATE, _FLETCHER32]
_MODULUS = 65535


def checked_dataset(path: Path, file: h5py.File, name: str, kind: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """The dataset ``name``, whose values all stand in the file.

    Args:
        path: of the file, for messages.
        file: open for reading.
        name: may have one group in front.
        kind: of its numpy type, such as "f".
        shape: expected; None for any length.

    Raises:
        StoreError: missing, of another type or shape, a link, stored elsewhere or not in full, or in other filters.
    """
    for place in (name.partition("/")[0], name):
        if not isinstance(file.get(place, getlink=True), h5py.HardLink):
            raise StoreError(f"{path}: {place} is missing or a link to elsewhere")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise StoreError(f"{path}: {name} is not stored in this file")
    fits = len(shape) == len(dataset.shape) and all(
        wanted in {None, found} for wanted, found in zip(shape, dataset.shape, strict=True)
    )
    if not fits or dataset.dtype.kind != kind or dataset.dtype.itemsize > (TEXT_CAP if kind == "S" else 8):
        raise StoreError(f"{path}: {name} has shape {dataset.shape} and type {dataset.dtype}, expected {shape}")
    filters = _filters(dataset)
    if not set(filters) <= {_SHUFFLE, _FLETCHER32} and filters != (_TEXT_FILTERS if kind == "S" else []):
        raise StoreError(f"{path}: {name} is stored in filters {filters}, which sspruning does not write")
    if dataset.chunks and np.prod(dataset.chunks, dtype=np.float64) * dataset.dtype.itemsize > CHUNK_CAP:
        raise StoreError(f"{path}: {name} has chunks of {dataset.chunks}, which is more than is read at once")
    stored = dataset.id.get_storage_size()
    if stored > file.id.get_filesize() or (_DEFLATE not in filters and stored < dataset.nbytes):
        raise StoreError(f"{path}: {name} claims {dataset.nbytes} bytes but they are not in the file")
    return dataset


def _filters(dataset: h5py.Dataset) -> list[int]:
    """Numbers of the filters, in the order in which they were applied."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def text_values(dataset: h5py.Dataset) -> list[str]:
    """The texts of a fixed-width column that `checked_dataset` returned.

    Memory: one chunk, and the texts themselves: one very long key does not make all others as wide.

    Raises:
        ValueError: damaged; what HDF5 raises is an OSError.
    """
    return [value.decode() for values in _text_chunks(dataset) for value in values.tolist()]


def text_array(dataset: h5py.Dataset) -> tuple[pa.StringArray, np.ndarray]:
    """The same as `text_values` without a Python object for each, and (n,) uint64: texts of different hashes differ.

    Raises:
        ValueError: damaged; what HDF5 raises is an OSError.
    """
    found, hashes = [pa.array([], pa.string())], [np.empty(0, np.uint64)]
    for values in _text_chunks(dataset):
        found.append(_strings(values))
        hashes.append(_hashes(values))
    texts = pa.concat_arrays(found)
    texts.validate(full=True)  # that it is UTF-8
    return texts, np.concatenate(hashes)


def _hashes(values: np.ndarray) -> np.ndarray:
    """(m,) uint64 of m texts of fixed width: equal for equal texts, different for nearly all others."""
    words = -(-values.dtype.itemsize // 8)
    table = values.astype(f"S{8 * words}").view("<u8").reshape(-1, words)
    found = np.zeros(len(values), np.uint64)
    for word in table.T:
        found = (found ^ word) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return found


def _strings(values: np.ndarray) -> pa.StringArray:
    """Fixed-width bytes as strings of their own lengths."""
    width = values.dtype.itemsize
    table = np.ascontiguousarray(values).view(np.uint8).reshape(-1, width)
    lengths = np.strings.str_len(values)
    data = table if (lengths == width).all() else table[np.arange(width) < lengths[:, None]]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(data))


def _text_chunks(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """(m,) fixed-width bytes, a chunk at a time."""
    if _filters(dataset) != _TEXT_FILTERS:
        yield dataset[()]
        return
    rows, width = dataset.chunks[0], dataset.dtype.itemsize
    for start in range(0, len(dataset), rows):
        mask, stored = dataset.id.read_direct_chunk((start,))
        if mask:
            raise ValueError("a chunk leaves out its checksum")
        data = _inflated(bytes(stored), rows * width)
        table = np.frombuffer(data, np.uint8).reshape(width, rows).T  # the inverse of HDF5's shuffle
        yield np.ascontiguousarray(table).view(f"S{width}").ravel()[: len(dataset) - start]


def _inflated(stored: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes that a chunk of text holds before it is unshuffled."""
    if len(stored) < 4 or int.from_bytes(stored[-4:], "little") not in _checksums(stored[:-4]):
        raise ValueError("a chunk does not have its checksum")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stored[:-4], size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("a chunk does not have its length")
    return data


def _checksums(data: bytes) -> set[int]:
    """HDF5's fletcher32 of ``data``; where half of it is 0 modulo 65535, both forms of that half count."""
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(_MODULUS)
    sums = int(words.sum()) % _MODULUS, int((words * weights).sum()) % _MODULUS
    forms = [(value, _MODULUS) if value == 0 else (value,) for value in sums]
    return {(second << 16) | first for first, second in product(*forms)}
