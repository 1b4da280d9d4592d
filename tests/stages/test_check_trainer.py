"""What a check of trainers tells: every sample, lost ones by name, failures as results; and what the verb prints."""

import io
import json
import logging
import shutil
import signal
import sys
import types
import warnings

import pytest
import typer
from pruned_folders import pruned
from typer.testing import CliRunner

from sspruning.cli_trainers import check_trainer_command
from sspruning.errors import DataError, UsageError
from sspruning.stages.check_trainer import check_trainer
from sspruning.storage.digests import with_digest
from sspruning.trainers import TRAINERS
from sspruning.trainers.webdataset_loader import WebDatasetLoader

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return pruned(tmp_path_factory, "captioned")


@pytest.fixture
def keys(made):
    return sorted(made.content)


@pytest.fixture
def trainer(monkeypatch):
    """Return ``trainer(read, **attributes)``: the table now has one trainer, "odd", that reads so."""

    def put(read, **attributes):
        odd = WebDatasetLoader()
        odd.read = read
        for name, value in attributes.items():
            setattr(odd, name, value)
        module = types.ModuleType("odd_trainer")
        module.ODD = odd
        monkeypatch.setitem(sys.modules, "odd_trainer", module)
        monkeypatch.setattr(TRAINERS, "_table", {"odd": "odd_trainer:ODD"})

    return put


def check(made, **options):
    [found] = check_trainer(made.path, ["odd"], **options)
    return found


# what was read


def test_every_key_once_is_well(trainer, made, keys):
    trainer(lambda output: iter(keys[::-1]), packages=("numpy",))
    found = check(made)
    assert (found.ok, found.way, found.n_read, found.n_samples) == (True, "run", 42, 42)
    assert found.seconds > 0
    assert found.version.startswith("numpy ")


def test_lost_samples_are_counted_and_named(trainer, made, keys):
    trainer(lambda output: iter(keys[:-5]))
    found = check(made)
    assert (found.ok, found.n_lost, found.n_strange) == (False, 5, 0)
    assert len(found.lost) == 3
    assert set(found.lost) <= set(keys[-5:])


def test_samples_that_come_twice_or_from_elsewhere_are_counted_and_named(trainer, made, keys):
    trainer(lambda output: iter([*keys[:-2], keys[0], "stranger"]))
    found = check(made)
    assert (found.ok, found.n_read, found.n_lost, found.n_strange) == (False, 42, 2, 2)
    assert sorted(found.strange) == sorted([keys[0], "stranger"])


def test_an_endless_trainer_is_stopped(trainer, made, keys):
    def read(output):
        while True:
            yield from keys

    trainer(read)
    found = check(made)
    assert (found.ok, found.n_read, found.n_strange) == (False, 43, 1)


@pytest.mark.parametrize(("count", "well"), [(42, True), (41, False), (43, False)])
def test_where_keys_are_not_told_samples_are_counted(trainer, made, count, well):
    trainer(lambda output: iter([""] * count))
    found = check(made)
    assert (found.ok, found.keys_told, found.n_read) == (well, False, count)


def test_the_first_shards_can_be_checked_alone(trainer, made):
    seen = []
    trainer(lambda output: iter(seen.append([shard.name for shard in output.shards]) or [""] * output.n_samples))
    found = check(made, limit=2)
    assert seen == [["shard-000000.tar", "shard-000001.tar"]]
    assert (found.ok, found.n_samples) == (True, 28)


# what goes wrong


@pytest.mark.parametrize("error", [RuntimeError("no\nmore"), KeyError("fname"), AssertionError(), SystemExit(1)])
def test_whatever_a_trainer_raises_is_a_result(trainer, made, keys, error):
    def read(output):
        yield from keys[:7]
        raise error

    trainer(read)
    found = check(made)
    assert (found.ok, found.n_read) == (False, 7)
    assert found.problem.startswith(type(error).__name__)
    assert "\n" not in found.problem


def test_interrupts_are_no_result(trainer, made):
    def read(output):
        raise KeyboardInterrupt
        yield

    trainer(read)
    with pytest.raises(KeyboardInterrupt):
        check(made)


def test_a_trainer_that_is_not_installed_is_told_with_the_way_to_install_it(trainer, made):
    trainer(lambda output: iter(()), packages=("webdataset", "no_such_package.at_all"))
    found = check(made)
    assert (found.ok, found.way) == (None, "no package")
    assert found.problem == "not installed: no_such_package.at_all (pip install webdataset)"


