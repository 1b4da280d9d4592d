"""Who reads what in an epoch, and which epoch it is: arithmetic, and a number that worker processes agree on."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from sspruning.errors import UsageError

__all__ = ["Epochs", "Place", "Share", "after", "rank_share", "worker_share"]

PASSES = 256
"""Passes that are remembered: as many DataLoaders may begin one at the same time."""
TAG = 0xFFFFFFFF


class Place(NamedTuple):
    """One reader among all of them."""

    rank: int
    world_size: int
    worker: int
    workers: int


class Share(NamedTuple):
    """What one reader reads of an epoch: the samples from ``start`` to ``stop`` of its order."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Samples."""
        return self.stop - self.start


def rank_share(n: int, place: Place, *, equal: bool) -> Share:
    """The part of ``n`` samples that a rank reads with all its workers; parts differ by one sample at most.

    Args:
        n: samples of the epoch.
        place: of the reader.
        equal: all ranks read equally many; the last few samples of the order, fewer than there are ranks, go to none.
    """
    each, more = divmod(n, place.world_size)
    if equal:
        more = 0
    start = place.rank * each + min(place.rank, more)
    return Share(start, start + each + (place.rank < more))


def worker_share(rank: Share, place: Place, batch_size: int) -> Share:
    """The part of a rank's samples that one of its workers reads.

    A DataLoader asks its workers in turn. Parts consist of whole batches, the first workers have one more of them if it
    does not come out even, and the one batch that is not full is the last that the loader asks for. So batch i comes
    from worker i % workers to the end of the epoch, and a rank's batches are as few as can be.

    Args:
        rank: what the rank reads.
        place: of the reader.
        batch_size: samples of a batch.
    """
    batches = -(-rank.size // batch_size)
    missing = batches * batch_size - rank.size
    each, more = divmod(batches, place.workers)
    last = (batches - 1) % place.workers

    def first(worker: int) -> int:
        return rank.start + (worker * each + min(worker, more)) * batch_size - (missing if worker > last else 0)

    return Share(first(place.worker), first(place.worker + 1))


def after(place: Place, batches: int) -> tuple[Place, int]:
    """Whose part a worker goes on with when ``batches`` of the epoch have been handed over, and behind how many of it.

    A new loader asks its worker 0 first, whoever's turn it was: so workers change parts until the epoch is over.
    """
    worker = (place.worker + batches) % place.workers
    turns, more = divmod(batches, place.workers)
    return place._replace(worker=worker), turns + (worker < more)


class Epochs:
    """The epoch of each pass over a dataset: they follow one another, however passes are made.

    A DataLoader without persistent workers copies the dataset into new processes for every pass, so a count kept in the
    dataset would stay 0. This one lies in shared memory. The workers of one pass are told by the seed that their
    DataLoader drew for all of them: whoever comes first notes the next number under it, the others find it there. Two
    that come at once reckon the same number. No lock is needed, and none can be left behind by a killed worker.
    """

    def __init__(self) -> None:
        """The first pass will be epoch 0."""
        self._table = torch.zeros(PASSES + 2, dtype=torch.int64).share_memory_()
        """Words of (epoch, 32-bit tag of the pass); then the epoch to go on in, and how many samples of it are read."""
        self._passes = 0
        self.start_at(0)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._table.share_memory_()  # a plain copy is not shared any more; one for a worker still is

    @property
    def last(self) -> int:
        """Epoch of the pass that began last."""
        return int(self._table[:PASSES].max()) >> 32

    def start_at(self, epoch: int, samples: int = 0) -> None:
        """Let the next pass be ``epoch``, without its first ``samples``.

        Raises:
            UsageError: a number below 0, or an epoch that is too large.
        """
        if not 0 <= epoch < 1 << 30:
            raise UsageError(f"epoch {epoch}: expected a number from 0 to 2^30")
        if samples < 0:
            raise UsageError(f"{samples} samples: expected 0 or more")
        self._table[:PASSES] = (epoch - 1) << 32
        self._table[PASSES:] = torch.tensor([epoch, samples])

    def begin(self, epoch: int | None = None) -> tuple[int, int]:
        """Epoch of the pass that begins now in this process, and how many of its samples were read before.

        Args:
            epoch: what it has to be, whatever comes next otherwise.
        """
        info = torch.utils.data.get_worker_info()
        drawn = 0 if info is None else info.seed - info.id
        tag = int.from_bytes(hashlib.blake2b(f"{drawn} {self._passes}".encode(), digest_size=4).digest(), "little") | 1
        self._passes += 1
        words = self._table[:PASSES].tolist()
        noted = words[tag % PASSES]
        if epoch is None:
            others = max(word >> 32 for word in words if word & TAG != tag)
            epoch = noted >> 32 if noted & TAG == tag else others + 1
        self._table[tag % PASSES] = (epoch << 32) | tag
        go_on, samples = self._table[PASSES:].tolist()
        return epoch, samples if epoch == go_on else 0
