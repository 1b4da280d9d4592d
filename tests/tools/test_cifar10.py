"""The proof on CIFAR-10 at tiny scale: a cell of the grid, the supervised scores, and what the report makes of rows."""

import csv
import io
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sspruning.errors import DataError

PROVE = Path(__file__).parents[2] / "tools" / "prove"
sys.path.insert(0, str(PROVE))
import cifar10  # noqa: E402 - beside the tools, not installed
from cifar import grid, report, supervised  # noqa: E402
from cifar.downstream import Recipe, SmallResNet, predict, steps_of_full, train  # noqa: E402
from cifar.images import load_labelled  # noqa: E402
from cifar.subsets import SSL, Subsets  # noqa: E402

sys.path.remove(str(PROVE))

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = Recipe(widths=(8, 8, 16), epochs=4, batch_size=32, learning_rate=0.1)


def write_shards(folder, counts, seed):
    """Shards of 32 x 32 images of three classes, each a colour with a stripe of its own, under noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"s-{shard:06d}.tar", "w") as archive:
            for row in range(count):
                label = int(rng.integers(3))
                pixels = rng.integers(0, 120, (32, 32, 3))
                pixels[:, :, label] += 90
                pixels[8 * label : 8 * label + 8] += 40
                buffer = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
                for suffix, data in (("png", buffer.getvalue()), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{folder.name}-{shard}-{row:03d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(folder / "*.tar")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("cifar10")


@pytest.fixture(scope="module")
def data(work):
    return load_labelled(write_shards(work / "train", (100, 100), 0), work / "train.npz")


@pytest.fixture(scope="module")
def unseen(work):
    return load_labelled(write_shards(work / "test", (100,), 1), work / "test.npz")


@pytest.fixture(scope="module")
def subsets(work, data):
    made = Subsets(work, data.keys)
    made.embed(str(work / "train" / "*.tar"), workers=1)
    return made


@pytest.fixture(scope="module")
def members(data):
    return [supervised.train_member(data, TINY, number) for number in range(3)]


# a cell of the grid


def test_a_cell_trains_on_exactly_the_kept_images_and_learns(data, unseen, subsets):
    cell = grid.Cell("epochs", SSL, "hard", 0.5, 4, 0.7, 0)
    ranks = grid.ranks_of(cell, subsets)

    row = grid.run_cell(cell, data, unseen, ranks, TINY)

    assert sorted(ranks) == list(range(200))
    assert (row.n_train, row.steps) == (140, 4 * (140 // 32))
    assert row.accuracy > 0.5  # three classes


def test_a_cell_gives_the_same_row_again(data, unseen, subsets):
    cell = grid.Cell("epochs", "none", "random", 0.0, 0, 0.3, 1)
    rows = [grid.run_cell(cell, data, unseen, grid.ranks_of(cell, subsets), TINY) for _ in range(2)]

    assert rows[0].accuracy == rows[1].accuracy


def test_fixed_iterations_give_every_fraction_the_steps_of_the_full_set(data, unseen, subsets):
    cell = grid.Cell("iterations", "none", "random", 0.0, 0, 0.3, 0)
    row = grid.run_cell(cell, data, unseen, grid.ranks_of(cell, subsets), TINY)

    assert (row.n_train, row.steps) == (60, steps_of_full(TINY, 200))


def test_random_subsets_differ_by_seed_and_others_do_not(subsets):
    random = [grid.ranks_of(grid.Cell("epochs", "none", "random", 0.0, 0, 0.3, seed), subsets) for seed in (0, 1)]
    hard = [grid.ranks_of(grid.Cell("epochs", SSL, "hard", 0.0, 4, 0.3, seed), subsets) for seed in (0, 1)]

    assert (random[0] != random[1]).any()
    assert (hard[0] == hard[1]).all()


def test_hard_keeps_the_largest_scores_and_easy_the_smallest(subsets):
    score = subsets.scores(SSL, 4)
    hard = subsets.ranks(SSL, "hard", balance=0.0, k=4, seed=0, keep=0.5)
    easy = subsets.ranks(SSL, "easy", balance=0.0, k=4, seed=0, keep=0.5)

    assert score[hard < 50].min() >= score[hard >= 50].max()
    assert score[easy < 50].max() <= score[easy >= 50].min()


def test_outside_scores_go_through_the_product(subsets, data):
    score = np.random.default_rng(0).normal(size=200).astype(np.float32)
    subsets.import_scores("made_up", score)

    hard = subsets.ranks("made_up", "hard", balance=0.0, k=4, seed=0, keep=0.5)

    assert pq.read_table(subsets.table("made_up")).column("key").to_pylist() == data.keys
    assert np.array_equal(np.argsort(hard), np.argsort(-score, kind="stable"))


def test_the_plan_holds_each_cell_once_and_random_beside_every_choice():
    cells = grid.plan()
    random = {(c.schedule, c.keep, c.seed) for c in cells if c.policy == "random"}

    assert len(set(cells)) == len(cells)
    assert {(c.schedule, c.keep, c.seed) for c in cells if c.policy != "all"} == random
    assert {c.keep for c in cells} == {1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1}


def test_the_downstream_network_takes_crops_and_whole_images():
    net = SmallResNet((8, 8, 16)).eval()
    for side in (24, 32):
        assert net(torch.zeros(2, 3, side, side)).shape == (2, 10)
    assert predict(net, np.zeros((3, 32, 32, 3), np.uint8)).shape == (3, 10)


def test_training_tells_of_every_step_and_every_epoch(data):
    steps, epochs = [], []
    train(
        data, np.arange(64), TINY, seed=0,
        after_step=lambda epoch, rows, logits: steps.append((epoch, len(rows), logits.shape)),
        after_epoch=lambda epoch, net: epochs.append((epoch, net.training)),
    )  # fmt: skip

    assert steps == [(epoch, 32, (32, 10)) for epoch in range(4) for _ in range(2)]
    assert epochs == [(epoch, False) for epoch in (1, 2, 3, 4)]


# supervised scores


def test_every_supervised_score_is_finite_and_has_a_direction(members, data):
    scores = supervised.ensemble_scores(members, data.labels)

    assert set(scores) == set(supervised.ENSEMBLE_SCORES)
    for score in scores.values():
        assert score.shape == (200,)
        assert score.dtype == np.float32
        assert np.isfinite(score).all()


def test_a_wrong_label_is_hard_by_every_score_that_sees_labels(data):
    labels = data.labels.copy()
    labels[:10] = (labels[:10] + 1) % 3
    wrong = type(data)(data.keys, data.pixels, labels)
    recipe = Recipe(widths=(8, 8, 16), epochs=6, batch_size=16, learning_rate=0.1)
    members = [supervised.train_member(wrong, recipe, number) for number in range(3)]
    scores = supervised.ensemble_scores(members, labels)

    for name in ("el2n", "aum", "margin"):
        assert np.mean(scores[name][:10]) > np.mean(scores[name][10:]) + scores[name][10:].std(), name


def member(n=4, **given):
    zeros = {name: np.zeros(n, np.int64) for name in ("visits", "right", "forgotten")}
    made = supervised.Member(
        trained=np.ones(n, bool), early_error=np.zeros(n, np.float32), **zeros, margin_sum=np.zeros(n),
        final=np.full((n, 10), 0.1, np.float32),
    )  # fmt: skip
    for name, value in given.items():
        setattr(made, name, np.asarray(value))
    return made


def test_forgetting_puts_what_was_never_right_above_all_else():
    one = member(visits=[3, 3, 3, 3], right=[3, 1, 2, 0], forgotten=[0, 2, 1, 0])

    assert supervised.ensemble_scores([one], np.zeros(4, int))["forgetting"].tolist() == [0, 2, 1, 3]


def test_aum_is_minus_the_mean_margin_over_all_visits():
    two = [member(visits=[1, 2, 2, 2], margin_sum=[1.0, 4.0, -2.0, 0.0]), member(visits=[1, 0, 2, 2])]

    assert supervised.ensemble_scores(two, np.zeros(4, int))["aum"].tolist() == [-0.5, -2.0, 0.5, 0.0]


def test_memorization_is_right_inside_minus_right_outside():
    sure = np.eye(10, dtype=np.float32)
    inside = member(trained=[True] * 4, final=sure[[0, 0, 1, 1]])
    outside = member(trained=[False] * 4, final=sure[[0, 1, 0, 1]])

    assert supervised.ensemble_scores([inside, outside], np.zeros(4, int))["memorization"].tolist() == [0, 1, -1, 0]


def test_supervised_prototypes_measure_the_distance_to_the_mean_of_the_class():
    rows = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    found = supervised.supervised_prototypes(rows, np.array([0, 0, 1]))

    assert found == pytest.approx([1 - math.sqrt(0.5), 1 - math.sqrt(0.5), 0], abs=1e-6)


def test_a_member_is_kept_and_read_back(members, tmp_path):
    supervised.save_member(members[0], tmp_path / "0.npz")
    again = supervised.load_member(tmp_path / "0.npz")

    for name in supervised.Member.__dataclass_fields__:
        assert np.array_equal(getattr(again, name), getattr(members[0], name))


# the report


def row(policy, keep, seed, accuracy, *, metric=SSL, schedule="epochs"):
    metric = "none" if policy in {"random", "all"} else metric
    balance = 0.5 if metric != "none" else 0.0
    return grid.Row(
        grid.Cell(schedule, metric, policy, balance, 0, keep, seed), round(50_000 * keep), 100, accuracy, 1.0
    )


def test_differences_to_random_are_paired_by_seed():
    rows = [row("random", 0.5, seed, a) for seed, a in enumerate((0.70, 0.72, 0.74))]
    rows += [row("hard", 0.5, seed, a) for seed, a in enumerate((0.71, 0.73, 0.75))]

    hard = next(s for s in report.summarise(rows) if s.choice[2] == "hard")

    assert (hard.seeds, hard.mean) == (3, pytest.approx(0.73))
    assert hard.difference == pytest.approx(0.01)
    assert hard.half_width == pytest.approx(0, abs=1e-9)  # every pair differs by the same


def test_the_interval_is_students():
    assert report.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert math.isnan(report.half_width([1.0]))


@settings(max_examples=8)
@given(b=st.floats(0.1, 1.0), power=st.booleans())
def test_the_law_that_made_the_errors_is_found(b, power):
    n = np.repeat([5_000, 15_000, 25_000, 35_000, 50_000], 2)
    noise = np.tile([1.001, 0.999], 5)
    error = (2 * n.astype(float) ** -b if power else 0.5 * np.exp(-b * n / 50_000)) * noise
    laws = {law.name: law for law in report.fit_laws(n, error)}
    found = laws["power" if power else "exponential"]

    assert min(laws.values(), key=lambda law: law.aic) is found
    assert found.b == pytest.approx(b, abs=0.02)
    assert found.b_low <= found.b <= found.b_high


def test_two_sizes_are_too_few_for_a_law():
    with pytest.raises(DataError, match="2 sizes"):
        report.fit_laws([1, 1, 2], [0.5, 0.4, 0.3])


def test_compute_saved_is_read_off_the_random_curve():
    rows = [row("random", 0.3, 0, 0.60), row("random", 0.5, 0, 0.70), row("all", 1.0, 0, 0.80)]
    rows += [row("hard", 0.5, 0, 0.75)]

    ((_, needed, saved),) = report.compute_saved(report.summarise(rows))

    assert needed == pytest.approx(0.75)
    assert saved == pytest.approx(1 - 0.5 / 0.75)


def test_rows_survive_the_table(tmp_path):
    rows = [row("hard", 0.5, 0, 0.7123), row("random", 0.5, 0, 0.7)]
    for one in rows:
        grid.append_row(tmp_path / "t.csv", one, {"recipe": "r"})

    assert grid.read_rows(tmp_path / "t.csv") == rows


def test_a_report_without_rows_says_what_to_do(tmp_path, capsys):
    assert cifar10.main(["report", "--results", str(tmp_path)]) == 3
    assert "cifar10.py run" in capsys.readouterr().err


def test_the_report_writes_tables_and_figures(tmp_path):
    for keep in (0.3, 0.5, 0.7):
        for seed in (0, 1):
            for policy, gain in (("random", 0.0), ("hard", 0.01), ("easy", -0.01)):
                one = row(policy, keep, seed, 0.6 + 0.2 * keep + gain + 0.001 * seed)
                grid.append_row(tmp_path / "cifar10.csv", one, {"recipe": "r"})

    assert cifar10.main(["report", "--results", str(tmp_path)]) == 0

    with (tmp_path / "cifar10-summary.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    hard = [line for line in lines if line["policy"] == "hard"]
    assert [line["minus_random"] for line in hard] == ["0.0100"] * 3
    for name in ("cifar10-accuracy.png", "cifar10-scaling.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 300


# the command


def test_the_command_goes_on_with_what_is_missing_and_refuses_another_recipe(tmp_path, capsys):
    train_shards, test_shards = (write_shards(tmp_path / name, (60,), 2) for name in ("train", "test"))
    common = ["run", "--train", train_shards, "--test", test_shards, "--work", str(tmp_path / "work")]
    common += ["--results", str(tmp_path / "results"), "--members", "1", "--workers", "1"]

    assert cifar10.main([*common, "--epochs", "1", "--match", "iterations,none"]) == 0
    first = grid.read_rows(tmp_path / "results/cifar10.csv")
    assert cifar10.main([*common, "--epochs", "1", "--match", "iterations,none"]) == 0

    assert {r.cell.policy for r in first} == {"random"}
    assert grid.read_rows(tmp_path / "results/cifar10.csv") == first
    assert "every cell is done" in capsys.readouterr().out
    assert not (tmp_path / "results/supervised.csv").exists()
    assert cifar10.main([*common, "--epochs", "1", "--match", "epochs,el2n", "--minutes", "0"]) == 0
    assert (tmp_path / "results/supervised.csv").read_text().startswith("score,ssl_prototypes,el2n")
    assert cifar10.main([*common, "--epochs", "2"]) == 2
    assert "another recipe" in capsys.readouterr().err
