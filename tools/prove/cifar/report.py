"""Rows to answers: differences to random with intervals, laws of scaling, compute saved, figures."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from cifar.figures import draw_accuracy, draw_scaling
from cifar.grid import ALL, RANDOM, Cell, Row, read_rows
from sspruning.errors import DataError

__all__ = ["Law", "Summary", "compute_saved", "fit_laws", "summarise", "write_report"]

Choice = tuple[str, str, str, float, int]
"""Schedule, metric, policy, balance, k: a way to choose, whatever the fraction."""
DRAWS = 500  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Summary:
    """One way to choose at one fraction, over its seeds."""

    choice: Choice
    keep: float
    n_train: int
    seeds: int
    mean: float
    sd: float
    """Over seeds; nan for one."""
    difference: float
    """Mean of the paired differences to random of the same schedule, fraction and seed; nan without such a pair."""
    half_width: float
    """Of the 95 % interval of the difference, by Student's t; nan for fewer than two pairs."""


def summarise(rows: list[Row]) -> list[Summary]:
    """A `Summary` for each choice and fraction, sorted by schedule, fraction from large to small, and accuracy."""
    held: dict[tuple[Choice, float], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        held[choice_of(row.cell), row.cell.keep][row.cell.seed] = row
    found = []
    for (choice, keep), by_seed in held.items():
        random = held.get(((choice[0], "none", RANDOM, 0.0, 0), keep), {})
        accuracy = np.array([row.accuracy for row in by_seed.values()])
        pairs = [by_seed[seed].accuracy - random[seed].accuracy for seed in by_seed if seed in random]
        found.append(
            Summary(
                choice,
                keep,
                next(iter(by_seed.values())).n_train,
                len(by_seed),
                float(accuracy.mean()),
                float(accuracy.std(ddof=1)) if len(accuracy) > 1 else float("nan"),
                float(np.mean(pairs)) if pairs else float("nan"),
                half_width(pairs),
            )
        )
    return sorted(found, key=lambda s: (s.choice[0], -s.keep, -s.mean))


def choice_of(cell: Cell) -> Choice:
    """The cell without its fraction and its seed."""
    return cell.schedule, cell.metric, cell.policy, cell.balance, cell.k


def half_width(values: ArrayLike) -> float:
    """Half of the 95 % interval of the mean, by Student's t; nan for fewer than two values."""
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float("nan")
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


@dataclass(frozen=True, slots=True)
class Law:
    """A law of the test error against the number of training images, fitted by least squares of the logarithms."""

    name: str
    """power: a * n ** -b; exponential: a * exp(-b * n / 50,000)."""
    a: float
    b: float
    b_low: float
    b_high: float
    """95 % interval of b, by bootstrap over the runs."""
    aic: float
    """Akaike's criterion; smaller = better. A difference below 2 says nothing."""
    points: int


def fit_laws(n_train: ArrayLike, error: ArrayLike) -> list[Law]:
    """Both laws, each with two parameters, fitted to the same runs by the same procedure.

    Args:
        n_train: (m,) images of each run, at least three different numbers.
        error: (m,) test error of each run, in (0, 1].

    Raises:
        DataError: too few sizes to tell one law from another.
    """
    n, error = np.asarray(n_train, np.float64), np.asarray(error, np.float64)
    if len(np.unique(n)) < 3:
        raise DataError(f"{len(np.unique(n))} sizes do not tell one law from another; run more cells")
    found = []
    for name, scale in (("power", np.log(n)), ("exponential", n / 50_000)):
        intercept, slope = _line(scale, np.log(error))
        residual = np.log(error) - intercept - slope * scale
        aic = len(n) * np.log(max(np.mean(residual**2), 1e-12)) + 2 * 3  # two coefficients and the spread
        rng = np.random.default_rng(0)
        slopes = []
        while len(slopes) < DRAWS:
            drawn = rng.integers(0, len(n), len(n))
            if len(np.unique(n[drawn])) > 1:
                slopes.append(_line(scale[drawn], np.log(error[drawn]))[1])
        low, high = np.percentile(slopes, (2.5, 97.5))
        found.append(Law(name, float(np.exp(intercept)), -slope, -float(high), -float(low), float(aic), len(n)))
    return found


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope)


