"""What Prometheus, TensorBoard and Weights & Biases are told, as their own packages read it."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from sspruning import progress as below
from sspruning import trackers as module
from sspruning.cli import app
from sspruning.errors import MachineError, UsageError
from sspruning.progress import SilentProgress
from sspruning.trackers import Prometheus, tracked

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "e2e" / "small_corpora.py")))


class Clock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1.7e9 + self.now

    def strftime(self, form):
        return "20260102-030405"


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(below, "time", made)
    return made


def samples(path):
    """``{(metric, stage): value}`` as Prometheus' own parser reads them; labels and types are checked on the way."""
    parser = pytest.importorskip("prometheus_client.parser", reason="pip install prometheus_client")
    found = {}
    for family in parser.text_string_to_metric_families(path.read_text(encoding="utf-8")):
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        for sample in family.samples:
            assert sample.labels["run"] == path.stem
            found[sample.name.removeprefix("sspruning_"), sample.labels.get("stage")] = sample.value
    return found


def test_with_nothing_asked_for_the_progress_is_the_given_one():
    given = SilentProgress()
    with tracked(given) as progress:
        assert progress is given


def test_prometheus_reads_every_stage_while_it_runs_and_after(clock, tmp_path):
    path = tmp_path / "new" / "my job.prom"
    with tracked(SilentProgress(), prometheus=path) as progress:
        assert samples(path) == {("run_active", None): 1, ("run_finished", None): 0}
        with progress.stage("inspect", None, "shards") as ticker:
            ticker.tick(3)
        with progress.stage("embed", 100, "samples") as ticker:
            clock.now += 4
            ticker.tick(20)
            found = samples(path)
            assert found["stage_done", "embed"] == 20
            assert found["stage_total", "embed"] == 100
            assert (found["stage_per_second", "embed"], found["stage_seconds", "embed"]) == (5, 4)
            assert found["peak_bytes", None] > 1e6
            assert found["stage_done", "inspect"] == 3
            assert ("stage_total", "inspect") not in found
            assert (found["run_active", None], found["run_finished", None]) == (1, 0)
    found = samples(path)
    assert (found["run_active", None], found["run_finished", None]) == (0, 1)
    assert found["stage_done", "embed"] == 20
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_text_is_that_of_the_format(clock, tmp_path):
    path = tmp_path / 'a"b.prom'
    with tracked(SilentProgress(), prometheus=path) as progress, progress.stage("embed", 2, "samples") as ticker:
        ticker.tick(2)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert 'sspruning_stage_done{run="a\\"b",stage="embed",unit="samples"} 2' in lines
    assert "# TYPE sspruning_stage_done gauge" in lines


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_run_that_stops_is_neither_active_nor_finished(clock, tmp_path, error):
    path = tmp_path / "job.prom"
    with (  # noqa: PT012 - the stage is the test
        pytest.raises(error),
        tracked(SilentProgress(), prometheus=path) as progress,
        progress.stage("embed", 9, "samples") as ticker,
    ):
        ticker.tick(4)
        raise error
    found = samples(path)
    assert (found["run_active", None], found["run_finished", None], found["stage_done", "embed"]) == (0, 0, 4)


def test_ticks_write_the_file_at_most_once_a_second(clock, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Prometheus, "_write", lambda self, **_: written.append(clock.now))
    with (
        tracked(SilentProgress(), prometheus=tmp_path / "a.prom") as progress,
        progress.stage("embed", 100, "samples") as ticker,
    ):
        written.clear()
        for _ in range(400):
            clock.now += 0.0625
            ticker.tick()
        assert written == [1001.0 + i for i in range(25)]


def test_the_given_progress_hears_everything_as_before(clock, tmp_path):
    def told(path, **places):
        with tracked(SilentProgress(path), **places) as progress:
            with progress.stage("embed", 9, "samples") as ticker:
                clock.now += 3
                ticker.tick(6)
            progress.note("a note")
            progress.event("facts", x=1)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{key: line[key] for key in line if key not in {"time", "peak_bytes"}} for line in lines]

    assert told(tmp_path / "a", prometheus=tmp_path / "x.prom") == told(tmp_path / "b")


