"""The corpus as a task of an array sees it: all shards by name, its own looked at, the others as the store knows them.

To look at every shard in every task would cost tasks times shards questions to one file server.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sspruning.errors import StoreError
from sspruning.records import ShardRef
from sspruning.stages.share import Share
from sspruning.storage.corpus import Corpus, expand_inputs, open_corpus
from sspruning.storage.store import Store
from sspruning.storage.urls import is_url

__all__ = ["shared_corpus"]


def shared_corpus(inputs: Sequence[str], store_path: Path, share: Share) -> Corpus:
    """The `Corpus` that ``inputs`` name. If the store lists the same shards, only those of the share are looked at.

    Size and time of the others are then those of ``corpus.json``, which may be old: whoever finds that no shard is
    missing has to look again.

    Raises:
        UsageError: as `open_corpus`, for all shards or those of the share.
    """
    known = [] if share.task is None else _listed(store_path)
    paths = {ref.path for ref in known}
    if not paths or paths != {_absolute(path) for path in expand_inputs(inputs)}:
        return open_corpus(inputs)
    own = share.of(Corpus(tuple(known))).shards
    if not own:
        return Corpus(tuple(known))
    seen = {ref.path: ref for ref in open_corpus([ref.path for ref in own]).shards}
    return Corpus(tuple(replace(seen[ref.path], shard_id=ref.shard_id) if ref.path in seen else ref for ref in known))


def _listed(store_path: Path) -> list[ShardRef]:
    """The shards of a store, sorted; none if there is no list."""
    with suppress(StoreError):
        return sorted(Store(store_path).shards().values(), key=lambda ref: ref.shard_id)
    return []


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - keep symbolic links
