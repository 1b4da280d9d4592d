#!/usr/bin/env python
"""How far job arrays scale: real costs measured here, replayed for 8, 64 and 512 tasks with as much work each.

    python tools/bench/scaling.py                      # minutes; prints the tables
    python tools/bench/scaling.py --record             # writes tools/bench/results/scaling.md and scaling.csv as well

Nothing is simulated that could be measured on one machine: times of shards are those of a real embedding, costs that
grow with the number of shards are those of real stores of links. What a cluster adds is assumed, and named so.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import numpy as np  # noqa: E402

from bench.run import facts  # noqa: E402
from bench.scaling_costs import Driver, at_size, shard_times, start_times  # noqa: E402
from bench.scaling_model import Costs, Replay, fitted, replay  # noqa: E402
from bench.scaling_plan import Assumptions, plan_table  # noqa: E402
from bench.smoke import make_corpus  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "scaling.md"
WORKERS = (1, 8, 64, 512)
COUNTS = (8, 64, 512)
SHARDS_EACH = 100
SEED = 1
BUSY = "**The machine was busy: every time is too long, and what is below shows the form of the result, not its size.**"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=str(ROOT.parent / "shared/data/cifar10/train-0000*.tar"), help="shards (default %(default)s)")
    add("--sizes", default="1000,4000,10000", metavar="N,...", help="shards of the stores (default %(default)s)")
    add("--starts", type=int, default=5, help="tasks whose start is timed (default %(default)s)")
    add("--record", action="store_true", help="keep the tables and the rows")
    return parser.parse_args(arguments)


def costs_of(drivers: list[Driver], starts: list[float], assumed: Assumptions | None, *, first: bool) -> Costs:
    """The costs of tasks as functions of the number of shards, by the measurements and what is assumed on top.

    ``first``: all tasks start in an empty store at the same moment, so that each has to look at all shards.
    """
    fixed, per_shard, per_own = fitted([(d.n, d.n / count, s) for d in drivers for count, s in d.tasks.items()])
    largest = max(drivers, key=lambda d: d.n)
    last = max(0.0, largest.last - largest.tasks[COUNTS[-1]] + largest.key_hashes) / largest.n
    measured = Costs(
        start_s=starts, fixed_s=fixed, per_shard_s=per_shard, per_own_shard_s=per_own, last_per_shard_s=last
    )
    if first:
        measured = replace(measured, per_shard_s=per_shard + largest.open_corpus / largest.n)
    if assumed is None:
        return measured
    calls = assumed.calls_per_shard if first else 0.0
    return replace(
        measured,
        per_shard_s=measured.per_shard_s + calls * assumed.latency_s,
        per_own_shard_s=per_own + assumed.calls_per_own_shard * assumed.latency_s,
        last_per_shard_s=last + assumed.calls_of_the_last * assumed.latency_s,
        calls_per_shard=calls,
        calls_per_own_shard=assumed.calls_per_own_shard,
        server_calls_per_s=assumed.server_calls_per_s,
    )


def replays(shard_s: list[float], costs: Costs, shards_each: int) -> list[Replay]:
    """One `Replay` for each number of tasks."""
    return [replay(n, shards_each, shard_s, costs, seed=SEED) for n in WORKERS]


def driver_table(drivers: list[Driver]) -> list[str]:
    """What the store costs, by its size."""
    lines = [
        f"| shards of the store | {' | '.join(f'{d.n:,}' for d in drivers)} |",
        f"|---|{'---|' * len(drivers)}",
    ]
    names = {
        "open_corpus": "list and stat the corpus",
        "pending": "`pending_shards`, all of them",
        "records": "`records()`, all of them",
        "status": "`sspruning status`, in the process",
        "commit": "commit of a part of one row",
        "key_hashes": "key hashes of all parts",
        "last": f"task of {COUNTS[-1]} with nothing to do, the last",
    }
    rows = {text: [getattr(d, name) for d in drivers] for name, text in names.items()}
    rows |= {f"task of {count} with nothing to do": [d.tasks[count] for d in drivers] for count in COUNTS}
    return lines + [f"| {text} | {' | '.join(f'{s * 1e3:,.1f} ms' for s in row)} |" for text, row in rows.items()]


def replay_table(found: list[Replay]) -> list[str]:
    """One line for each number of tasks."""
    lines = [
        "| tasks | shards | all done after | efficiency | shards | start | listing | file server | straggling | last |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        parts = (one.shards_s, one.start_s, one.listing_s, one.server_s, one.straggling_s, one.last_s)
        shown = " | ".join(f"{seconds:,.1f}" for seconds in parts)
        efficiency = found[0].total_s / one.total_s
        lines.append(f"| {one.workers} | {one.n_shards:,} | {one.total_s:,.1f} s | {efficiency:.2f} | {shown} |")
    return lines


def where_it_stops(found: list[Replay]) -> list[str]:
    """The largest cost besides the shards of each array, in words."""
    told = []
    for one in found[1:]:
        costs = {
            "what all tasks ask the file server": one.server_s,
            "what each task asks by itself: the list of shards, its own shards and records": one.listing_s,
            "the last task reads every commit record and compares all keys": one.last_s,
            "the slowest task has larger shards": one.straggling_s,
            "the start": one.start_s,
        }
        what = max(costs, key=lambda key: costs[key])
        told.append(f"- {one.workers} tasks, {found[0].total_s / one.total_s:.2f}: {what} ({costs[what]:,.0f} s).")
    return ["What costs most besides the shards themselves:", "", *told]


def page(
    shard_s: list[float], starts: list[float], drivers: list[Driver], assumed: Assumptions, where: dict[str, str]
) -> str:
    """The results as Markdown."""
    local = replays(shard_s, costs_of(drivers, starts, None, first=True), SHARDS_EACH)
    scale = assumed.shard_s / float(np.mean(shard_s))
    cluster, crowd = (
        replays([s * scale for s in shard_s], costs_of(drivers, starts, assumed, first=first), assumed.shards_each)
        for first in (False, True)
    )
    spread = float(np.std(shard_s) / np.mean(shard_s))
    lines = [
        "# How far job arrays scale",
        "",
        f"Made by `python tools/bench/scaling.py --record` on {where['date']} at commit {where['commit']}; "
        f"{where['machine']}; load {where['load']} when it began. Rows: [scaling.csv](scaling.csv).",
        *(["", BUSY] if float(where["load"]) > 1 else []),
        "",
        f"Measured: {len(shard_s)} shards of CIFAR-10 (1,000 images each), one warm worker, the shipped encoder: "
        f"{np.mean(shard_s):.3f} s each, spread {spread:.0%}; a task's start and end, {np.median(starts):.1f} s "
        f"({min(starts):.1f} to {max(starts):.1f}, {len(starts)} tasks); and on a local disk:",
        "",
        *driver_table(drivers),
        "",
        f"## The machine that was measured, many times over: {SHARDS_EACH} shards for each task",
        "",
        "Seconds of a mean task by what they go to; the file server answers at once.",
        "",
        *replay_table(local),
        "",
        f"## Photographs on a cluster with a shared file system: {assumed.shards_each} shards for each task",
        "",
        *assumed.in_words(),
        "",
        "The list of shards is in the store already, because a task was done before the others began:",
        "",
        *replay_table(cluster),
        "",
        *where_it_stops(cluster),
        "",
        "All tasks begin in an empty store at the same moment, so each looks at every shard:",
        "",
        *replay_table(crowd),
        "",
        *where_it_stops(crowd),
        "",
        "So let one task begin before the others, `--num-workers 512 --worker-index 0` in a job of its own, or give "
        "each task a machine with several GPUs instead of one.",
        "",
        *plan_table(assumed, cluster[-1]),
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measure, replay, print."""
    options = parse(arguments)
    where = facts() | {"load": f"{os.getloadavg()[0]:.1f}"}
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        (temp / "one").mkdir()
        make_corpus(temp / "one")
        shard = min((temp / "one").glob("*.tar"))
        shard_s = shard_times(options.data, temp / "store")
        starts = start_times(options.data, temp / "starts", options.starts)
        drivers = []
        for n in map(int, options.sizes.split(",")):
            drivers.append(at_size(temp / f"of-{n}", shard, n, COUNTS))
            shutil.rmtree(temp / f"of-{n}")
    text = page(shard_s, starts, drivers, Assumptions(), where)
    print(text)
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")
        with RESULTS.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(("what", "shards", "seconds"))
            rows.writerows(("shard", "", f"{s:.4f}") for s in shard_s)
            rows.writerows(("start", "", f"{s:.4f}") for s in starts)
            for driver in drivers:
                told = {key: value for key, value in asdict(driver).items() if key not in {"n", "tasks"}}
                told |= {f"task of {count}": value for count, value in driver.tasks.items()}
                rows.writerows((key, driver.n, f"{value:.5f}") for key, value in told.items())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
