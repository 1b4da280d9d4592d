#!/usr/bin/env python
"""Does the pruned set train better than a random set of the same size? Real training runs on CIFAR-10.

    python tools/prove/cifar10.py run --train 'cifar10/train-*.tar' --test 'cifar10/test-*.tar' --work runs/prove
    python tools/prove/cifar10.py report

`run` embeds the train images with the shipped encoder, trains the ensemble of the supervised scores if a cell needs
it, and then the grid of downstream networks, the most valuable cells first, for as long as --minutes allow. Each result
is a row of results/cifar10.csv; the same command goes on with what is missing. `report` makes tables and figures of it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent)]

from cifar.downstream import Recipe, SmallResNet  # noqa: E402 - beside this script
from cifar.grid import SUPERVISED, Cell, Row, append_row, plan, read_rows, run_cells  # noqa: E402
from cifar.images import Labelled, load_labelled  # noqa: E402
from cifar.report import write_report  # noqa: E402
from cifar.subsets import SSL, Subsets  # noqa: E402
from cifar.supervised import (  # noqa: E402
    ensemble_scores,
    load_member,
    save_member,
    supervised_prototypes,
    train_member,
)

from sspruning.errors import SSPruningError, UsageError  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is missing")
    run.add_argument("--train", required=True, metavar="SHARDS")
    run.add_argument("--test", required=True, metavar="SHARDS")
    run.add_argument("--work", type=Path, required=True, help="folder for store, scores and caches")
    run.add_argument("--minutes", type=float, default=60.0, help="no run is begun after this (default %(default)s)")
    run.add_argument("--workers", type=int, default=2, help="processes, one thread each (default %(default)s)")
    run.add_argument("--members", type=int, default=4, help="networks of the supervised scores (default %(default)s)")
    run.add_argument("--epochs", type=int, default=Recipe().epochs, help="of a downstream run (default %(default)s)")
    run.add_argument("--match", default="", help="only cells whose schedule,metric,policy match this pattern")
    for command in (run, commands.add_parser("report", help="tables and figures of the rows")):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of cifar10.csv (default: beside)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Train what is missing until the time is up."""
    deadline = time.monotonic() + 60 * options.minutes
    recipe = Recipe(epochs=options.epochs)
    caches = {"train": options.work / "train.npz", "test": options.work / "test.npz"}
    data = load_labelled(options.train, caches["train"])
    load_labelled(options.test, caches["test"])
    subsets = Subsets(options.work, data.keys)
    subsets.embed(options.train, workers=options.workers)
    options.results.mkdir(parents=True, exist_ok=True)
    table = options.results / "cifar10.csv"
    facts = _facts(recipe)
    _refuse_other_recipe(table, facts["recipe"])
    held = {row.cell for row in read_rows(table)}
    cells = [cell for cell in plan() if cell not in held and re.search(options.match, name_of(cell))]
    say(f"{len(held)} cells are done, {len(cells)} to do")
    if any(cell.metric in SUPERVISED for cell in cells):
        _supervised(options, subsets, data, recipe)

    def done(row: Row) -> None:
        append_row(table, row, facts)
        say(f"{row.cell}  accuracy {row.accuracy:.4f}  {row.seconds:.0f} s")

    left = run_cells(cells, subsets, caches, recipe, workers=options.workers, deadline=deadline, done=done)
    say(f"{left} cells are left" if left else "every cell is done")


def name_of(cell: Cell) -> str:
    """What --match looks at."""
    return f"{cell.schedule},{cell.metric},{cell.policy}"


def _supervised(options: argparse.Namespace, subsets: Subsets, data: Labelled, recipe: Recipe) -> None:
    """Make the tables of supervised scores, and the correlations of all scores; what is there is left."""
    folder = options.work / "members"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {number: folder / f"{number}.npz" for number in range(options.members)}
    missing = [number for number, path in paths.items() if not path.exists()]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {number: pool.submit(train_member, data, recipe, number) for number in missing}
        for number, job in jobs.items():
            save_member(job.result(), paths[number])
            say(f"network {number} of the supervised scores is trained")
    if not missing and (options.results / "supervised.csv").exists():
        return
    scores = ensemble_scores([load_member(path) for path in paths.values()], data.labels)
    scores["supervised_prototypes"] = supervised_prototypes(subsets.embeddings(), data.labels)
    for name, score in scores.items():
        subsets.import_scores(name, score)
    options.results.mkdir(parents=True, exist_ok=True)
    write_correlations(options.results / "supervised.csv", {SSL: subsets.scores(SSL), **scores}, options.members)


def write_correlations(path: Path, scores: dict, members: int) -> None:
    """Spearman's rank correlation of every pair of scores, as a table."""
    from scipy.stats import rankdata

    ranks = np.array([rankdata(score) for score in scores.values()])
    with np.errstate(invalid="ignore"):  # a score that is the same for all images has no correlation
        table = np.corrcoef(ranks)
    lines = ["score," + ",".join(scores) + f",members={members}"]
    lines += [f"{name}," + ",".join(f"{value:.3f}" for value in row) for name, row in zip(scores, table, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _facts(recipe: Recipe) -> dict[str, str]:
    """What every row says of where it was made."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    card = json.loads((ROOT / "sspruning" / "encoders" / "weights" / "shipped.json").read_text(encoding="utf-8"))
    parameters = sum(p.numel() for p in SmallResNet(recipe.widths).parameters())
    return {
        "recipe": f"{recipe.as_row()} parameters={parameters}",
        "encoder": str(card["sha256"])[:12],
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{platform.machine()} torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
    }


def _refuse_other_recipe(table: Path, recipe: str) -> None:
    if table.exists() and recipe not in table.read_text(encoding="utf-8"):
        raise UsageError(f"{table} holds rows of another recipe than {recipe!r}; name another folder with --results")


def say(line: str) -> None:
    """Print a line now, also into a pipe."""
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 usage, 3 data, 5 machine."""
    options = parse(arguments)
    try:
        if options.command == "run":
            run(options)
        else:
            for path in write_report(options.results):
                say(str(path))
    except SSPruningError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
