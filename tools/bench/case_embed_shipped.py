"""Embed with the shipped encoder, against what forward passes and decoding alone allow together."""

from __future__ import annotations

from bench.bound import against_bound
from bench.context import Context
from bench.rows import Row

__all__ = ["measure"]


def measure(context: Context) -> list[Row]:
    return against_bound(context, "embed_shipped", context.corpus, context.encoder, target="ratio >= 0.85", cold=True)
