"""Which runs make the proof, in order of value, and the table that their results are appended to."""

from __future__ import annotations

import csv
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from cifar.downstream import Recipe, predict, steps_of_full, train
from cifar.images import Labelled, load_labelled
from cifar.subsets import MIXTURES, SSL, Subsets
from sspruning.recipes import RECIPES

__all__ = ["SUPERVISED", "Cell", "Row", "plan", "read_rows", "run_cells"]

ALL, RANDOM = "all", "random"
QUOTED_KEEPS = (0.7, 0.5, 0.3)
SUPERVISED = ("supervised_prototypes", "el2n", "forgetting", "aum", "memorization")
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4, 5, 6, 7)
"""For the one comparison that is close: coverage against random where little is kept."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One downstream run."""

    schedule: str
    """epochs: passes over the subset are fixed; iterations: optimiser steps are."""
    metric: str
    """What the ranks are made from; none for all and random."""
    policy: str
    """A policy of the product, one of its recipes, a mixture, or all."""
    balance: float
    k: int
    """Prototypes; 0: the product's own choice."""
    keep: float
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """A cell and what came of it."""

    cell: Cell
    n_train: int
    steps: int
    accuracy: float
    seconds: float


def plan() -> list[Cell]:
    """Every cell of the grid, the most valuable first; a run with less time than it takes does the first ones.

    Cut by value from the full product of schedules, metrics, policies, fractions and seeds (some 700 runs): fixed
    iterations cost a full run a cell, so they compare random and hard at two fractions; what costs little (10 % kept)
    has all seeds; what no table quotes has one seed and comes last.
    """

    def compare(
        policies: Iterable[tuple[str, str, float]], keeps: Iterable[float], seeds: Iterable[int], *, schedule: str
    ) -> Iterator[Cell]:
        for seed in seeds:
            for keep in keeps:
                yield from (Cell(schedule, metric, policy, floor, 0, keep, seed) for metric, policy, floor in policies)

    random, hard, easy = ("none", RANDOM, 0.0), (SSL, "hard", 0.5), (SSL, "easy", 0.5)
    unbalanced = (SSL, "hard", 0.0)
    recipes = [(SSL, name, 0.0) for name in sorted(RECIPES) if name not in {"sorscher2022", "guarded-hard"}]
    coverage = [(SSL, "coverage", 0.0)]
    mixtures = [(SSL, name, 0.0) for name in MIXTURES]
    supervised = [(metric, "hard", 0.5) for metric in SUPERVISED]
    first, later = SEEDS[:1], SEEDS[1:]
    cells = [
        *(Cell("epochs", "none", ALL, 0.0, 0, 1.0, seed) for seed in SEEDS),
        *compare([random, hard, easy], QUOTED_KEEPS, SEEDS, schedule="epochs"),
        *compare(supervised[:3], QUOTED_KEEPS, first, schedule="epochs"),
        *compare([random, hard], (0.5, 0.3), first, schedule="iterations"),
        *compare(coverage, (0.1, 0.3), first, schedule="epochs"),
        *compare([random, hard, easy], (0.1,), SEEDS, schedule="epochs"),
        *compare([unbalanced], QUOTED_KEEPS, SEEDS, schedule="epochs"),
        *compare(recipes, (0.3,), first, schedule="epochs"),
        *compare(coverage, (0.3, 0.5), later, schedule="epochs"),
        *compare(coverage, (0.1,), later, schedule="epochs"),
        *compare(mixtures, (0.1,), SEEDS, schedule="epochs"),
        *compare([*mixtures, *coverage], (0.3, 0.5), first, schedule="epochs"),
        *compare([random, *coverage], (0.1, 0.3, 0.5), MORE_SEEDS, schedule="epochs"),
        *compare(recipes, (0.7,), first, schedule="epochs"),
        *(Cell("epochs", SSL, "hard", 0.5, k, 0.3, 0) for k in (10, 30, 100, 300, 1000)),
        *compare([random, hard], (0.5, 0.3), later, schedule="iterations"),
        *compare(supervised[:3], QUOTED_KEEPS, later, schedule="epochs"),
        *compare([random, hard, easy], (0.9, 0.8, 0.6), SEEDS, schedule="epochs"),
        *compare(supervised[3:], QUOTED_KEEPS, SEEDS, schedule="epochs"),
    ]
    return list(dict.fromkeys(cells))


