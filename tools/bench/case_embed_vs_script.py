"""Embed with the shipped encoder, against the script a competent user would write with the same parts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from itertools import product

import numpy as np

from bench.bound import Embedding, resolved
from bench.context import Context, interleave
from bench.crew import Crew
from bench.jobs import Variant
from bench.rows import Row, compared
from sspruning.storage.store import Store

__all__ = ["measure"]

LOADERS = (0, 1, 2)
BATCHES = (128, 256)


def _best(crew: Crew, shards: list[str], *, channels_last: bool, smoke: bool) -> Variant:
    """The fastest variant on a few shards, the better of two tries each, after one for warming up."""
    few = shards[: max(2, len(shards) // 8)]
    choices = [(2, 128)] if smoke else list(product(LOADERS, BATCHES))
    variants = [Variant(few, loaders, batch, channels_last) for loaders, batch in choices]
    crew.run(variants[:1])
    taken = [min(crew.run([variant])[0] for _ in range(2)) for variant in variants]
    return replace(variants[int(np.argmin(taken))], shards=shards)


def _cosines(store: Store, output: str) -> float:
    """Smallest cosine between our embeddings and the script's: both must have computed the same thing."""
    with np.load(output) as found:
        script = dict(zip(found["keys"].tolist(), found["embedding"].astype(np.float32), strict=True))
    ours: dict[str, np.ndarray] = {}
    for chunk in store.chunks():
        ours.update(zip(chunk.keys, chunk.embeddings.astype(np.float32), strict=True))
    if ours.keys() != script.keys():
        raise RuntimeError(f"the script embedded {len(script)} samples, sspruning {len(ours)}")
    return min(float(row @ script[key]) for key, row in ours.items())


def measure(context: Context) -> list[Row]:
    corpus, output = context.corpus, str(context.temp / "script.npz")
    shards = [shard.path for shard in corpus.shards]
    with ExitStack() as stack:
        ours = stack.enter_context(Embedding(context, corpus, context.encoder, "script-store"))
        ours.cold()
        spec = resolved(context.encoder, ours.store)
        crew = stack.enter_context(
            Crew(1, context.workers, "bench.jobs:plain_script", spec=spec, dtype=spec.dtype, output=output)
        )
        tuned = _best(crew, shards, channels_last=True, smoke=context.smoke)
        plain = _best(crew, shards, channels_last=False, smoke=context.smoke)
        sides = {
            "ours": ours.warm,
            "tuned": lambda: crew.run([tuned])[0],
            "plain": lambda: crew.run([plain])[0],
        }
        times = interleave(context.repeats, sides)
        agreement = _cosines(Store(ours.store), output)
    rates = {name: [ours.count / t for t in taken] for name, taken in times.items()}
    best, other = ("tuned", "plain") if np.median(times["tuned"]) < np.median(times["plain"]) else ("plain", "tuned")
    described = {"tuned": tuned.described, "plain": plain.described}
    facts = f"{ours.count} images, {spec.dtype} both; smallest cosine between the two sides' embeddings {agreement:.4f}"
    return [
        compared(
            "embed_vs_script", "embed, warm workers, against the faster script", "images/s", rates["ours"],
            "images/s, plain script", rates[best], target="ratio >= 1.3",
            note=f"script: {described[best]}, model built before the clock starts; {facts}",
        ),
        compared(
            "embed_vs_script", "embed, warm workers, against the other memory layout", "images/s", rates["ours"],
            "images/s, plain script", rates[other], note=f"script: {described[other]}",
        ),
    ]  # fmt: skip
