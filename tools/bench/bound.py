"""The combined bound: what forward passes alone and decoding alone allow, each measured with all cores."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import cast

import numpy as np

from bench.context import Context, interleave, seconds
from bench.crew import Crew
from bench.rows import Row, alone, compared
from sspruning.config import CorpusConfig
from sspruning.execution import make_executor
from sspruning.records import EncoderSpec
from sspruning.stages.embed import embed
from sspruning.storage.corpus import Corpus
from sspruning.storage.store import Store

__all__ = ["Embedding", "ForwardOnly", "against_bound", "prepared_images", "resolved"]

FORWARD = "bench.jobs:forward"


class Embedding:
    """Our side: the embed stage on a corpus, every time into an empty store, with workers that stay warm.

    The store's path stays the same, because a worker keeps its encoder as long as nothing it was built for changes.
    """

    def __init__(
        self,
        context: Context,
        corpus: Corpus,
        spec: EncoderSpec,
        name: str,
        executor: str = "local",
        address: str | None = None,
    ) -> None:
        self._corpus, self._spec = corpus, spec
        self._place = partial(make_executor, executor, context.workers, address=address)
        self.store = context.folder(name) / "store"
        self.count = 0
        self._executor = self._place()

    def __enter__(self) -> Embedding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.close()

    def warm(self) -> float:
        """Seconds with workers that have their encoder."""
        shutil.rmtree(self.store, ignore_errors=True)
        return seconds(self._embed)

    def cold(self) -> float:
        """Seconds with workers that have yet to start; they go on to serve `warm`."""
        self._executor.close()
        self._executor = self._place()
        return self.warm()

    def _embed(self) -> None:
        report = embed(self._corpus, self.store, self._spec, CorpusConfig(), self._executor)
        if report.skipped or report.quarantined:
            raise RuntimeError(f"not all samples were embedded: {report}")
        self.count = report.n_embedded


def resolved(spec: EncoderSpec, store: Path) -> EncoderSpec:
    """``spec`` with the number type that a store was made with, so that both sides of a comparison use one."""
    identity = cast("dict[str, object]", Store(store).settings["encoder"])
    return replace(spec, dtype=str(identity["dtype"]))


def prepared_images(context: Context, corpus: Corpus, spec: EncoderSpec, name: str) -> Path:
    """Array file with all images of the corpus as the encoder's forward pass takes them."""
    folder = context.folder(name)
    with Crew(context.workers, 1, "bench.jobs:prepare", spec=spec, folder=str(folder)) as crew:
        _, count = crew.run([(number, shard.path) for number, shard in enumerate(corpus.shards)])
    pieces = sorted(folder.glob("[0-9]*.npy"))
    first = np.load(pieces[0], mmap_mode="r")
    target = folder / "images.npy"
    whole = np.lib.format.open_memmap(target, mode="w+", dtype=first.dtype, shape=(count, *first.shape[1:]))
    at = 0
    for piece in pieces:
        images = np.load(piece)
        whole[at : at + len(images)] = images
        at += len(images)
        piece.unlink()
    whole.flush()
    return target


class ForwardOnly:
    """The encoder on prepared images in memory, batch by batch: processes x threads that use all cores."""

    def __init__(self, spec: EncoderSpec, images: Path, processes: int, threads: int) -> None:
        count = len(np.load(images, mmap_mode="r"))
        self._batches = [(at, min(at + spec.batch_size, count)) for at in range(0, count, spec.batch_size)]
        self._crew = Crew(processes, threads, FORWARD, spec=spec, images=str(images))
        self.name = f"{processes} processes x {threads} threads"

    def __enter__(self) -> ForwardOnly:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.__exit__(kind, error, trace)

    def seconds(self) -> float:
        """Wall time for all images."""
        return self._crew.run(self._batches)[0]


def against_bound(
    context: Context, case: str, corpus: Corpus, spec: EncoderSpec, *, target: str, cold: bool
) -> list[Row]:
    """Rows of the embed stage on ``corpus`` against 1/(1/forward-only + 1/decode-and-preprocess-only).

    Args:
        context: settings.
        case: name in the rows.
        corpus: what is embedded.
        spec: the encoder.
        target: of the judged row.
        cold: also measure with workers that have yet to start.
    """
    cores = context.workers
    with ExitStack() as stack:
        ours = stack.enter_context(Embedding(context, corpus, spec, f"{case}-store"))
        ours.cold()
        spec = resolved(spec, ours.store)
        images = prepared_images(context, corpus, spec, f"{case}-images")
        layouts = {(cores, 1), (1, cores)}
        forwards = [stack.enter_context(ForwardOnly(spec, images, *layout)) for layout in sorted(layouts, reverse=True)]
        decoder = stack.enter_context(Crew(cores, 1, "bench.jobs:decode", spec=spec))
        paths = [shard.path for shard in corpus.shards]
        sides = {"ours": ours.warm, **{forward.name: forward.seconds for forward in forwards}}
        sides["decode"] = lambda: decoder.run(paths)[0]
        if cold:
            sides["cold"] = ours.cold
        times = interleave(context.repeats, sides)
    count = ours.count
    best = min((forward.name for forward in forwards), key=lambda name: median(times[name]))
    return _rows(case, times, count, best, target, f"{count} images, {cores} local workers, {spec.dtype}")


def _rows(case: str, times: dict[str, list[float]], count: int, best: str, target: str, note: str) -> list[Row]:
    def rates(taken: Sequence[float]) -> list[float]:
        return [count / value for value in taken]

    bound = rates([f + d for f, d in zip(times[best], times["decode"], strict=True)])
    others = [name for name in times if " processes x " in name and name != best]
    rows = [
        compared(
            case, "embed, warm workers", "images/s", rates(times["ours"]),
            "images/s, 1/(1/forward-only + 1/decode-only)", bound, target=target, note=note,
        ),
        alone(case, f"forward-only, best: {best}", "images/s", rates(times[best])),
        *(alone(case, f"forward-only, {name}", "images/s", rates(times[name])) for name in others),
        alone(case, "decode-and-preprocess only", "images/s", rates(times["decode"])),
    ]  # fmt: skip
    if "cold" in times:
        added = [cold - warm for cold, warm in zip(times["cold"], times["ours"], strict=True)]
        rows.append(alone(case, "start-up: cold workers minus warm workers", "s", added))
    return rows