def read_rows(path: Path) -> list[Row]:
    """The results in ``path``; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        held = list(csv.DictReader(stream))
    kinds = {"balance": float, "k": int, "keep": float, "seed": int}
    return [
        Row(
            Cell(**{entry.name: kinds.get(entry.name, str)(line[entry.name]) for entry in fields(Cell)}),
            int(line["n_train"]),
            int(line["steps"]),
            float(line["accuracy"]),
            float(line["seconds"]),
        )
        for line in held
    ]


def append_row(path: Path, row: Row, facts: dict[str, str]) -> None:
    """One line more in ``path``."""
    result = {"n_train": row.n_train, "steps": row.steps, "accuracy": f"{row.accuracy:.4f}"}
    line = {**asdict(row.cell), **result, "seconds": f"{row.seconds:.0f}", **facts}
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(line))
        if new:
            writer.writeheader()
        writer.writerow(line)


def run_cell(cell: Cell, data: Labelled, test: Labelled, ranks: np.ndarray | None, recipe: Recipe) -> Row:
    """`Row` of one cell: train on the kept images, test on the unseen ones. ranks: of the images; None keeps all."""
    started = time.perf_counter()
    n = len(data.labels)
    rows = np.arange(n) if ranks is None else np.flatnonzero(ranks < round(cell.keep * n))
    size = min(recipe.batch_size, len(rows))
    steps = recipe.epochs * (len(rows) // size) if cell.schedule == "epochs" else steps_of_full(recipe, n)
    net = train(data, rows, recipe, seed=cell.seed, steps=steps)
    accuracy = float((predict(net, test.pixels).argmax(1) == test.labels).mean())
    return Row(cell, len(rows), steps, accuracy, time.perf_counter() - started)


_HELD: dict[str, Labelled] = {}


def start_worker(caches: dict[str, Path]) -> None:
    """Prepare a worker process: one thread, images in memory."""
    torch.set_num_threads(1)
    _HELD.update({name: load_labelled("", path) for name, path in caches.items()})


def work(cell: Cell, ranks: np.ndarray | None, recipe: Recipe) -> Row:
    """`run_cell` in a worker process."""
    return run_cell(cell, _HELD["train"], _HELD["test"], ranks, recipe)


def run_cells(
    cells: list[Cell],
    subsets: Subsets,
    caches: dict[str, Path],
    recipe: Recipe,
    *,
    workers: int,
    deadline: float,
    done: Callable[[Row], None],
) -> int:
    """Number of cells that were left when no more was begun: all are done, or ``deadline`` (`time.monotonic`) came.

    Args:
        cells: to run, in this order.
        subsets: makes the ranks, in this process.
        caches: files of the images of train and test.
        recipe: of every run.
        workers: processes, one thread each.
        deadline: no cell is begun after it.
        done: told of each row as it comes.
    """
    waiting, running = list(cells), set[Future[Row]]()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=start_worker, initargs=(caches,)) as pool:
        while running or (waiting and time.monotonic() < deadline):
            while waiting and len(running) < workers and time.monotonic() < deadline:
                cell = waiting.pop(0)
                running.add(pool.submit(work, cell, ranks_of(cell, subsets), recipe))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                done(future.result())
    return len(waiting)


def ranks_of(cell: Cell, subsets: Subsets) -> np.ndarray | None:
    """Ranks of the images for a cell; None for all. A random subset is drawn anew for each seed."""
    if cell.policy == ALL:
        return None
    seed = cell.seed if cell.policy == RANDOM else 0
    return subsets.ranks(cell.metric, cell.policy, balance=cell.balance, k=cell.k or None, seed=seed, keep=cell.keep)
