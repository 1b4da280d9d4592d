"""Time and memory of every recipe on a million synthetic rows."""

from __future__ import annotations

from bench.case_recipes import measure_recipes
from bench.context import Context
from bench.rows import Row

__all__ = ["measure"]


def measure(context: Context) -> list[Row]:
    return measure_recipes(context, "recipes_million", parts=40, rows=25_000)
