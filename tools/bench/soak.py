#!/usr/bin/env python
"""Kill and hinder runs at random for a long time; each must end with the bytes of a run that nothing disturbs.

    python tools/bench/soak.py                         # half an hour; appends a row to tools/bench/soak.csv
    python tools/bench/soak.py --minutes 5 --seed 7

A corpus of small shards is pruned by ``sspruning run`` with worker processes. Blows fall on it: the command line is
killed or stopped, alone or with its workers, a worker is killed or frozen for a while, or calls of the commit protocol
fail. After each the same command is run again, until one comes to its end. Then every file is compared, `verify` proves
the output, and the counts must add up. Exit code 0 says that all of that was so.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench.run import facts  # noqa: E402

RESULTS = Path(__file__).with_name("soak.csv")
COLUMNS = (
    "date", "commit", "machine", "seed", "minutes", "shards", "workers", "runs", "blows", "kinds", "codes", "outcome",
)  # fmt: skip
SAMPLES_PER_SHARD = 8
BLOWS = (
    "driver killed", "all killed", "worker killed", "worker frozen", "driver terminated", "all terminated",
    "all interrupted", "calls fail", "undisturbed",
)  # fmt: skip
LIMIT_S = 300.0  # for one attempt; longer is a hang
FROZEN_S = 0.5
RATE = "0.002"  # of the calls of the commit protocol fail, in a run of which calls fail
VARYING = {"events.jsonl", "report.html"}  # tell times of day
CRASHES = ("Traceback (most recent", "Exception ignored", "Fatal Python error")
CONFIG = """\
name: soak
corpus: {{input: {shards}}}
encoder: {{name: pixels}}
cluster: {{n_clusters: 8}}
select: {{keep_fraction: 0.6}}
write: {{samples_per_shard: 10}}
execution: {{executor: local, workers: {workers}}}
"""


class SoakError(Exception):
    """Something was not as it must be; says what, and keeps the folder."""


@dataclass
class Tally:
    """What happened so far."""

    runs: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="how long (default %(default)s); a run that was begun is finished")
    add("--seed", type=int, default=0, help="decides which blows fall and when (default %(default)s)")
    add("--shards", type=int, default=200, help="of the corpus (default %(default)s)")
    add("--workers", type=int, default=2, help="processes of each run (default %(default)s)")
    add("--dry", action="store_true", help="soak.csv is left alone")
    return parser.parse_args(arguments)


def made(folder: Path) -> dict[str, str]:
    """sha256 of every file that a run made, by name; of logs, and of files that tell places, the name alone."""
    return {
        str(path.relative_to(folder)): "" if path.name in VARYING else hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("runs", "pruned")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


def start(folder: Path, root: Path, more: dict[str, str]) -> subprocess.Popen:
    """A run in ``folder``, in a process group of its own; what it says goes to ``said.txt`` beside it."""
    paths = [str(root), *([str(Path(__file__).with_name("soak_faults"))] if more else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "sspruning", "run", "soak.yaml"],
            cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """True if the process ended within this time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Worker processes of a run that are alive now."""
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def strike(process: subprocess.Popen, kind: str, dice: random.Random) -> bool:
    """Let a blow fall on a run; False if there was nothing for it to fall on."""
    if kind.startswith("worker"):
        crew = workers_of(process)
        try:
            victim = dice.choice(crew)
            if kind == "worker killed":
                victim.kill()
            else:
                victim.suspend()
                wait(process, FROZEN_S)
                victim.resume()
        except (IndexError, psutil.NoSuchProcess):
            return False
        return True
    number = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT}[kind.split()[1]]
    os.killpg(process.pid, number) if kind.startswith("all") else process.send_signal(number)
    return True


def attempt(folder: Path, seconds: float, dice: random.Random, tally: Tally) -> int:
    """Exit code of one run with one blow; what it leaves is checked by the caller.

    Raises:
        SoakError: it hangs, crashes, or leaves processes behind.
    """
    kind, struck, log = dice.choice(BLOWS), False, folder.with_name("failed-calls.txt")
    log.write_text("")
    fault = {"SOAK_ROOT": str(folder), "SOAK_RATE": RATE, "SOAK_SEED": str(dice.random()), "SOAK_LOG": str(log)}
    process = start(folder, ROOT, fault if kind == "calls fail" else {})
    if kind not in {"undisturbed", "calls fail"} and not wait(process, dice.uniform(0, seconds)):
        struck = strike(process, kind, dice)
    if not wait(process, LIMIT_S):
        os.killpg(process.pid, signal.SIGABRT)
        raise SoakError(f"hangs after: {kind}")
    if struck and (kind.startswith("worker") or process.returncode):  # else it came too late
        tally.blows[kind] += 1
    tally.blows.update(f"call failed: {fault}" for fault in log.read_text().split())
    tally.codes[process.returncode] += 1
    said = (folder / "said.txt").read_text()
    if any(words in said for words in CRASHES):
        raise SoakError(f"crashed after: {kind}\n{said}")
    left = [found for found in psutil.process_iter() if _in_group(found, process.pid)]
    if psutil.wait_procs(left, timeout=20)[1]:
        raise SoakError(f"left processes behind after: {kind}")
    if process.returncode not in {0, 3, 4, 5, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}:
        raise SoakError(f"exit code {process.returncode} after: {kind}\n{said}")
    return process.returncode


def _in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and "resource_tracker" not in " ".join(process.cmdline())
    except (OSError, psutil.Error):
        return False


def check_whole(folder: Path, calm: dict[str, str]) -> None:
    """What stands under a final name is what the undisturbed run has there.

    Raises:
        SoakError: names what is torn.
    """
    for name, digest in made(folder).items():
        in_work = ".tmp." in name or "/.sspruning/shards/" in name or "/.sspruning/work/" in name or ".lock" in name
        if not in_work and name in calm and calm[name] != digest and not name.endswith("manifest.json"):
            raise SoakError(f"{folder / name}: not what an undisturbed run leaves there")


def check_end(folder: Path, calm: dict[str, str], samples: int) -> None:
    """A finished run has every file, byte for byte, and its counts add up.

    Raises:
        SoakError: says what differs.
    """
    found = made(folder)
    differing = {name for name in found.keys() | calm.keys() if found.get(name) != calm.get(name)}
    if differing:
        raise SoakError(f"{folder}: differs from the undisturbed run: {sorted(differing)[:10]}")
    store = json.loads((folder / "runs/soak/store/manifest.json").read_text())["parts"]
    output = json.loads((folder / "pruned/.sspruning/manifest.json").read_text())
    embedded = sum(part["n_rows"] for part in store)
    ledger = {
        "samples = embedded + skipped": samples == embedded + sum(sum(part["skipped"].values()) for part in store),
        "embedded as selected from": embedded == output["n_embedded"],
        "kept = round(0.6 * embedded)": output["n_kept"] == round(0.6 * embedded),
        "kept = sum over output shards": output["n_kept"] == sum(shard["n_samples"] for shard in output["shards"]),
    }
    wrong = [words for words, holds in ledger.items() if not holds]
    if wrong:
        raise SoakError(f"{folder}: the counts do not add up: {wrong}")
    for place in ("pruned", "runs/soak"):
        done = subprocess.run(
            [sys.executable, "-m", "sspruning", "verify", place], cwd=folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SoakError(f"{folder}: {done.stdout}{done.stderr}")


def prepare(folder: Path, shards: Path, workers: int) -> Path:
    """``folder``, empty but for a configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "soak.yaml").write_text(CONFIG.format(shards=shards, workers=workers))
    return folder


