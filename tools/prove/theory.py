#!/usr/bin/env python
"""The theory behind pruning: a perceptron learns from a teacher, from all examples or from the hard or easy ones.

    OMP_NUM_THREADS=1 python tools/prove/theory.py    # under five minutes; threads do not help

Sorscher et al. 2022 (arXiv:2206.14486): examples x ~ N(0, I_N), labels y = sign(T.x) of a random teacher T, and
P = alpha_tot * N of them. A probe J at angle theta to T scores each by its margin J.(y x); theta = 0 is a perfect
metric. The fraction f with the smallest margins (hard), the largest (easy) or a random one is kept, which leaves
alpha_prune = f * alpha_tot examples per dimension. The student is the max-margin solution through the origin; its test
error is its angle to T over pi.

Writes theory-table.csv, theory-curves.csv (the data of the pictures), theory-pareto.png and theory-flip.png.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Rows = Sequence[Mapping[str, Any]]
Point = tuple[float, float]

# Mean test error of an earlier implementation: N = 100, 8 draws, the seeds of `draw_problem`, so teachers and examples
# are the same; probes and random subsets are others, which is what TOLERANCE is for.
# (theta, alpha_tot): all, random f=.3, random f=.6, hard f=.3, hard f=.6, easy f=.3, easy f=.6
REFERENCE = {
    (0, 1.5): (0.216, 0.332, 0.275, 0.444, 0.309, 0.223, 0.201),
    (0, 3): (0.145, 0.273, 0.197, 0.397, 0.156, 0.164, 0.138),
    (0, 6): (0.075, 0.197, 0.125, 0.149, 0.076, 0.102, 0.083),
    (0, 10): (0.044, 0.135, 0.077, 0.045, 0.044, 0.068, 0.053),
    (20, 1.5): (0.216, 0.332, 0.275, 0.433, 0.315, 0.252, 0.220),
    (20, 3): (0.145, 0.273, 0.197, 0.393, 0.193, 0.195, 0.170),
    (20, 6): (0.076, 0.197, 0.125, 0.328, 0.080, 0.156, 0.136),
    (20, 10): (0.044, 0.136, 0.077, 0.190, 0.045, 0.128, 0.119),
}
COLUMNS = (("all", 1.0), *((keep, f) for keep in ("random", "hard", "easy") for f in (0.3, 0.6)))
TOLERANCE = 0.015

PARETO_FRACTIONS = (1.0, 0.6, 0.4, 0.25, 0.15, 0.1, 0.05)
PARETO_ALPHAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 4.8)  # alpha_prune; alpha_tot < 100 keeps seeds apart
FLIP_FRACTION, FLIP_THETAS = 0.6, (0, 20)
FLIP_ALPHAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0)  # alpha_tot

SWEEPS = 5  # of coordinate descent between two exact steps
MAX_ROUNDS = 500  # 10 to 40 were needed up to alpha_tot = 60
RIDGE = 1e-12  # relative; more rows than dimensions may be in the support while it is being found

ACCENT, INK, GREY = "#c2410c", "#292524", "#a8a29e"
TITLE = {"x": 0.01, "ha": "left", "fontsize": 10, "weight": "bold"}
CURVE_FIELDS = ("figure", "theta", "alpha_tot", "fraction", "alpha_prune", "keep", "draws", "mean", "sd")
CURVE_FIELDS += ("minus_random", "minus_random_sd")


class Problem(NamedTuple):
    """One draw: unit ``teacher`` (N,), ``rows`` y*x (P, N), ``aside`` (N,) unit and normal to it, ``order`` (P,)."""

    teacher: F64
    rows: F64
    aside: F64
    order: I64


def draw_problem(dim: int, alpha_tot: float, draw: int) -> Problem:
    """Teacher, examples, the direction in which the probe leaves the teacher, a random order: drawn in this order."""
    rng = np.random.RandomState(1000 * draw + int(10 * alpha_tot))
    count = round(alpha_tot * dim)
    teacher = rng.standard_normal(dim)
    teacher /= np.linalg.norm(teacher)
    examples = rng.standard_normal((count, dim))
    rows = examples * np.sign(examples @ teacher)[:, None]
    aside = rng.standard_normal(dim)
    aside -= (aside @ teacher) * teacher
    return Problem(teacher, rows, aside / np.linalg.norm(aside), rng.permutation(count))


def kept_rows(problem: Problem, keep: str, fraction: float, theta: float) -> I64:
    """Numbers of the round(fraction * P) rows that pruning keeps; ``theta`` in degrees."""
    count = round(fraction * len(problem.rows))
    if keep in ("all", "random"):
        return problem.order[:count]
    angle = np.radians(theta)
    margins = problem.rows @ (np.cos(angle) * problem.teacher + np.sin(angle) * problem.aside)
    easiest_last = np.argsort(margins, kind="stable")
    return easiest_last[:count] if keep == "hard" else easiest_last[len(margins) - count :]


def max_margin(rows: F64, tolerance: float = 1e-6) -> tuple[F64, F64]:
    """The shortest weights (N,) with rows.weights >= 1, and their duals (P,) >= 0: weights = duals.rows.

    The hard-margin solution without bias, by dual coordinate descent. It soon finds which rows support the margin, but
    needs thousands of sweeps to find how much. So after a few sweeps over the support and the most violated rows the
    duals move towards the solution of the support's linear system. Neither step lowers the dual objective.

    Args:
        rows: (P, N) label times example; some direction must have a positive product with all.
        tolerance: the most by which rows.weights may fall below 1.

    Raises:
        ArithmeticError: no solution within ``MAX_ROUNDS``: the rows are not separable, or barely.
    """
    duals, weights = np.zeros(len(rows)), np.zeros(rows.shape[1])
    squares = np.einsum("ij,ij->i", rows, rows)
    for _ in range(MAX_ROUNDS):
        slack = rows @ weights - 1
        if slack.min() >= -tolerance:
            return weights, duals
        violated = np.argsort(slack, kind="stable")[: rows.shape[1]]
        active = np.union1d(np.flatnonzero(duals), violated[slack[violated] < 0])
        _sweep(rows, squares, active, duals, weights)
        _solve_support(rows, duals)
        weights = duals @ rows
    raise ArithmeticError(f"no margin found for {rows.shape} rows in {MAX_ROUNDS} rounds; are they separable?")


def _sweep(rows: F64, squares: F64, active: I64, duals: F64, weights: F64) -> None:
    """Set each dual of ``active`` in turn to its optimum; ``duals`` and ``weights`` change in place."""
    for _ in range(SWEEPS):
        for at in active:
            new = max(0.0, duals[at] + (1 - rows[at] @ weights) / squares[at])
            if new != duals[at]:
                weights += (new - duals[at]) * rows[at]
                duals[at] = new
    return weights


def _solve_support(rows: F64, duals: F64) -> None:
    """Move the duals, in place, to where all margins of those that stay positive are 1."""
    while len(support := np.flatnonzero(duals)):
        gram = rows[support] @ rows[support].T
        gram[np.diag_indices_from(gram)] *= 1 + RIDGE
        now, goal = duals[support], np.linalg.solve(gram, np.ones(len(support)))
        if not len(leaving := np.flatnonzero(goal < 0)):
            duals[support] = goal
            return
        steps = now[leaving] / (now[leaving] - goal[leaving])
        moved = now + steps.min() * (goal - now)
        moved[leaving[steps <= steps.min()]] = 0
        duals[support] = np.maximum(moved, 0)


@functools.cache
def student_error(dim: int, alpha_tot: float, keep: str, fraction: float, theta: float, draw: int) -> float:
    """Test error of one student: the share of inputs on which it and the teacher disagree."""
    problem = draw_problem(dim, alpha_tot, draw)
    weights, _ = max_margin(problem.rows[kept_rows(problem, keep, fraction, theta)])
    return float(np.arccos(np.clip(weights @ problem.teacher / np.linalg.norm(weights), -1, 1)) / np.pi)


def errors(dim: int, alpha_tot: float, keep: str, fraction: float, theta: float, draws: int) -> F64:
    """Test errors (draws,); ``theta`` plays no part without a probe, and without pruning ``keep`` plays none."""
    keep = "all" if fraction == 1 else keep
    theta = 0 if keep in ("all", "random") else theta
    return np.asarray([student_error(dim, alpha_tot, keep, fraction, theta, draw) for draw in range(draws)])


def moments(values: F64, mean: str = "mean", sd: str = "sd") -> dict[str, float]:
    """Mean and standard deviation over draws (0 for a single one), under these names."""
    return {mean: float(values.mean()), sd: float(values.std(ddof=1)) if len(values) > 1 else 0.0}


def table(dim: int, draws: int, more_draws: int) -> list[dict[str, Any]]:
    """A row for each cell of ``REFERENCE``: mean and sd over ``draws``, and over ``more_draws``, less noisy."""
    made = []
    for (theta, alpha_tot), references in REFERENCE.items():
        for (keep, fraction), reference in zip(COLUMNS, references, strict=True):
            few = moments(errors(dim, alpha_tot, keep, fraction, theta, draws))
            many = moments(errors(dim, alpha_tot, keep, fraction, theta, more_draws), "more_mean", "more_sd")
            row = {"theta": theta, "alpha_tot": alpha_tot, "keep": keep, "fraction": fraction, "dim": dim}
            row |= {"draws": draws, **few, "reference": reference, "difference": few["mean"] - reference}
            made.append(row | {"more_draws": more_draws, **many, "more_difference": many["more_mean"] - reference})
    return made


def pareto(dim: int, draws: int, alphas: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Rows of the first picture: keep hard with a perfect metric, then for each alpha_prune the best fraction's row."""
    for alpha_prune in alphas:
        made = []
        for fraction in PARETO_FRACTIONS:
            alpha_tot = round(alpha_prune / fraction, 6)
            found = errors(dim, alpha_tot, "hard", fraction, 0, draws)
            row = {"figure": "pareto", "theta": 0, "alpha_tot": alpha_tot, "fraction": fraction, "keep": "hard"}
            made.append(row | {"alpha_prune": alpha_prune, "draws": draws} | moments(found))
        yield from made
        yield min(made, key=lambda row: row["mean"]) | {"figure": "pareto-envelope"}


