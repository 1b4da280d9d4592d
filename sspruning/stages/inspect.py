"""What is in a corpus: samples, suffixes, sizes and problems, from tar headers alone. Nothing is decoded."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from sspruning.errors import ShardError, UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.records import ShardRef
from sspruning.storage.corpus import Corpus
from sspruning.storage.samples import ShardReader, split_name
from sspruning.storage.store import Store

__all__ = [
    "Inspection",
    "inspect_corpus",
    "key_hash",
    "refuse_bad_prefixes",
    "refuse_repeated_keys",
    "refuse_repeated_rows",
    "refuse_repeated_starts",
]

STARTS = 64  # shards whose first key is looked at
ASKED_AT_ONCE = 16
NAMED = 10  # keys


@dataclass(slots=True)
class Inspection:
    """Counts of a corpus."""

    n_shards: int = 0
    n_samples: int = 0
    size_bytes: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    """Members by suffix."""
    suffix_bytes: Counter[str] = field(default_factory=Counter)
    """Payload bytes by suffix."""
    sample_kinds: Counter[str] = field(default_factory=Counter)
    """Samples by their set of suffixes, joined by ``+``."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Members that belong to no sample, by reason."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Samples that cannot be used, by reason."""
    without_image: int = 0
    """Samples without a member of the image suffixes."""
    problems: dict[str, str] = field(default_factory=dict)
    """First problem of each damaged shard, by path."""
    repeated_keys: list[str] = field(default_factory=list)
    """Lines that name keys which occur in more than one shard; at most ten."""


def key_hash(key: str) -> int:
    """64-bit blake2b of a key: the number that seeds turn into samples and tie-breaks."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def inspect_corpus(
    corpus: Corpus, suffixes: tuple[str, ...], progress: Progress | None = None, *, allow_missing_end: bool = False
) -> Inspection:
    """`Inspection` of all shards.

    Args:
        corpus: what to read.
        suffixes: image suffixes in order of preference.
        progress: told after each shard.
        allow_missing_end: accept archives without their end marker.

    Cost:
        about 5 microseconds a sample and one read of the headers; 17 bytes of memory a sample.
    """
    progress = progress or SilentProgress()
    found = Inspection(n_shards=len(corpus.shards), size_bytes=corpus.size_bytes)
    hashes: list[np.ndarray] = []
    with progress.stage("inspect", len(corpus.shards), "shards") as ticker:
        for shard in corpus.shards:
            hashes.append(_inspect_shard(shard, suffixes, found, allow_missing_end=allow_missing_end))
            ticker.tick()
    found.repeated_keys = _repeated(corpus, hashes, allow_missing_end=allow_missing_end)
    return found


def _inspect_shard(
    shard: ShardRef, suffixes: tuple[str, ...], found: Inspection, *, allow_missing_end: bool
) -> np.ndarray:
    """Key hashes of one shard; its counts are added to ``found``."""
    hashes: list[int] = []
    wanted = frozenset(suffixes)
    kinds: Counter[tuple[str, ...]] = Counter()
    try:
        with ShardReader(shard.path, allow_missing_end=allow_missing_end) as reader:
            for sample in reader.samples():
                hashes.append(key_hash(sample.key))
                kinds[sample.suffixes] += 1
                if sample.skip_reason is not None:
                    found.skipped[sample.skip_reason] += 1
                for suffix, _, size in sample.members:
                    found.suffix_bytes[suffix] += size
            found.ignored += reader.ignored
    except ShardError as error:
        found.problems[shard.path] = f"at byte {error.offset}: {error.problem}"
    except OSError as error:
        found.problems[shard.path] = f"cannot be read: {error.strerror}"
    for kind, count in kinds.items():
        found.sample_kinds["+".join(kind)] += count
        for suffix in kind:
            found.suffixes[suffix] += count
        if not wanted.intersection(kind):
            found.without_image += count
    found.n_samples += len(hashes)
    return np.array(hashes, np.uint64)


