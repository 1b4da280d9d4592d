#!/usr/bin/env python
r"""Which label-free objective learns most in the same processor time? A table as CSV: epochs, CPU seconds, 20-NN.

    python tools/prove/objectives.py --train 'cifar10/train-00000*.tar' --test 'cifar10/test-*.tar' \
        --work runs/objectives

Each objective trains the same small network (resnet10t at half the shipped width, 32 px) from the same seed, by
`tools/pretrain_encoder.py` with that tool's defaults for everything else. A run of one epoch tells what an epoch costs;
the run that counts has as many whole epochs as fit into --cpu-seconds. Labels are read by the evaluation alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
OBJECTIVES = ("simclr", "moco", "byol", "vicreg", "barlow", "swav")
SMALL = ("--model-kwargs", "channels=24,48,96,192", "--image-size", "32", "--cache-px", "32")


def timed(command: list[str], log: Path) -> float:
    """CPU seconds of a command on one thread; its output goes to ``log``."""
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}; see {log}")
    return usage.ru_utime + usage.ru_stime


def measure(objective: str, options: argparse.Namespace) -> dict[str, object]:
    """One row of the table."""

    def pretrain(epochs: int, out: Path) -> float:
        tool = [sys.executable, str(HERE.parent / "pretrain_encoder.py"), *options.train, "--out", str(out)]
        settings = ["--objective", objective, "--epochs", str(epochs), "--seed", str(options.seed), *SMALL]
        return timed([*tool, *settings], options.work / f"{out.name}.log")

    options.work.mkdir(parents=True, exist_ok=True)
    epoch = pretrain(1, options.work / f"{objective}-one-{options.seed}")
    epochs = max(1, int(options.cpu_seconds / epoch))
    out = options.work / f"{objective}-{epochs}-{options.seed}"
    seconds = pretrain(epochs, out)
    knn = [sys.executable, str(HERE / "knn.py"), "--train", *options.train, "--test", *options.test]
    log = options.work / f"{out.name}-knn.log"
    timed([*knn, "--encoder", "card", "--checkpoint", str(out / "encoder.json")], log)
    accuracy = json.loads(log.read_text(encoding="utf-8").strip().splitlines()[-1])["accuracy"]
    return {
        "objective": objective,
        "seed": options.seed,
        "epochs": epochs,
        "cpu_seconds": round(seconds),
        "knn": accuracy,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="SHARDS")
    parser.add_argument("--test", nargs="+", required=True, metavar="SHARDS")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and logs")
    parser.add_argument("--cpu-seconds", type=float, default=150.0, help="of each run (default %(default)s)")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    table = csv.DictWriter(sys.stdout, ["objective", "seed", "epochs", "cpu_seconds", "knn"])
    table.writeheader()
    with ThreadPoolExecutor(options.workers) as pool:
        for row in pool.map(lambda objective: measure(objective, options), options.objectives):
            table.writerow(row)
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