def compute_saved(summaries: list[Summary]) -> list[tuple[Summary, float, float]]:
    """At fixed epochs, what random needs for the accuracy of each choice: (summary, fraction of random, share saved).

    The random curve, the full set at its end, is interpolated linearly; accuracies beyond its ends are left out. At
    fixed epochs compute is in proportion to the fraction, so the share saved is 1 - keep / fraction of random.
    """
    curve = sorted({(s.mean, s.keep) for s in summaries if s.choice[0] == "epochs" and s.choice[2] in {ALL, RANDOM}})
    if len(curve) < 2:
        return []
    accuracy, keep = (np.array(column) for column in zip(*curve, strict=True))
    found = []
    for summary in summaries:
        inside = accuracy[0] <= summary.mean <= accuracy[-1]
        if summary.choice[0] == "epochs" and summary.choice[2] not in {ALL, RANDOM} and inside:
            needed = float(np.interp(summary.mean, accuracy, keep))
            found.append((summary, needed, 1 - summary.keep / needed))
    return found


def best_rows(rows: list[Row], label_free: set[str]) -> list[Row]:
    """Runs of the best label-free choice at each size, at fixed epochs: the Pareto frontier of the runs made."""
    summaries = [s for s in summarise(rows) if s.choice[0] == "epochs" and s.choice[1] in label_free]
    best = {}
    for summary in sorted(summaries, key=lambda s: s.mean):
        best[summary.keep] = summary.choice
    return [row for row in rows if best.get(row.cell.keep) == choice_of(row.cell)]


def write_report(folder: Path) -> list[Path]:
    """Paths of the tables and figures, which now tell of the rows of ``folder/cifar10.csv``.

    Raises:
        DataError: there are no rows.
    """
    rows = read_rows(folder / "cifar10.csv")
    if not rows:
        raise DataError(f"{folder / 'cifar10.csv'}: no rows; make some with `cifar10.py run`")
    summaries = summarise(rows)
    made = [folder / name for name in ("cifar10-summary.csv", "cifar10-saved.csv", "cifar10-laws.csv")]
    with made[0].open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        head = ("schedule", "metric", "policy", "balance", "k", "keep", "n_train", "seeds", "mean", "sd")
        writer.writerow([*head, "minus_random", "half_width_95"])
        for s in summaries:
            figures = (s.mean, s.sd, s.difference, s.half_width)
            writer.writerow([*s.choice, s.keep, s.n_train, s.seeds, *(f"{value:.4f}" for value in figures)])
    with made[1].open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["metric", "policy", "balance", "k", "keep", "mean", "random_needs", "compute_saved"])
        for s, needed, saved in compute_saved(summaries):
            writer.writerow([*s.choice[1:], s.keep, f"{s.mean:.4f}", f"{needed:.3f}", f"{saved:.3f}"])
    random = [row for row in rows if row.cell.schedule == "epochs" and row.cell.policy in {ALL, RANDOM}]
    free = {row.cell.metric for row in rows if row.cell.metric.startswith(("ssl", "none"))}
    curves = {"random": random, "best label-free": best_rows(rows, free)}
    laws = {}
    with made[2].open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["runs_of", "law", "a", "b", "b_low_95", "b_high_95", "aic", "runs"])
        for name, held in curves.items():
            if len({row.n_train for row in held}) < 3:
                continue
            laws[name] = fit_laws([row.n_train for row in held], [1 - row.accuracy for row in held])
            for law in laws[name]:
                figures = (law.a, law.b, law.b_low, law.b_high, law.aic)
                writer.writerow([name, law.name, *(f"{value:.4g}" for value in figures), law.points])
    made.append(draw_accuracy(summaries, folder / "cifar10-accuracy.png"))
    made.append(draw_scaling(curves, laws, folder / "cifar10-scaling.png"))
    return made
