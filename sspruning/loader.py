"""Pruning without a second copy: a webdataset over the original shards that leaves out what a selection drops."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from webdataset.compat import WebDataset

from sspruning.errors import DataError, UsageError
from sspruning.loading.lookup import Answer, Lookup, read_groups
from sspruning.storage.artifacts import SelectionFile

__all__ = ["FilteredDataset", "filtered"]

STRANGERS = 100_000
"""Samples that a worker reads in search of one that the selection knows, before it gives up."""


class FilteredDataset(WebDataset):
    """A `webdataset.WebDataset` whose samples are those that a selection keeps."""

    n_kept: int
    """Samples of the selection that are kept: the length of an epoch over all its shards, on all workers together."""
    n_embedded: int
    """Samples of the selection."""


def filtered(
    urls: str | Path | Sequence[str | Path],
    selection: str | Path,
    *,
    weights: bool | str | Path = False,
    unknown: Literal["drop", "keep", "refuse"] = "drop",
    **options: Any,
) -> FilteredDataset:
    """A `webdataset.WebDataset` of the kept samples of the shards ``urls``, whole and in their order.

    It takes all further stages that webdataset knows (shuffle, decode, ...), works in any number of DataLoader workers
    and can be pickled. There is no ``len()``, which would be wrong after ``batched``: ``n_kept`` says how many samples
    an epoch has.

    Args:
        urls: the shards that were embedded, under any name or place: what webdataset takes, or a folder of tars. Under
            their old names where the corpus was embedded with ``repeated_keys: prefix``.
        selection: a ``selection.parquet``, or the folder that holds one.
        weights: True gives every sample its `weight` as ``__weight__``; a path takes the weights from a ``.npy`` of
            (N,) numbers in store order, as `sspruning export --to weights` writes it.
        unknown: what to do with samples that the selection does not speak of, because they had no usable image or are
            new: drop them, keep them (with weight 1), or refuse them.
        options: of `webdataset.WebDataset`, such as ``shardshuffle=100`` (off if not given) or ``nodesplitter=...``.

    Raises:
        UsageError: a folder without tars, or weights that are not (N,) numbers.
        StoreError: the selection is missing or damaged.
        DataError: while samples are read: no sample is in the selection, or, with "refuse", one is not; or a shard's
            name does not say which shard of the selection it is, and keys depend on it.

    Cost:
        1.1 microseconds a sample of the selection at the start, then 6 for each sample read. Memory: 8 bytes a sample
        of the selection, 12 with weights, which forked workers share; three times that at the start.
    """
    if unknown not in {"drop", "keep", "refuse"}:
        raise UsageError(f"unknown={unknown!r}; choose drop, keep or refuse")
    path = Path(selection)
    file = SelectionFile.open(path / "selection.parquet" if path.is_dir() else path)
    lookup = Lookup.of(file, weights=weights)
    options.setdefault("shardshuffle", False)  # webdataset warns where it is not said
    dataset = FilteredDataset(_listed(urls), **options)
    mark = file.selection.settings.get("key_prefix")
    if mark not in {None, "", "shard_id"}:
        raise UsageError(
            f"{file.path}: keys have {mark!r} in front, which this release cannot look up; update sspruning"
        )
    dataset.append(_Filter(lookup, str(file.path), unknown, _ShardNames(file) if mark else None))
    dataset.n_kept, dataset.n_embedded = file.selection.n_kept, file.selection.n_embedded
    return dataset


def _listed(urls: str | Path | Sequence[str | Path]) -> str | list[str]:
    """What webdataset takes; a folder becomes its tars."""
    if not isinstance(urls, str | Path):
        return [str(url) for url in urls]
    if not Path(urls).is_dir():
        return str(urls)
    found = sorted(str(path) for path in Path(urls).iterdir() if path.suffix == ".tar" and path.is_file())
    if not found:
        raise UsageError(f"{urls}: the folder holds no .tar files")
    return found


class _ShardNames:
    """Which shard of a selection a url is; for selections whose keys have the shard's name in front."""

    def __init__(self, file: SelectionFile) -> None:
        self._known = {str(table.column("shard")[0].as_py()) for table in read_groups(file, ["shard"])}
        self._repeated = {name.rpartition("+")[2] for name in self._known if "+" in name}

    def find(self, url: str) -> str:
        """The name: the stem, with as many folders in front as the selection has; the stem of a shard it lacks.

        Raises:
            DataError: shards of the selection share this stem, and no folder of the url tells which one it is.
        """
        place = url.partition("?")[0] if "://" in url else os.path.abspath(url)  # noqa: PTH100 - keep symbolic links
        parts = [part for part in place.replace("\\", "/").removesuffix(".tar").split("/") if part]
        for depth in range(1, len(parts) + 1):
            if (name := "+".join(parts[-depth:])) in self._known:
                return name
        if parts[-1] in self._repeated:
            alike = sorted(name for name in self._known if name.rpartition("+")[2] == parts[-1])
            raise DataError(
                f"{url}: the selection has several shards of this name, {' and '.join(alike[:2])}, told apart by their "
                "folders; keep the shards in folders of these names"
            )
        return parts[-1]


class _Filter:
    """The stage behind webdataset's own: samples in, the kept ones out."""

    def __init__(self, lookup: Lookup, name: str, unknown: str, shards: _ShardNames | None) -> None:
        self._lookup = lookup
        self._name = name
        self._unknown = unknown
        self._shards = shards

    def __call__(self, samples: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
        """The kept samples, with their weight where that was asked for."""
        strangers, known = 0, False
        key, url, prefix = "", None, ""
        for sample in samples:
            if self._shards is not None and sample["__url__"] != url:
                url = sample["__url__"]
                prefix = f"{self._shards.find(str(url))}/"
            key = f"{prefix}{sample['__key__']}"
            answer = self._lookup.find(key)
            if answer is None:
                strangers += 1
                answer = self._judge(key, sample)
                if self._unknown == "drop" and not known and strangers == STRANGERS:
                    break
            else:
                known = True
            if answer.kept:
                if answer.weight is not None:
                    sample["__weight__"] = answer.weight
                yield sample
        if self._unknown == "drop" and strangers and not known:
            named = "" if self._shards is None else " under the names they had"
            raise DataError(
                f"{self._name}: knows none of {strangers:,} samples, the last of them {key!r}; are these the shards "
                f'that it was made from{named}? If they are new, or all without usable images, give unknown="keep"'
            )

    def _judge(self, key: str, sample: dict[str, object]) -> Answer:
        """What happens to a sample that the selection does not know."""
        if self._unknown == "refuse":
            raise DataError(f"{sample['__url__']}: the sample {key!r} is not in the selection {self._name}")
        return Answer(self._unknown == "keep", 1.0 if self._lookup.weighted else None)