def test_a_file_that_can_no_longer_be_written_warns_once_and_the_work_goes_on(clock, tmp_path):
    events, folder = tmp_path / "events.jsonl", tmp_path / "gone"
    with (
        tracked(SilentProgress(events), prometheus=folder / "a.prom") as progress,
        progress.stage("embed", 9, "samples") as ticker,
    ):
        (folder / "a.prom").unlink()
        folder.rmdir()
        for _ in range(3):
            clock.now += 2
            ticker.tick()
    notes = [line for line in events.read_text(encoding="utf-8").splitlines() if "warning: Prometheus" in line]
    assert len(notes) == 1


def test_places_that_cannot_be_used_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"names end in \.prom"), tracked(SilentProgress(), prometheus="a.txt"):
        pytest.fail("the work began")
    with (
        pytest.raises(MachineError, match=r"paths\.prometheus.*cannot be written"),
        tracked(SilentProgress(), prometheus=tmp_path / "file" / "a.prom"),
    ):
        pytest.fail("the work began")


@pytest.mark.parametrize(("name", "library"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_library_that_is_missing_is_named_with_its_command_before_the_work(name, library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MachineError, match=f"pip install {name}"), tracked(SilentProgress(), **{name: "x"}):
        pytest.fail("the work began")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's generated code
def test_tensorboard_reads_a_curve_of_each_stage(clock, tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    with (
        tracked(SilentProgress(), tensorboard=tmp_path / "tb") as progress,
        progress.stage("embed", 100, "samples") as ticker,
    ):
        for _ in range(25):
            clock.now += 1
            ticker.tick(2)
    found = reader.EventAccumulator(str(tmp_path / "tb" / "20260102-030405"))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["embed/done", "embed/peak_bytes", "embed/per_second"]
    assert [(event.step, event.value) for event in found.Scalars("embed/done")] == [(20, 20), (40, 40), (50, 50)]
    assert [event.value for event in found.Scalars("embed/per_second")] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of wandb and its service
def test_weights_and_biases_records_runs_offline_with_their_end(clock, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    ends = []
    finish = wandb.Run.finish
    monkeypatch.setattr(wandb.Run, "finish", lambda run, exit_code: (ends.append(exit_code), finish(run, exit_code))[1])

    def work(*, fails):
        with (
            tracked(SilentProgress(), wandb="pruning") as progress,
            progress.stage("embed", 100, "samples") as ticker,
        ):
            clock.now += 30
            ticker.tick(60)
            if fails:
                raise ValueError

    work(fails=False)
    with pytest.raises(ValueError):  # noqa: PT011 - the one above
        work(fails=True)
    wandb.teardown()
    records = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert (len(records), ends) == (2, [0, 1])
    for record in records:
        content = record.read_bytes()
        assert b"pruning" in content
        assert b"embed/per_second" in content


def test_run_and_embed_keep_the_file_that_the_settings_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SMALL.CONFIG)
    SMALL.corpus(tmp_path / "shards")

    def call(*args):
        result = CliRunner().invoke(app, [*args, "--executor", "inline", "--set", "paths.prometheus=told/job.prom"])
        assert result.exit_code == 0, result.output
        found = samples(tmp_path / "told" / "job.prom")
        assert found["run_finished", None] == 1
        return found

    embed = ("embed", "shards", "--store", "store", "--encoder", "pixels")
    first = call(*embed)
    assert first["stage_done", "embed"] == first["stage_total", "embed"] > 0
    parts = {path.name: path.read_bytes() for path in (tmp_path / "store" / "parts").iterdir()}
    found = call("run", "tiny.yaml")
    assert {stage for _, stage in found} >= {"embed", "cluster", "assign", "select", "write"}
    result = CliRunner().invoke(app, [*embed, "--executor", "inline", "--set", "paths.prometheus="])
    assert "nothing to do" in result.output  # no setting of this kind makes a store stale
    assert {path.name: path.read_bytes() for path in (tmp_path / "store" / "parts").iterdir()} == parts
