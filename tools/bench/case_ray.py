"""Embed with the shipped encoder in actors of Ray, against worker processes of the local executor, as many of each."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from bench.bound import Embedding, resolved
from bench.context import Context, interleave
from bench.rows import Row, compared
from sspruning.records import EncoderSpec
from sspruning.storage.corpus import Corpus

__all__ = ["measure"]

STARTS = 3  # each takes a while, and says little about a run of hours


def _parts(store: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.glob("parts/*.h5"))}


def _dtype_pinned(context: Context) -> EncoderSpec:
    """The encoder with the number type that this machine's probe comes to, so that both sides use one."""
    with Embedding(context, Corpus(context.corpus.shards[:1]), context.encoder, "probe-store") as probe:
        probe.warm()
        return resolved(context.encoder, probe.store)


def measure(context: Context) -> list[Row]:
    corpus, places = context.corpus, {"ray": "local", "local": None}
    spec = _dtype_pinned(context)
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Embedding(context, corpus, spec, f"{name}-store", name, address))
            for name, address in places.items()
        }
        cold = interleave(
            min(STARTS, context.repeats), {name: side.cold for name, side in sides.items()}, warm_up=False
        )
        warm = interleave(context.repeats, {name: side.warm for name, side in sides.items()})
        if _parts(sides["ray"].store) != _parts(sides["local"].store):
            raise RuntimeError("the two executors did not write the same parts")
        count = sides["ray"].count
    what = f"embed, {context.workers} workers, {count} images"
    facts = f"ray {version('ray')}, started for the run on this machine; {spec.dtype} both, equal parts"
    return [
        compared(
            "ray", f"{what}, warm workers: wall", "s", warm["ray"], "s, local executor", warm["local"],
            target="ratio <= 1.1", note=facts,
        ),
        compared(
            "ray", f"{what}, start-up included: wall", "s", cold["ray"], "s, local executor", cold["local"],
            note="Ray's processes, workers, their libraries and the encoder have yet to start",
        ),
    ]  # fmt: skip
