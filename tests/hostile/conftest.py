"""A folder for every hostile case, and the table of all of them: ``pytest tests/hostile -m "" --hostile-table``."""

import os
import shutil
import signal
from pathlib import Path

import pytest

pytest.register_assert_rewrite("hostile.harness")

from hostile import harness  # noqa: E402 - its assertions are to say what they compared
from hostile.harness import EMBED, Arena  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--hostile-table", action="store_true", help="Print what became of every hostile case.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    if isinstance(case, harness.Case) and (call.when == "call" or report.failed):
        report.user_properties.append(("hostile", (case.number, case.title, case.outcome.letter)))
    return report


ROWS = {}


def pytest_runtest_logreport(report):
    for name, value in report.user_properties:
        if name == "hostile":
            number, title, letter = value
            ROWS[number, title] = (letter, report.outcome, report.duration)


def pytest_terminal_summary(terminalreporter, config):
    if not ROWS or not config.getoption("--hostile-table", default=False):
        return
    terminalreporter.section("hostile cases")
    for (number, title), (letter, outcome, seconds) in sorted(ROWS.items()):
        terminalreporter.write_line(f"{number:4d}  {title:<64.64} {letter:<3} {outcome:<7} {seconds:7.2f} s")
    good = sum(outcome == "passed" for _, outcome, _ in ROWS.values())
    total = sum(seconds for _, _, seconds in ROWS.values())
    terminalreporter.write_line(f"{good} of {len(ROWS)} as expected, {total:.1f} s")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Syncing to disk, and building the parser anew, would take most of the time here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("typer.testing._get_command", lambda app: harness.COMMAND)


@pytest.fixture(scope="session")
def _clean_embeddings(tmp_path_factory):
    """Embeddings of the good shards when nothing hostile stands between them."""
    here = Path.cwd()
    arena = Arena(tmp_path_factory.mktemp("clean"))
    try:
        arena.build(harness.Case(0, "nothing", lambda folder: None, None))
        assert arena.run(*EMBED).code == 0
        arena.ledger()
        return arena.embeddings
    finally:
        os.chdir(here)


@pytest.fixture
def arena(tmp_path, monkeypatch, _clean_embeddings):
    """An `Arena` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    made = Arena(tmp_path)
    made.clean = _clean_embeddings
    yield made
    signal.signal(signal.SIGTERM, before)
    shutil.rmtree(made.root, ignore_errors=True)