def flip(dim: int, draws: int, alphas: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Rows of the second picture: every way to keep ``FLIP_FRACTION``, and where in alpha_tot hard begins to win."""
    for theta in FLIP_THETAS:
        gains: dict[str, list[float]] = {"random": [], "easy": [], "hard": []}
        common = {"theta": theta, "fraction": FLIP_FRACTION, "draws": draws}
        for alpha_tot in alphas:
            chance = errors(dim, alpha_tot, "random", FLIP_FRACTION, theta, draws)
            for keep in ("random", "easy", "hard"):
                found = errors(dim, alpha_tot, keep, FLIP_FRACTION, theta, draws)
                row = common | {"figure": "flip", "alpha_tot": alpha_tot, "alpha_prune": FLIP_FRACTION * alpha_tot}
                row |= {"keep": keep} | moments(found) | moments(found - chance, "minus_random", "minus_random_sd")
                gains[keep].append(row["minus_random"])
                yield row
        hard, easy = np.asarray(gains["hard"]), np.asarray(gains["easy"])
        for name, gap, height in (("hard=random", hard, 0 * hard), ("hard=easy", hard - easy, hard)):
            if (crossing := first_crossing(np.asarray(alphas), gap)) is not None:
                row = common | {"figure": "flip-crossing", "alpha_tot": crossing, "keep": name}
                level = float(np.interp(np.log(crossing), np.log(alphas), height))
                yield row | {"alpha_prune": FLIP_FRACTION * crossing, "minus_random": level}


def first_crossing(alphas: F64, gap: F64) -> float | None:
    """Where ``gap`` first falls through 0, by a straight line in log alpha; None where it does not."""
    for at in range(1, len(gap)):
        if gap[at - 1] > 0 >= gap[at]:
            low, high = np.log(alphas[at - 1]), np.log(alphas[at])
            return float(np.exp(low + (high - low) * gap[at - 1] / (gap[at - 1] - gap[at])))
    return None


def draw_pareto(path: Path, rows: Rows, dim: int) -> None:
    """Write the first picture."""
    figure, (axes,) = _canvas(1, (7.2, 4.8))
    for rank, fraction in enumerate(PARETO_FRACTIONS):
        xs, ys = _curve(rows, "alpha_prune", "mean", figure="pareto", fraction=fraction)
        shade = INK if fraction == 1 else str(0.45 + 0.3 * rank / len(PARETO_FRACTIONS))
        axes.plot(xs, ys, color=shade, linewidth=1.8 if fraction == 1 else 1.1, marker="o", markersize=3)
        _label(axes, "f = 1, no pruning" if fraction == 1 else f"f = {fraction:g}", (xs[-1], ys[-1]), INK)
    xs, ys = _curve(rows, "alpha_prune", "mean", figure="pareto-envelope")
    axes.plot(xs, ys, color=ACCENT, linewidth=5, alpha=0.45, zorder=1, solid_capstyle="round")
    _label(axes, "best f at each size", (xs[len(xs) // 2], ys[len(xs) // 2]), ACCENT, (-10, -6), "right")
    axes.set(xscale="log", yscale="log", xlim=(xs[0] * 0.93, xs[-1] * 1.6))
    _ticks(axes.xaxis, (0.5, 1, 2, 3, 4, 5))
    _ticks(axes.yaxis, (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
    axes.set(xlabel="kept examples per dimension, alpha_prune = f · alpha_tot", ylabel="test error")
    figure.suptitle(
        f"Keep the hardest fraction f, perfect metric (N = {dim}, mean of {rows[0]['draws']} draws)", **TITLE
    )
    figure.savefig(path, metadata={"Software": None})


def draw_flip(path: Path, rows: Rows, dim: int) -> None:
    """Write the second picture."""
    figure, panels = _canvas(len(FLIP_THETAS), (9.6, 4.2))
    for axes, theta in zip(panels, FLIP_THETAS, strict=True):
        axes.axhline(0, color=GREY, linewidth=1)
        for keep, colour, below in (("easy", INK, 1), ("hard", ACCENT, 8)):
            mine = {"figure": "flip", "theta": theta, "keep": keep}
            xs, ys = _curve(rows, "alpha_tot", "minus_random", **mine)
            error = _curve(rows, "alpha_tot", "minus_random_sd", **mine)[1] / np.sqrt(rows[0]["draws"])
            axes.errorbar(xs, ys, error, color=colour, linewidth=1.6, marker="o", markersize=3.5, capsize=2)
            _label(axes, f"keep {keep}", (xs[-1], ys[-1]), colour, (6, -below))
        for name, offset, side in (("hard=random", (-10, -28), "right"), ("hard=easy", (4, -44), "center")):
            marks = _curve(rows, "alpha_tot", "minus_random", figure="flip-crossing", theta=theta, keep=name)
            for x, y in zip(*marks, strict=True):
                axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=ACCENT, markeredgewidth=1.5)
                _label(axes, f"{name.replace('=', ' = ')}\nat {x:.1f}", (x, y), INK, offset, side)
        axes.set(xscale="log", xlim=(0.9, 27), xlabel="examples per dimension before pruning, alpha_tot")
        _ticks(axes.xaxis, (1, 2, 3, 4, 6, 10, 15))
        axes.set_title(f"theta = {theta}°, {'an imperfect' if theta else 'a perfect'} metric", loc="left", fontsize=10)
    panels[0].set_ylabel("test error minus that of random pruning")
    figure.suptitle(f"Keep {FLIP_FRACTION:.0%}: below 0 beats random (N = {dim}, mean and standard error)", **TITLE)
    figure.savefig(path, metadata={"Software": None})


def _canvas(panels: int, size: Point) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, dpi=130, facecolor="white", layout="constrained")
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure, list(grid)


def _ticks(axis: Axis, values: Sequence[float]) -> None:
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def _label(axes: Axes, text: str, at: Point, colour: str, offset: Point = (6, -3), side: str = "left") -> None:
    axes.annotate(text, at, offset, textcoords="offset points", ha=side, fontsize=9, color=colour)


def _curve(rows: Rows, x: str, y: str, **equal: object) -> tuple[F64, F64]:
    found = [(row[x], row[y]) for row in rows if all(row.get(key) == value for key, value in equal.items())]
    points = np.asarray(sorted(found), np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def write_csv(path: Path, rows: Rows, fields: Sequence[str]) -> None:
    """Six significant digits; a field that a row lacks stays empty."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(fields)
        for row in rows:
            values = (row.get(field, "") for field in fields)
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--draws", type=int, default=8, help="of the comparison with the reference (default %(default)s)")
    add("--more-draws", type=int, default=40, help="of the pictures and the less noisy means (default %(default)s)")
    add("--dim", type=int, default=100, help="N; the reference has 100 (default %(default)s)")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder (default: results/ beside this)")
    add("--quick", action="store_true", help="at most 2 draws and 20 dimensions, few sizes: seconds, for a look")
    options = parser.parse_args(arguments)
    if min(options.draws, options.more_draws) < 1 or options.dim < 2:
        parser.error("--draws and --more-draws must be at least 1, and --dim at least 2")
    if options.quick:
        options.draws, options.more_draws = min(options.draws, 2), min(options.more_draws, 2)
        options.dim = min(options.dim, 20)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code; prints the table and how far it lies from the reference."""
    options = parse(arguments)
    dim, draws, step = options.dim, options.more_draws, 3 if options.quick else 1
    options.out.mkdir(parents=True, exist_ok=True)
    cells = table(dim, options.draws, draws)
    write_csv(options.out / "theory-table.csv", cells, list(cells[0]))
    print("theta alpha   keep    f   mean     sd    ref    diff   more")
    line = "{theta:5} {alpha_tot:5} {keep:>6} {fraction:4} {mean:6.3f} {sd:6.3f} {reference:6.3f} {difference:+7.4f}"
    print("\n".join(f"{line} {{more_mean:6.3f}}".format(**row) for row in cells))
    far = max(cells, key=lambda row: abs(row["difference"]))
    inside = sum(abs(row["difference"]) <= TOLERANCE for row in cells)
    print(f"{inside} of {len(cells)} cells within {TOLERANCE} of the reference; the farthest {far['difference']:+.4f}")
    rows = [*pareto(dim, draws, PARETO_ALPHAS[::step]), *flip(dim, draws, FLIP_ALPHAS[::step])]
    write_csv(options.out / "theory-curves.csv", rows, CURVE_FIELDS)
    for row in (row for row in rows if row["figure"] == "flip-crossing"):
        print("theta {theta}, f {fraction}: {keep} at alpha_tot {alpha_tot:.2f}".format(**row))
    draw_pareto(options.out / "theory-pareto.png", rows, dim)
    draw_flip(options.out / "theory-flip.png", rows, dim)
    return 0


if __name__ == "__main__":
    sys.exit(main())
