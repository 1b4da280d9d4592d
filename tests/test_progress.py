import io
import json

import numpy as np
import pytest

from sspruning import progress as module
from sspruning.progress import ConsoleProgress, SilentProgress


class Clock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1.7e9 + self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def events_in(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_library_is_silent(capfd):
    progress = SilentProgress()
    with progress.stage("embed", 3, "samples") as ticker:
        ticker.tick()
        ticker.tick(2)
    progress.note("warning: something")
    progress.event("anything", x=1)
    assert capfd.readouterr() == ("", "")


def test_off_a_terminal_a_line_a_minute_says_how_far_how_fast_and_how_long(clock):
    stream = io.StringIO()
    with ConsoleProgress(stream=stream).stage("embed", 10_000, "samples") as ticker:
        for _ in range(300):
            clock.now += 1
            ticker.tick(20)
        lines = stream.getvalue().splitlines()
        assert lines[0] == "embed: 1,200 of 10,000 samples, 20/s, 7 min 20 s left"
        assert [line.split()[1] for line in lines] == ["1,200", "2,400", "3,600", "4,800", "6,000"]
    assert stream.getvalue().splitlines()[-1] == "embed: 6,000 samples in 5 min 00 s (20/s)"


def test_without_a_total_there_is_no_time_left(clock):
    stream = io.StringIO()
    with ConsoleProgress(stream=stream).stage("embed", None, "samples") as ticker:
        clock.now += 61
        ticker.tick(122)
        assert stream.getvalue() == "embed: 122 samples, 2/s\n"


def test_a_short_stage_says_one_line_at_its_end_and_an_idle_one_none(clock):
    stream = io.StringIO()
    progress = ConsoleProgress(stream=stream)
    with progress.stage("assign", 50, "samples") as ticker:
        clock.now += 2.5
        ticker.tick(50)
    with progress.stage("embed", 0, "shards"):
        pass
    assert stream.getvalue() == "assign: 50 samples in 2.5 s (20/s)\n"


def test_quiet_leaves_only_warnings(clock, tmp_path):
    stream, events = io.StringIO(), tmp_path / "events.jsonl"
    progress = ConsoleProgress(events, stream=stream, quiet=True)
    with progress.stage("embed", 100, "samples") as ticker:
        clock.now += 120
        ticker.tick(100)
    progress.note("for your information")
    progress.note("warning: few samples")
    assert stream.getvalue() == "warning: few samples\n"
    assert [event["event"] for event in events_in(events)] == ["start", "end", "note", "note"]


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with ConsoleProgress(stream=stream).stage("embed", 4, "samples") as ticker:
        ticker.tick(4)
    assert stream.getvalue().startswith("embed: 4 samples in ")


def test_events_are_lines_of_json(clock, tmp_path):
    path = tmp_path / "new" / "events.jsonl"
    progress = SilentProgress(path)
    with progress.stage("embed", 8, "samples") as ticker:
        clock.now += 4
        ticker.tick(8)
    progress.note('two\nlines, "quotes" and é')
    start, end, note = events_in(path)
    assert (start["event"], start["stage"], start["total"], start["unit"]) == ("start", "embed", 8, "samples")
    assert (end["event"], end["done"], end["seconds"], end["per_second"]) == ("end", 8, 4, 2)
    assert (note["event"], note["text"]) == ("note", 'two\nlines, "quotes" and é')
    assert all(event["time"] > 1.7e9 for event in (start, end, note))


def test_facts_of_any_kind_stay_valid_json(tmp_path):
    path = tmp_path / "events.jsonl"
    SilentProgress(path).event(
        "facts", nothing=float("nan"), all=float("inf"), path=path, count=np.int64(3), nested=[-np.inf]
    )
    (event,) = events_in(path)
    assert event["event"] == "facts"
    assert event["path"] == str(path)


def test_events_are_added_to_those_of_earlier_runs(tmp_path):
    path = tmp_path / "events.jsonl"
    SilentProgress(path).note("first")
    SilentProgress(path).note("second")
    assert [event["text"] for event in events_in(path)] == ["first", "second"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_stage_that_is_stopped_is_recorded_as_interrupted(clock, tmp_path, error):
    path, stream = tmp_path / "events.jsonl", io.StringIO()
    progress = ConsoleProgress(path, stream=stream)
    with pytest.raises(error), progress.stage("embed", 10, "samples") as ticker:  # noqa: PT012 - the stage is the test
        ticker.tick(3)
        clock.now += 2
        raise error
    assert [(e["event"], e.get("done")) for e in events_in(path)] == [("start", None), ("interrupted", 3)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (18_120, "5 h 02 min"),
    ],
)
def test_times_are_written_for_people(seconds, text):
    assert module.duration(seconds) == text
