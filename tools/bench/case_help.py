"""``sspruning --help``: wall time of the whole process, beside that of a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys

from bench.context import Context, interleave, seconds
from bench.rows import Row, compared

__all__ = ["measure"]

REPEATS = 11


def measure(context: Context) -> list[Row]:
    def run(*arguments: str) -> float:
        def work() -> None:
            subprocess.run([sys.executable, *arguments], cwd=context.repository, check=True, capture_output=True)

        return seconds(work)

    sides = {"ours": lambda: run("-m", "sspruning", "--help"), "python": lambda: run("-c", "pass")}
    times = interleave(context.repeats if context.smoke else REPEATS, sides)
    return [
        compared(
            "help", "sspruning --help", "s", times["ours"], "s, python -c pass", times["python"],
            target="value < 0.5", note=f"slowest {max(times['ours']):.3f} s",
        )
    ]  # fmt: skip