def _repeated(corpus: Corpus, hashes: list[np.ndarray], *, allow_missing_end: bool) -> list[str]:
    """Lines for keys that occur in several shards. Only when hashes repeat are keys read again."""
    everything = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    everything.sort()
    again = everything[1:][everything[1:] == everything[:-1]]
    suspects = set(np.unique(again)[:NAMED].tolist())
    if not suspects:
        return []
    places: dict[str, list[str]] = {}
    for shard, own in zip(corpus.shards, hashes, strict=True):
        if suspects.isdisjoint(own.tolist()):
            continue
        with ShardReader(shard.path, allow_missing_end=allow_missing_end) as reader:
            try:
                for sample in reader.samples():
                    if key_hash(sample.key) in suspects:
                        places.setdefault(sample.key, []).append(shard.path)
            except ShardError:
                continue
    return _lines(places)


def refuse_repeated_keys(found: Inspection) -> None:
    """Raise if a key occurs in more than one shard.

    Raises:
        UsageError: names the keys and the shards, and what to do.
    """
    _refuse(found.repeated_keys)


def refuse_repeated_starts(corpus: Corpus, *, allow_missing_end: bool = False) -> None:
    """Raise if shards begin with the same key, as they do where the count starts anew in each.

    For corpora whose headers are not all read before the work; of many shards `STARTS` are looked at.

    Raises:
        UsageError: names the keys and the shards, and what to do.

    Cost:
        two questions to a store for each of these shards.
    """

    def first_key(shard: ShardRef) -> str | None:
        try:
            with ShardReader(shard.path, allow_missing_end=allow_missing_end) as reader:
                return next((sample.key for sample in reader.samples()), None)
        except (ShardError, OSError):
            return None  # told when the shard is embedded

    chosen = corpus.shards[:: -(-len(corpus.shards) // STARTS)]
    places: dict[str, list[str]] = {}
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        for shard, key in zip(chosen, pool.map(first_key, chosen), strict=True):
            if key is not None:
                places.setdefault(key, []).append(shard.path)
    _refuse(_lines(places))


def refuse_repeated_rows(store: Store) -> None:
    """Raise if a key occurs more than once in a store: the last chance before shards are written.

    Raises:
        UsageError: names the keys and the shards, and what to do.

    Cost:
        8 bytes of memory a sample, and one pass over the key hashes.
    """
    if "key_prefix" in store.settings:
        return
    hashes = [own for _, own in store.key_hashes()]
    values, counts = np.unique(np.concatenate(hashes or [np.empty(0, np.uint64)]), return_counts=True)
    suspects = values[counts > 1][:NAMED]
    places: dict[str, list[str]] = {}
    for record, own in store.key_hashes() if len(suspects) else ():
        rows = np.flatnonzero(np.isin(own, suspects)).tolist()
        if rows:
            with store.open_part(record) as part:
                keys = part.keys()
            for row in rows:
                places.setdefault(keys[row], []).append(record.shard_id)
    _refuse(_lines(places))


def _lines(places: dict[str, list[str]]) -> list[str]:
    """What to say of the keys that are in several places."""
    return [f"{key!r} in {' and '.join(own[:2])}" for key, own in sorted(places.items()) if len(own) > 1]


def _refuse(repeated: list[str]) -> None:
    if repeated:
        listed = "; ".join(repeated[:3])
        raise UsageError(
            f"keys must be unique in a corpus, but {len(repeated)} or more are not: {listed}. "
            "Trainers and selections know samples by key: give --repeated-keys prefix (corpus.repeated_keys), which "
            "puts the shard's name in front of every key, or leave one of the shards out"
        )


def refuse_bad_prefixes(corpus: Corpus) -> None:
    """Raise if the name of a shard cannot stand in front of keys.

    Raises:
        UsageError: names the shard.
    """
    for shard in corpus.shards:
        try:
            shard.shard_id.encode()
        except UnicodeEncodeError:
            shown = shard.path.encode("utf-8", "backslashreplace").decode()
            raise UsageError(f"{shown}: its name is not UTF-8, so no key can begin with it; rename it") from None
        if split_name(f"{shard.shard_id}/x.x") is None:
            raise UsageError(
                f"{shard.path}: no key can begin with {shard.shard_id!r}, because webdataset keeps names between "
                "double underscores for itself; rename the shard"
            )