def test_a_trainer_that_lacks_something_itself_counts_as_not_installed(trainer, made):
    def read(output):
        raise ImportError("No module named 'xformers'")
        yield

    trainer(read)
    found = check(made)
    assert (found.ok, found.way) == (None, "no package")
    assert "No module named 'xformers'" in found.problem


def test_its_rule_stands_in_for_what_is_not_installed(trainer, made, keys):
    trainer(None, packages=("no_such_package",), read_by_rule=lambda output: iter(keys))
    found = check(made)
    assert (found.ok, found.way, found.version) == (True, "by rule", "")
    assert "not installed: no_such_package" in found.remark


def test_a_trainer_without_its_index_is_not_started(trainer, made):
    trainer(None, needs=("index.json", "{stem}.x", "{shard}.y"))
    found = check(made)
    assert (found.ok, found.way) == (None, "no index")
    assert found.problem == "it needs index.json and 6 more: write again with odd among --index"


def test_unknown_names_and_limits_are_refused(made):
    with pytest.raises(UsageError, match="Did you mean 'timm'"):
        check_trainer(made.path, ["tim"])
    with pytest.raises(UsageError, match="--limit 0"):
        check_trainer(made.path, ["timm"], limit=0)


def test_a_folder_that_is_no_output_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished pruned shards here"):
        check_trainer(tmp_path, ["webdataset"])


def test_a_shard_with_other_samples_than_the_manifest_says_is_refused(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "pruned")
    manifest = tmp_path / "pruned" / ".sspruning" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][1]["n_samples"] = 13
    manifest.write_text(json.dumps(with_digest(content)))
    with pytest.raises(DataError, match=r"shard-000001\.tar: has 14 samples, the manifest says 13"):
        check_trainer(tmp_path / "pruned", ["webdataset"])


# what is heard


def test_logs_and_warnings_of_a_trainer_stay_off_the_terminal_and_the_first_is_kept(trainer, made, keys, capfd):
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    root = logging.getLogger()
    root.addHandler(handler)

    def read(output):
        logging.getLogger("odd").info("fine")
        logging.getLogger("odd").warning("sample %d is bad", 3)
        logging.warning("another")  # noqa: LOG015 - some trainers do
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        yield from keys

    trainer(read)
    try:
        before = root.handlers[:]
        assert check(made).heard == "sample 3 is bad"
        assert root.handlers == before
        logging.getLogger("odd").warning("heard again")
    finally:
        root.removeHandler(handler)
    assert terminal.getvalue() == "heard again\n"
    assert capfd.readouterr() == ("", "")


# the verb


@pytest.fixture
def verb():
    """Return ``verb(*args, code=0)``: what the command line prints."""
    app = typer.Typer()
    app.command()(check_trainer_command)
    before = signal.getsignal(signal.SIGTERM)

    def run(*args, code=0):
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == code, result.output
        return result.output

    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_verb_prints_a_row_and_the_command_for_each_trainer_that_was_named(verb, made):
    said = verb(made.path, "--webdataset", "--dino")
    assert f"42 samples of {made.path}" in said
    assert said.count("42 of 42") == 2
    assert "webdataset.WebDataset(" in said
    assert "ImageNet22k:root=" in said
    assert "timm" not in said


def test_the_verb_ends_with_3_if_a_trainer_loses_samples(verb, tmp_path_factory):
    said = verb(pruned(tmp_path_factory, "unlabeled").path, "--timm", "--webdataset", code=3)
    assert "0 of 42" in said
    assert "--cls cluster" in said
    assert "not read whole by timm" in said


def test_a_trainer_that_such_shards_cannot_train_fails_only_if_it_is_named(verb, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(TRAINERS, "_table", {"timm": TRAINERS._table["timm"]})
    assert "--cls cluster" in verb(pruned(tmp_path_factory, "unlabeled").path)


def test_an_index_that_is_missing_fails_only_if_its_trainer_is_named(verb, trainer, made, monkeypatch):
    shard = made.path / "shard-000001.idx"
    aside = shard.rename(made.path / "aside")
    try:
        said = verb(made.path, "--dali", code=3)
        assert "it needs shard-000001.idx: write again with dali among --index" in said
        monkeypatch.setattr(TRAINERS, "_table", {"dali": TRAINERS._table["dali"]})
        assert "no index files" in verb(made.path)
    finally:
        aside.rename(shard)


def test_all_trainers_are_checked_where_none_is_named(verb, trainer, made, keys):
    trainer(lambda output: iter(keys))
    assert "odd" in verb(made.path)


def test_a_trainer_that_is_not_installed_does_not_fail(verb, trainer, made):
    trainer(None, packages=("no_such_package",))
    assert "no: not installed" in verb(made.path)
