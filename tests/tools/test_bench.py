"""The benchmarks run, and judge as they say; what they measure is not tested."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tools" / "bench"
CASES = ["scan", "write", "embed_shipped", "embed_vs_script", "embed_resnet50", "memory", "run", "help"]
CASES += ["recipes", "recipes_million", "select_100m", "scale", "lloyd", "ray"]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def run_bench(*arguments):
    command = [sys.executable, str(BENCH / "run.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_every_case_runs_and_the_smoke_records_nothing():
    results = BENCH / "results.csv"
    before = results.read_bytes() if results.exists() else None
    done = run_bench("--smoke")
    assert done.returncode == 0, done.stderr
    shown = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert shown >= set(CASES)
    assert (results.read_bytes() if results.exists() else None) == before


def test_an_unknown_case_is_named():
    done = run_bench("--only", "scan,walk")
    assert done.returncode == 2
    assert "'walk'" in done.stderr


def test_a_ratio_is_judged_by_medians_and_spread_by_pairs():
    from bench.rows import compared

    row = compared("scan", "x", "1/s", [10.0, 30.0, 20.0], "1/s", [1.0, 2.0, 4.0], target="ratio >= 10")
    assert (row.value, row.baseline_value, row.ratio, row.repeats) == (20.0, 2.0, 10.0, 3)
    assert row.spread == (5.0, 15.0)
    assert row.verdict == "pass"


@pytest.mark.parametrize(("value", "verdict"), [(1.49, "pass"), (1.5, "short"), (2.0, "short")])
def test_a_value_is_judged_without_a_baseline(value, verdict):
    from bench.rows import alone

    assert alone("run", "memory", "GB", [value], target="value < 1.5").verdict == verdict
    assert not alone("run", "memory", "GB", [value]).verdict


def test_rows_are_appended_below_one_header(tmp_path):
    from bench.rows import COLUMNS, alone, append_rows

    path = tmp_path / "results.csv"
    facts = {"date": "2026-01-01", "commit": "abc", "machine": "a, b"}
    for _ in range(2):
        append_rows(path, [alone("help", "x", "s", [0.2, 0.1, 0.4], note="n")], facts)
    with path.open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [tuple(row) for row in found] == [COLUMNS, COLUMNS]
    assert (found[1]["value"], found[1]["spread"], found[1]["machine"]) == ("0.2", "0.1..0.4", "a, b")


def test_sides_take_turns_and_the_first_round_is_not_kept():
    from bench.context import interleave

    calls = []

    def side(name):
        return lambda: calls.append(name) or float(len(calls))

    assert interleave(2, {"a": side("a"), "b": side("b")}) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert calls == ["a", "b"] * 3


def fail_at_two():
    def step(item):
        if item == 2:
            raise ValueError("two is too many")
        return item

    return step


def test_a_crew_does_every_item_once_and_names_a_failure(monkeypatch):
    from bench.crew import Crew

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with Crew(2, 1, "test_bench:fail_at_two") as crew:
        assert crew.run([1, 3, 5, 7])[1] == 16
        assert crew.run([10])[1] == 10
        with pytest.raises(RuntimeError, match="two is too many"):
            crew.run([2])


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_memory_of_children_counts(tmp_path):
    from bench.memory import run_watched

    hold = "import time; held = b'x' * 60_000_000; time.sleep(0.7)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True)"
    peak = run_watched([sys.executable, "-c", program], tmp_path)
    assert 60_000_000 < peak.pss <= peak.rss < 200_000_000
    assert peak.processes >= 2
    assert peak.seconds >= 0.7
    with pytest.raises(RuntimeError, match="out of luck"):
        run_watched([sys.executable, "-c", "raise SystemExit('out of luck')"], tmp_path)
