"""Reading pruned shards in the order of an epoch, from any place in it on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from sspruning.errors import DataError
from sspruning.loading.epochs import Place, Share
from sspruning.loading.lookup import Lookup
from sspruning.records import I64
from sspruning.storage.pruned import PrunedFolder

__all__ = ["Pass", "Reading"]

BLOCK = 1 << 16
"""Samples whose order is drawn at a time."""


class Pass:
    """How far one reader is in one epoch."""

    def __init__(self, epoch: int, place: Place, share: Share, done: int) -> None:
        """Begin it behind the first ``done`` samples of the share."""
        self.epoch, self.place, self.share = epoch, place, share
        self.done = done
        """Samples of its share that it has handed on."""
        self.ended = False


class Reading:
    """The first stage: which samples a reader reads in which order, and reading them."""

    def __init__(self, folder: PrunedFolder, lookup: Lookup | None, shuffle: int, seed: int) -> None:
        """Nothing is read yet; ``lookup`` is for weights."""
        self._folder, self._lookup, self._shuffle, self._seed = folder, lookup, shuffle, seed
        self.n_samples = folder.n_samples

    def __call__(self) -> Iterator[dict[str, object]]:
        """Epoch 0 of a single reader; for pipelines that are taken apart."""
        return self.samples(Pass(0, Place(0, 1, 0, 1), Share(0, self.n_samples), 0), 0)

    def samples(self, begun: Pass, repetition: int) -> Iterator[dict[str, object]]:
        """Samples that the reader has not handed on yet, in the order of this epoch.

        Shards are read from front to back. A sample whose turn comes later is held until then; after a stop those that
        had been handed on are passed over, so the same ones are held again.
        """
        size = begun.share.size
        if repetition:
            begun.done = 0
        rest = _places(size, self._shuffle, self._draws(begun, repetition, begun.place.rank, begun.place.worker))
        done = np.zeros(size if begun.done else 0, np.bool_)
        for place in islice(rest, begun.done):
            done[place] = True
        ahead = self._ahead(self._shard_order(begun, repetition), begun.share, done)
        held: dict[int, dict[str, object]] = {}
        for place in rest:
            while place not in held:
                number, sample = next(ahead)
                held[number] = sample
            begun.done += 1
            yield held.pop(place)
        begun.ended = True

    def _draws(self, begun: Pass, *more: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, begun.epoch, *more])

    def _shard_order(self, begun: Pass, repetition: int) -> list[int]:
        count = len(self._folder.shards)
        if not self._shuffle:
            return list(range(count))
        return self._draws(begun, repetition).permutation(count).tolist()

    def _ahead(self, shards: list[int], share: Share, done: np.ndarray) -> Iterator[tuple[int, dict[str, object]]]:
        """(number in the share, sample) in the order of the shards, without those that are done."""
        at = 0
        for shard in shards:
            count = self._folder.shards[shard].n_samples
            first, last = max(share.start - at, 0), min(share.stop - at, count)
            if first < last:
                number = at + first - share.start
                if not (len(done) and done[number : number + last - first].all()):
                    yield from self._of_shard(shard, first, number, number + last - first, done)
            at += count

    def _of_shard(
        self, shard: int, first: int, number: int, stop: int, done: np.ndarray
    ) -> Iterator[tuple[int, dict[str, object]]]:
        url = self._folder.shards[shard].path
        for reader, found in self._folder.samples(shard, first):
            if number == stop:
                return
            if not (len(done) and done[number]):
                sample: dict[str, object] = {"__key__": found.key, "__url__": url}
                sample.update((member.suffix, reader.read(member.start, member.size)) for member in found.members)
                if self._lookup is not None:
                    sample["__weight__"] = self._weight(url, found.key)
                yield number, sample
            number += 1

    def _weight(self, url: str, key: str) -> float | None:
        answer = self._lookup.find(key) if self._lookup is not None else None
        if answer is None:
            raise DataError(f"{url}: the sample {key!r} is not in {self._folder.selection}; run `sspruning verify`")
        return answer.weight


def _places(n: int, reach: int, draws: np.random.Generator) -> Iterator[int]:
    """0 to n - 1, each once, mixed: every number goes up to ``reach`` places back, by a draw of its own."""
    waiting, turns = np.empty(0, np.int64), np.empty(0, np.float64)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        fresh: I64 = np.arange(start, stop, dtype=np.int64)
        waiting = np.concatenate([waiting, fresh])
        turns = np.concatenate([turns, fresh + reach * draws.random(len(fresh))])
        ready = turns < stop if stop < n else np.ones(len(turns), np.bool_)
        yield from waiting[ready][np.argsort(turns[ready], kind="stable")].tolist()
        waiting, turns = waiting[~ready], turns[~ready]
