"""Pruned shards as a webdataset that knows its length, is shuffled anew in each epoch and goes on after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from webdataset.compat import FluidWrapper
from webdataset.utils import pytorch_worker_info

from sspruning.errors import UsageError
from sspruning.loading.epochs import Epochs, Place, Share, after, rank_share, worker_share
from sspruning.loading.lookup import Lookup
from sspruning.loading.reading import Pass, Reading
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.output_place import local_only
from sspruning.storage.pruned import PrunedFolder

__all__ = ["PrunedDataset", "webdataset"]


def webdataset(
    folder: str | Path,
    *,
    shuffle: int = 1000,
    seed: int = 0,
    weights: bool | str | Path = False,
    batch_size: int = 1,
    equal_ranks: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
) -> PrunedDataset:
    """A webdataset pipeline of the pruned shards in ``folder``, to be decoded, mapped and batched further.

    One pass is one epoch: every sample comes exactly once over all ranks and all DataLoader workers, however many there
    are and however few shards. Readers share samples, not shards: parts differ by one sample between ranks, by one
    batch between the workers of a rank. ``len()`` is what this rank reads in an epoch, before and after ``batched``.

    Every pass is another epoch with another order, which depends on seed, epoch and the number of ranks and workers and
    on nothing else. `PrunedDataset.set_epoch` names the epoch, `PrunedDataset.resume` goes on in the middle of one:

        dataset = sspruning.webdataset("pruned/", seed=1, batch_size=256)
        dataset.resume(epoch=3, samples=102_400)  # what this rank has trained on in epoch 3
        loader = DataLoader(dataset.decode("pil").map(augment), batch_size=256, num_workers=8)

    Args:
        folder: what `sspruning write`, `select --output` or `run` made.
        shuffle: how many samples are held in memory by each worker, so that a sample is moved by up to that many
            places; shards come in random order too. 0: the order of the shards in every epoch.
        seed: of the shuffling.
        weights: True gives every sample its `weight` in the selection as ``__weight__``; a path takes the weights from
            a ``.npy`` of (N,) numbers in store order, as `sspruning export --to weights` writes it.
        batch_size: of the DataLoader, if it makes the batches; `batched` sets it by itself. Workers then read whole
            batches, so an epoch has ``len(dataset) / batch_size`` of them, rounded up, however many workers there are.
        equal_ranks: every rank reads equally many samples; the last few of the epoch's order, fewer than there are
            ranks and others in each epoch, are left out. For trainers that hang if ranks end at different steps.
        rank: of this process; None: what RANK or torch.distributed says.
        world_size: number of ranks; goes with ``rank``.

    Raises:
        UsageError: no pruned shards there, or numbers that do not fit.
        StoreError: a shard or the selection is missing or damaged.
        DataError: while samples are read: a damaged shard, or a key without a weight.

    Cost:
        Memory of each worker: ``shuffle`` samples and some MB; with weights 12 bytes for each sample of the selection,
        which forked workers share. Going on reads headers, and only the images that are still to come.
    """
    numbers = {"shuffle": (shuffle, 0), "seed": (seed, 0), "batch_size": (batch_size, 1)}
    for name, (value, least) in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name}={value!r}; expected a whole number from {least} on")
    if (rank is None) != (world_size is None):
        raise UsageError("rank and world_size go together; give both or neither")
    given = None if rank is None or world_size is None else (rank, world_size)
    if given is not None and not 0 <= given[0] < given[1]:
        raise UsageError(f"rank={rank}, world_size={world_size}; expected 0 <= rank < world_size")
    opened = PrunedFolder.open(local_only(folder, "samples are loaded from"))
    lookup = None if weights is False else Lookup.of(SelectionFile.open(opened.selection), weights=weights)
    reading = Reading(opened, lookup, shuffle, seed)
    return PrunedDataset(reading, batch_size=batch_size, equal_ranks=equal_ranks, ranks=given)


class PrunedDataset(FluidWrapper):
    """A `webdataset` pipeline of pruned shards; every pass is one epoch."""

    def __init__(self, reading: Reading, *, batch_size: int, equal_ranks: bool, ranks: tuple[int, int] | None) -> None:
        """Nothing is read yet; `webdataset` makes one."""
        super().__init__(reading)
        self._epochs = Epochs()
        self._batch_size = batch_size
        self._equal_ranks = equal_ranks
        self._given_ranks = ranks
        self._found_ranks = (0, 1)
        self._items: tuple[int, bool] | None = (1, True)
        """Samples of what comes out, and whether a last, smaller one comes too; None: unknown."""
        self._batched = False
        self._go_on: dict[str, int] | None = None
        self._pass: Pass | None = None

    def __getstate__(self) -> dict[str, object]:
        """What goes to workers: they may not find the rank by themselves."""
        return {**self.__dict__, "_found_ranks": self._place()[:2], "_pass": None}

    @property
    def epoch(self) -> int:
        """The epoch of the pass that began last; -1 before the first one."""
        return self._epochs.last

    def __len__(self) -> int:
        """What this rank's loader hands over in an epoch: samples, or batches behind `batched`.

        Raises:
            TypeError: behind a stage that changes the number in a way that is not known.
        """
        if self._items is None or self.repetitions != 1:
            raise TypeError("the length is not known behind select, slice, unbatched, repeat or with_epoch")
        size, partial = self._items
        return -(-self._of_rank().size // size) if partial else self._of_rank().size // size

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be epoch ``epoch``, from 0; passes after it follow. Reaches workers that exist already."""
        self._epochs.start_at(epoch)

    def resume(self, *, epoch: int, samples: int = 0) -> None:
        """Let the next pass be the rest of an epoch: what would have come next without the stop.

        Exact for the same seed, ranks, workers and batch size. Shuffle with the dataset's own ``shuffle``: what a later
        stage holds back, such as `shuffle`, counts as handed over.

        Args:
            epoch: the one that was interrupted; `epoch` told its number.
            samples: samples of it that this rank has been given, in whole batches; 0 to ``len()`` of it unbatched.

        Raises:
            UsageError: more samples than there are, or no whole number of batches.
        """
        size = self._of_rank().size
        if not 0 <= samples <= size:
            raise UsageError(f"resume with {samples:,} samples of an epoch that has {size:,} on this rank")
        self._refuse_broken_batch(samples)
        self._epochs.start_at(epoch + 1) if samples == size else self._epochs.start_at(epoch, samples)

    def state_dict(self) -> dict[str, int]:
        """Where this process is in its own part of the epoch, for torchdata's StatefulDataLoader."""
        if self._pass is None:
            return {"epoch": self._epochs.last + 1, "worker": self._place().worker, "samples": 0}
        done = self._pass.done
        if not self._pass.ended:
            ahead = self._batched and done > 0  # `batched` hands on a batch when it sees the sample behind it
            done = (done - ahead) // self._batch_size * self._batch_size
        return {"epoch": self._pass.epoch, "worker": self._pass.place.worker, "samples": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass of this process go on where `state_dict` was taken."""
        self._go_on = dict(state)

    def __iter__(self) -> Iterator[Any]:
        """Begin a pass."""
        begun = self._begin()  # now, not at the first sample: the workers of a loader begin passes in step
        stream = self._through_all(begun)
        return islice(stream, self.nsamples) if self.repetitions != 1 and self.nsamples > 0 else stream

    def iterator1(self) -> Iterator[Any]:
        """One epoch through all stages."""
        return self._through(self._begin(), 0)

    def batched(self, batchsize: int, *args: Any, **options: Any) -> PrunedDataset:
        """Batches, as webdataset makes them; workers read whole ones."""
        partial = bool(options.get("partial", args[1] if len(args) > 1 else True))
        return self._grouped(super().batched(batchsize, *args, **options), batchsize, partial=partial)

    def listed(self, batchsize: int, *args: Any, **options: Any) -> PrunedDataset:
        """Lists of samples, as webdataset makes them; workers read whole ones."""
        return self._grouped(super().listed(batchsize, *args, **options), batchsize, partial=True)

    def unbatched(self) -> PrunedDataset:
        """Single samples again."""
        return self._uncounted(super().unbatched())

    def unlisted(self) -> PrunedDataset:
        """Single samples again."""
        return self._uncounted(super().unlisted())

    def select(self, predicate: Any, **options: Any) -> PrunedDataset:
        """Samples that fulfil a condition; there is no ``len()`` any more."""
        return self._uncounted(super().select(predicate, **options))

    def slice(self, *args: Any) -> PrunedDataset:
        """Some of each worker's samples; there is no ``len()`` any more."""
        return self._uncounted(super().slice(*args))

    def rsample(self, p: float = 0.5) -> PrunedDataset:
        """Samples drawn at random; there is no ``len()`` any more."""
        return self._uncounted(super().rsample(p))

    def _grouped(self, made: Any, size: int, *, partial: bool) -> PrunedDataset:
        if self._batched or self._items is None:
            return self._uncounted(made)
        made._items, made._batch_size, made._batched = (size, partial), size, True
        return made

    def _uncounted(self, made: Any) -> PrunedDataset:
        made._items = None
        return made

    def _place(self) -> Place:
        rank, world_size, worker, workers = pytorch_worker_info()
        if world_size == 1:
            rank, world_size = self._found_ranks
        if self._given_ranks is not None:
            rank, world_size = self._given_ranks
        return Place(rank, world_size, worker, workers)

    def _of_rank(self) -> Share:
        return rank_share(self._reading.n_samples, self._place(), equal=self._equal_ranks)

    @property
    def _reading(self) -> Reading:
        return self.pipeline[0]

    def _refuse_broken_batch(self, samples: int) -> None:
        if samples % self._batch_size and samples != self._of_rank().size:
            raise UsageError(
                f"resume with {samples:,} samples, which are no whole number of batches of {self._batch_size}; "
                "give the samples of the batches that the loader has handed over"
            )

    def _begin(self) -> Pass:
        place, rank = self._place(), self._of_rank()
        if self._go_on is not None:
            state, self._go_on = self._go_on, None
            epoch, done = self._epochs.begin(state["epoch"])[0], state["samples"]
            place = place._replace(worker=state["worker"])
        else:
            epoch, read = self._epochs.begin()
            self._refuse_broken_batch(read)
            place, batches = after(place, -(-read // self._batch_size))
            done = batches * self._batch_size
        share = worker_share(rank, place, self._batch_size)
        if done and self.repetitions != 1:
            raise UsageError("an epoch cannot be resumed behind repeat or with_epoch; leave these away")
        self._pass = Pass(epoch, place, share, min(done, share.size))
        return self._pass

    def _through_all(self, begun: Pass) -> Iterator[Any]:
        for repetition in range(self.repetitions):
            empty = True
            for sample in self._through(begun, repetition):
                empty = False
                yield sample
            if empty:
                return

    def _through(self, begun: Pass, repetition: int) -> Iterator[Any]:
        source = self._reading.samples(begun, repetition)
        for step in self.pipeline[1:]:
            source = self.invoke(step, source)
        return source