def soak(options: argparse.Namespace, temp: Path, tally: Tally) -> None:
    """Disturb runs until the time is up, and finish the last.

    Raises:
        SoakError: something was not as it must be.
    """
    dice = random.Random(options.seed)  # noqa: S311 - blows, no secrets
    samples, shards = options.shards * SAMPLES_PER_SHARD, temp / "shards"
    maker = [sys.executable, str(ROOT / "tools/make_corpus.py"), str(shards)]
    subprocess.run([*maker, "--samples", str(samples), "--shards", str(options.shards)], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    for _ in range(2):  # the second finds everything in memory, as those to come will
        folder, begun = prepare(temp / "calm", shards, options.workers), time.monotonic()
        if start(folder, ROOT, {}).wait(LIMIT_S):
            raise SoakError(f"the undisturbed run failed\n{(folder / 'said.txt').read_text()}")
        seconds = time.monotonic() - begun
    calm = made(folder)
    check_end(folder, calm, samples)
    print(f"undisturbed: {len(calm):,} files in {seconds:.1f} s", flush=True)
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        folder, tries = prepare(temp / "run", shards, options.workers), 0
        while attempt(folder, seconds, dice, tally) != 0:
            tries += 1
            check_whole(folder, calm)
        check_end(folder, calm, samples)
        tally.runs += 1
        print(f"run {tally.runs}: finished after {tries} that were cut short", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Soak, and keep a row of what came of it; 1 if something was not as it must be."""
    options = parse(arguments)
    temp, tally, outcome = Path(tempfile.mkdtemp(prefix="sspruning-soak-")), Tally(), "all bytes equal, ledger exact"
    begun = time.monotonic()
    try:
        soak(options, temp, tally)
        shutil.rmtree(temp, ignore_errors=True)
    except SoakError as error:
        outcome = f"FAILED: {error}"
        print(f"{outcome}\nthe folders are kept: {temp}", file=sys.stderr)
    told = {kind: count for kind, count in sorted(tally.blows.items()) if count}
    row = {
        **facts(),
        "seed": options.seed, "minutes": f"{(time.monotonic() - begun) / 60:.1f}", "shards": options.shards,
        "workers": options.workers, "runs": tally.runs, "blows": sum(told.values()),
        "kinds": "; ".join(f"{count} {kind}" for kind, count in told.items()),
        "codes": "; ".join(f"{count} x {code}" for code, count in sorted(tally.codes.items())),
        "outcome": outcome.splitlines()[0],
    }  # fmt: skip
    print("\n".join(f"{name:>8}  {value}" for name, value in row.items()))
    if not options.dry:
        fresh = not RESULTS.exists()
        with RESULTS.open("a", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
    return int(outcome.startswith("FAILED"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
