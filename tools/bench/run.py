#!/usr/bin/env python
"""Measure sspruning against its baselines, each pair in one run, in turns; medians, spread and every worst repeat.

    python tools/bench/run.py                          # all cases; appends to tools/bench/results.csv
    python tools/bench/run.py --only scan,write
    python tools/bench/run.py --smoke                  # does every case run? tiny input, nothing is recorded

Use a machine that does nothing else. Exit code 0 says that every case ran, not that every target was met.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench.context import Context  # noqa: E402
from bench.rows import append_rows, print_rows  # noqa: E402
from bench.smoke import make_corpus, make_photographs, stand_in  # noqa: E402
from sspruning.records import EncoderSpec  # noqa: E402

CASES = {
    "scan": "bench.case_scan",
    "write": "bench.case_write",
    "embed_shipped": "bench.case_embed_shipped",
    "embed_vs_script": "bench.case_embed_vs_script",
    "embed_resnet50": "bench.case_embed_resnet50",
    "memory": "bench.case_memory",
    "lloyd": "bench.case_lloyd",
    "recipes": "bench.case_recipes",
    "recipes_million": "bench.case_recipes_million",
    "select_100m": "bench.case_select_100m",
    "scale": "bench.case_scale",
    "run": "bench.case_run",
    "ray": "bench.case_ray",
    "help": "bench.case_help",
}
"""Name -> module with ``measure(context) -> list[Row]``. A new case is one file and one line here."""
WEIGHTS = ROOT / "sspruning/encoders/weights/shipped.json"
RESULTS = Path(__file__).with_name("results.csv")
PACKAGES = {"torch": ("torch",), "numpy": ("numpy",), "faiss": ("faiss-cpu", "faiss-gpu")}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", default=",".join(CASES), metavar="CASE,...", help="of: %(default)s")
    add("--repeats", type=int, default=5, help="measured rounds of each case (default %(default)s)")
    add(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one a core, %(default)s)"
    )
    add("--corpus", type=Path, default=ROOT.parent / "shared/data/cifar10", metavar="DIR",
        help="folder with train-*.tar (default: ../shared/data/cifar10 beside the repository)")  # fmt: skip
    add("--photos", type=Path, default=ROOT.parent / "shared/data/photos/photos-000000.tar", metavar="TAR",
        help="a shard of photographs (default: ../shared/data/photos/photos-000000.tar)")  # fmt: skip
    add("--smoke", action="store_true", help="tiny generated input, one repeat, results.csv is left alone")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name]
    unknown = [name for name in options.only if name not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; there are {', '.join(CASES)}")
    if options.repeats < 1 or options.workers < 1:
        parser.error("--repeats and --workers are at least 1")
    return options


def make_context(options: argparse.Namespace, temp: Path) -> Context:
    """What the cases are given.

    Raises:
        SystemExit: the corpus, the photographs or the shipped encoder are not there.
    """
    if options.smoke:
        corpus = temp / "corpus"
        corpus.mkdir()
        pattern, photos, encoder = make_corpus(corpus), make_photographs(corpus), stand_in(temp, WEIGHTS)
        return Context(ROOT, pattern, photos, temp, 1, options.workers, encoder, smoke=True)
    if not list(options.corpus.glob("train-*.tar")):
        raise SystemExit(f"{options.corpus}: no train-*.tar here; name a folder with --corpus")
    if "embed_resnet50" in options.only and not options.photos.exists():
        raise SystemExit(f"{options.photos}: not there; name a shard of photographs with --photos")
    if not WEIGHTS.exists():
        raise SystemExit(f"{WEIGHTS}: the shipped encoder is missing; the figures would mean nothing without it")
    pattern = str(options.corpus.resolve() / "train-*.tar")
    return Context(ROOT, pattern, options.photos.resolve(), temp, options.repeats, options.workers, EncoderSpec())


def facts() -> dict[str, str]:
    """Date, commit and machine, as `results.csv` keeps them."""
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": _commit(), "machine": _machine()}


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    return (git("rev-parse", "--short", "HEAD") or "none") + ("-dirty" if changed else "")


def _machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB", f"python {platform.python_version()}"]
    return ", ".join([*parts, *(f"{name} {_version(names)}" for name, names in PACKAGES.items())])


def _version(names: Sequence[str]) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"


def main(arguments: Sequence[str]) -> int:
    """Run the cases that were asked for; 1 if one of them could not."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that gigabytes of temporary files go
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    load = os.getloadavg()[0]
    if load > 0.5 and not options.smoke:
        print(f"warning: this machine is busy (load {load:.1f}); the figures will be off", file=sys.stderr)
    known = facts()
    print(f"{known['date']} {known['commit']} {known['machine']}")
    rows, failed = [], []
    temp = Path(tempfile.mkdtemp(prefix="sspruning-bench-"))
    try:
        context = make_context(options, temp)
        for name in options.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                measured = importlib.import_module(CASES[name]).measure(context)
            except Exception:  # noqa: BLE001 - the other cases are still worth having
                traceback.print_exc()
                failed.append(name)
                continue
            rows += measured
            if not options.smoke:
                append_rows(RESULTS, measured, known)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    print_rows(rows, judged=not options.smoke)
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
