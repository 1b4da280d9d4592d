"""Every trainer of the table finds what it needs, says how it is started, and reads exactly the kept samples."""

import gc
from pathlib import Path

import pytest
import typer
from pruned_folders import pruned

from sspruning.cli_trainers import check_trainer_command
from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers import DEFAULT_INDEX, TRAINERS

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves files to the garbage collector
every_trainer = pytest.mark.parametrize("name", sorted(TRAINERS))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    return pruned(tmp_path_factory, "captioned")


@pytest.fixture(scope="module", autouse=True)
def _collected():
    yield
    gc.collect()


@every_trainer
def test_it_says_what_people_have_to_know(name, captioned):
    trainer = TRAINERS.resolve(name)
    assert trainer.title
    assert all(package.replace(".", "").replace("_", "").isalnum() for package in trainer.packages)
    assert trainer.install.startswith("pip install")
    assert str(captioned.path) in trainer.command(captioned.output)


@every_trainer
def test_its_files_are_the_ones_it_needs_and_lie_in_the_folder(name, captioned):
    trainer, output = TRAINERS.resolve(name), captioned.output
    for need in trainer.needs:
        for shard in output.shards:
            found = captioned.path / need.format(shard=shard.name, stem=Path(shard.name).stem)
            assert found.stat().st_size > 0
            assert found.resolve().is_relative_to(captioned.path.resolve())


@every_trainer
def test_it_has_nothing_against_samples_with_image_caption_and_class(name, captioned):
    assert TRAINERS.resolve(name).obstacles(captioned.output) == []


@every_trainer
def test_it_reads_exactly_the_kept_samples(name, captioned):
    [found] = check_trainer(captioned.path, [name])
    if found.way == "no package":
        pytest.skip(found.problem)
    assert found.ok, found
    assert (found.n_read, found.lost, found.strange, found.problem) == (len(captioned.content), [], [], "")


@every_trainer
def test_its_documented_rule_finds_the_same(name, captioned):
    keys = TRAINERS.resolve(name).read_by_rule(captioned.output)
    if keys is not None:
        assert sorted(keys) == sorted(captioned.content)


@every_trainer
def test_the_first_shards_can_be_read_alone(name, captioned):
    [found] = check_trainer(captioned.path, [name], limit=2)
    if found.way == "no package":
        pytest.skip(found.problem)
    assert found.ok, found
    assert found.n_read == 28


@every_trainer
def test_check_trainer_has_a_flag_for_it(name):
    app = typer.Typer()
    app.command()(check_trainer_command)
    flags = {parameter.name: parameter.opts for parameter in typer.main.get_command(app).params}
    assert flags[name] == [f"--{name.replace('_', '-')}"]


def test_index_files_written_by_default_are_those_of_trainers_of_the_table():
    assert set(DEFAULT_INDEX) <= set(TRAINERS)
