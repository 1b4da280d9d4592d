"""The perceptron experiment: a solver that is right, pruning that is exact, and the published picture in small."""

import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "prove" / "theory.py"


@pytest.fixture(scope="module")
def theory():
    return SimpleNamespace(**runpy.run_path(str(TOOL)))


def run_tool(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def read(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_table_is_reproduced_where_data_is_scarce(theory):
    cells = dict(zip(theory.COLUMNS, theory.REFERENCE[0, 1.5], strict=True))

    for (keep, fraction), reference in cells.items():
        mean = theory.errors(100, 1.5, keep, fraction, 0, 8).mean()
        assert mean == pytest.approx(reference, abs=theory.TOLERANCE), (keep, fraction)


def test_hard_examples_beat_random_ones_in_a_large_corpus_and_lose_in_a_small_one(theory):
    def gain(alpha_tot):
        hard, random = (theory.errors(40, alpha_tot, keep, 0.6, 0, 8) for keep in ("hard", "random"))
        return (hard - random).mean()

    assert gain(10) < -0.015
    assert gain(1.5) > 0.015


@pytest.mark.parametrize(("keep", "fraction"), [("all", 1.0), ("hard", 0.3), ("easy", 0.3)])
def test_the_solution_meets_the_optimality_conditions(theory, keep, fraction):
    problem = theory.draw_problem(20, 8, 3)
    rows = problem.rows[theory.kept_rows(problem, keep, fraction, 20)]

    weights, duals = theory.max_margin(rows)

    products = rows @ weights
    assert products.min() >= 1 - 1e-6
    assert duals.min() >= 0
    np.testing.assert_allclose(duals @ rows, weights, rtol=1e-9)
    np.testing.assert_allclose(products[duals > 0], 1, atol=1e-5)


def test_no_direction_of_the_plane_has_a_wider_margin(theory):
    angles = np.linspace(0, 2 * np.pi, 200_001)
    directions = np.stack([np.cos(angles), np.sin(angles)])

    for draw in range(5):
        rows = theory.draw_problem(2, 6, draw).rows
        weights, _ = theory.max_margin(rows)

        assert 1 / np.linalg.norm(weights) == pytest.approx((rows @ directions).min(axis=0).max(), rel=1e-4)


def test_rows_that_nothing_separates_are_refused(theory):
    with pytest.raises(ArithmeticError, match="separable"):
        theory.max_margin(np.asarray([[1.0, 0.0], [-1.0, 0.5], [-1.0, -0.5]]))


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("keep", ["random", "hard", "easy"])
def test_pruning_keeps_the_exact_count(theory, keep, fraction):
    problem = theory.draw_problem(10, 7, 0)

    kept = theory.kept_rows(problem, keep, fraction, 20)

    assert len(set(kept.tolist())) == len(kept) == round(fraction * 70)


def test_hard_rows_have_the_smallest_margins_and_easy_ones_the_largest(theory):
    problem = theory.draw_problem(10, 7, 0)
    margins = problem.rows @ problem.teacher
    hard, easy = (theory.kept_rows(problem, keep, 0.5, 0) for keep in ("hard", "easy"))

    assert margins[hard].max() < margins[easy].min()
    assert margins.min() > 0


def test_the_probe_leaves_the_teacher_by_theta(theory):
    problem = theory.draw_problem(50, 2, 1)

    assert problem.teacher @ problem.aside == pytest.approx(0, abs=1e-12)
    assert np.linalg.norm(problem.teacher) == pytest.approx(1)
    assert np.linalg.norm(problem.aside) == pytest.approx(1)


def test_a_crossing_is_found_where_the_gap_falls_through_zero(theory):
    alphas = np.asarray([1.0, 4.0, 16.0])

    assert theory.first_crossing(alphas, np.asarray([3.0, 1.0, -1.0])) == pytest.approx(8)
    assert theory.first_crossing(alphas, np.asarray([-1.0, -2.0, -3.0])) is None


def test_the_command_writes_tables_and_pictures_the_same_twice(theory, tmp_path):
    done = run_tool("--quick", "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert "of 56 cells within 0.015" in done.stdout
    assert theory.main(["--quick", "--out", str(tmp_path / "two")]) == 0

    names = ["theory-curves.csv", "theory-flip.png", "theory-pareto.png", "theory-table.csv"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert len(read(tmp_path / "one" / "theory-table.csv")) == 56
    kinds = {row["figure"] for row in read(tmp_path / "one" / "theory-curves.csv")}
    assert kinds >= {"pareto", "pareto-envelope", "flip"}


def test_the_results_in_the_repository_agree_with_the_reference(theory):
    cells = read(TOOL.parent / "results" / "theory-table.csv")

    assert [float(row["reference"]) for row in cells] == [x for row in theory.REFERENCE.values() for x in row]
    assert max(abs(float(row["difference"])) for row in cells) <= theory.TOLERANCE


def test_a_request_without_sense_is_refused(tmp_path):
    done = run_tool("--draws", 0, "--out", tmp_path / "none")

    assert done.returncode == 2
    assert "at least 1" in done.stderr
    assert not (tmp_path / "none").exists()
