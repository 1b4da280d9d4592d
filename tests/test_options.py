"""What the flags of execution come to: a section of the settings, then an executor."""

import pytest
import typer

from sspruning import options
from sspruning.cli import app
from sspruning.config import load_config, override
from sspruning.errors import ConfigError, UsageError
from sspruning.stages.run import executor_for

COMMANDS = typer.main.get_command(app).commands
FLAGS = {"--executor", "--ray-address", "--num-gpus-per-worker"}


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_verb_that_takes_an_executor_takes_what_belongs_to_it(verb):
    taken = FLAGS & {flag for parameter in COMMANDS[verb].params for flag in parameter.opts}
    assert taken in (set(), FLAGS)


def test_an_address_implies_ray():
    assert options.execution(4, None, "head:6379", None) == {
        "workers": 4,
        "executor": "ray",
        "ray_address": "head:6379",
        "num_gpus_per_worker": None,
    }


def test_an_address_for_another_executor_is_refused():
    with pytest.raises(UsageError, match="--ray-address belongs to --executor ray, but --executor is 'local'"):
        options.execution(None, "local", "head:6379", None)


@pytest.mark.parametrize("value", [-1, "many", float("inf")])
def test_a_number_of_gpus_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="num_gpus_per_worker"):
        override(load_config(None), "execution", num_gpus_per_worker=value)


@pytest.fixture
def made(monkeypatch):
    """Return ``made(*settings)``: what an executor for these settings is made of."""
    monkeypatch.setattr("sspruning.stages.run.default_workers", lambda device: f"as for {device}")

    def record(*settings):
        asked = []

        class Executor:
            def close(self):
                asked.append("closed")

        def make(name, workers, timeout_s, **options):
            asked.extend([name, workers, options["gpus_per_worker"], options["address"]])
            return Executor()

        monkeypatch.setattr("sspruning.stages.run.make_executor", make)
        with executor_for(load_config(None, list(settings))):
            pass
        assert asked.pop() == "closed"
        return asked

    return record


@pytest.mark.parametrize(
    ("device", "set_to", "expected"),
    [
        ("auto", "null", None),
        ("cuda", "null", None),
        ("cuda:1", "null", 0),
        ("cpu", "null", 0),
        ("auto", "0", 0),
        ("cuda:1", "0.5", 0.5),
    ],
)
def test_workers_get_gpus_of_their_own_only_where_the_encoder_asks_for_any(device, set_to, expected, made):
    asked = made(f"encoder.device={device}", f"execution.num_gpus_per_worker={set_to}")
    assert asked == ["local", f"as for {device}", expected, None]


def test_a_cluster_counts_its_own_workers(made):
    ray = ("execution.executor=ray", "execution.ray_address=auto")
    assert made(*ray) == ["ray", None, None, "auto"]
    assert made(*ray, "execution.workers=3") == ["ray", 3, None, "auto"]


def test_where_work_runs_is_no_part_of_the_recipe():
    config = load_config(None)
    elsewhere = override(config, "execution", executor="ray", ray_address="head:6379", num_gpus_per_worker=0.5)
    assert elsewhere.recipe() == config.recipe()
