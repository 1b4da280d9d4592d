"""What a benchmark says: one row a figure, judged against its target, kept in ``results.csv``."""

from __future__ import annotations

import csv
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["COLUMNS", "Row", "alone", "append_rows", "compared", "print_rows"]

COLUMNS = (
    "date", "commit", "machine", "case", "what", "value", "unit", "baseline", "baseline_value", "ratio", "target",
    "repeats", "spread", "note",
)  # fmt: skip
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: medians, and the spread of its repeats."""

    case: str
    what: str
    value: float
    unit: str
    baseline: str = ""
    baseline_value: float | None = None
    target: str = ""
    """``ratio >= 10`` or ``value <= 2.5``; empty for a figure that is shown but not judged."""
    repeats: int = 1
    spread: tuple[float, float] | None = None
    """Smallest and largest ratio of a pair of neighbouring repeats; of the value where there is no baseline."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value over baseline value."""
        return self.value / self.baseline_value if self.baseline_value else None

    @property
    def verdict(self) -> str:
        """``pass`` or ``short``; empty without a target."""
        if not self.target:
            return ""
        subject, comparison, limit = self.target.split()
        judged = self.ratio if subject == "ratio" else self.value
        return "pass" if judged is not None and _COMPARISONS[comparison](judged, float(limit)) else "short"


def compared(
    case: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    baseline: str,
    theirs: Sequence[float],
    *,
    target: str = "",
    note: str = "",
) -> Row:
    """Row of values measured in turns with those of a baseline."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Row(
        case=case, what=what, value=median(ours), unit=unit, baseline=baseline, baseline_value=median(theirs),
        target=target, repeats=len(ours), spread=(min(ratios), max(ratios)), note=note,
    )  # fmt: skip


def alone(case: str, what: str, unit: str, values: Sequence[float], *, target: str = "", note: str = "") -> Row:
    """Row of values without a baseline."""
    return Row(
        case=case, what=what, value=median(values), unit=unit, target=target, repeats=len(values),
        spread=(min(values), max(values)), note=note,
    )  # fmt: skip


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def append_rows(path: Path, rows: Sequence[Row], facts: Mapping[str, str]) -> None:
    """Append ``rows`` to the CSV file at ``path``; ``facts`` are date, commit and machine."""
    fresh = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    **facts,
                    "case": row.case,
                    "what": row.what,
                    "value": _short(row.value),
                    "unit": row.unit,
                    "baseline": row.baseline,
                    "baseline_value": _short(row.baseline_value),
                    "ratio": _short(row.ratio),
                    "target": row.target,
                    "repeats": row.repeats,
                    "spread": "" if row.spread is None else "..".join(map(_short, row.spread)),
                    "note": row.note,
                }
            )


def print_rows(rows: Sequence[Row], *, judged: bool = True) -> None:
    """Print ``rows`` as a table, notes below their row; ``judged`` says pass or short where there is a target."""
    head = ("", "case", "what", "value", "baseline", "ratio", "spread", "target")
    lines = [head]
    for row in rows:
        against = f"{_short(row.baseline_value)} {row.baseline}" if row.baseline else ""
        spread = "" if row.spread is None else " .. ".join(map(_short, row.spread))
        value = f"{_short(row.value)} {row.unit}"
        lines.append(
            (row.verdict if judged else "", row.case, row.what, value, against, _short(row.ratio), spread, row.target)
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        if number and rows[number - 1].note:
            print(f"{'':{widths[0]}}    {rows[number - 1].note}")
