"""Settings of pretraining: from a file, from options, and what a checkpoint is bound to."""

from pathlib import Path

import pytest
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Settings, read_settings
from pretrain_encoder import parse, settings_of

from sspruning.errors import ConfigError, UsageError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("pretrain-*.yaml"))


@pytest.fixture
def settings(tmp_path):
    """Return ``settings(text, *options)``: what the command makes of a configuration file and options."""

    def make(text, *options):
        (tmp_path / "own.yaml").write_text(text)
        return settings_of(parse(["shards", "--out", "out", "--config", str(tmp_path / "own.yaml"), *options]))

    return make


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_file_makes_valid_settings(path):
    held = read_settings(path)
    made = settings_of(parse(["shards", "--out", "out", "--config", str(path)]))
    assert {name: getattr(made, name) for name in held} == held
    assert made.objective in OBJECTIVES
    assert made.init is None or made.init.endswith(".safetensors")  # of an earlier run
    assert f"--config configs/{path.name}" in path.read_text()


def test_there_are_configuration_files():
    assert CONFIGS


def test_a_file_sets_values_and_options_win(settings):
    text = "epochs: 7\nbatch_size: 64\nmean: [0.5, 0.5, 0.5]\nmodel_kwargs: {channels: [8, 8, 8, 16]}\n"
    made = settings(text, "--epochs", "3", "--seed", "5")
    assert (made.epochs, made.batch_size, made.seed) == (3, 64, 5)
    assert made.mean == (0.5, 0.5, 0.5)
    assert made.model_kwargs == {"channels": [8, 8, 8, 16]}
    assert made.temperature == Settings().temperature
    assert settings(text, "--model-kwargs", "channels=8,8,8,8").model_kwargs == {"channels": [8, 8, 8, 8]}


def test_settings_of_a_model_do_not_outlive_it(settings):
    text = "model: resnet10t\nmodel_kwargs: {channels: [8, 8, 8, 16]}\n"
    assert settings(text, "--model", "resnet18").model_kwargs == {}
    assert settings(text, "--model", "resnet10t").model_kwargs == {"channels": [8, 8, 8, 16]}
    assert settings("model: resnet18\n").model_kwargs == {}
    assert settings("epochs: 1\n").model_kwargs == Settings().model_kwargs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", r"expected a mapping of .*epochs.*; got \['epoch'\]"),
        ("- 3", "got list"),
        ("", "got NoneType"),
        ("epochs: [", "cannot be read as YAML"),
        ("epochs: '3'", "epochs is '3'; expected int"),
        ("epochs: 2.5", "epochs is 2.5; expected int"),
        ("epochs: true", "epochs is True; expected int"),
        ("epochs: null", "epochs is None; expected int"),
        ("weight_decay: 5e-4", "weight_decay is '5e-4'; expected float; YAML takes 5e-4 for text, write 5.0e-4"),
        ("mean: 0.5", "mean is 0.5; expected tuple"),
        ("std: [0.5, '0.5', 0.5]", "std is .* expected tuple"),
        ("model_kwargs: channels", "model_kwargs is 'channels'; expected dict"),
        ("init: 3", "init is 3; expected str | None"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(text, message, settings):
    with pytest.raises(ConfigError, match=message):
        settings(text)


def test_null_stands_for_none_and_integers_for_numbers(settings):
    made = settings("init: null\ncrop_px: null\ntemperature: 1\n")
    assert (made.init, made.crop_px, made.train_px, made.temperature) == (None, None, 64, 1)


def test_a_wrong_file_or_value_ends_with_exit_code_2(photographs, tool, tmp_path):
    (tmp_path / "own.yaml").write_text("epoch: 3\n")
    printed = tool(photographs, "--out", tmp_path / "out", "--config", tmp_path / "own.yaml", code=2)
    assert "own.yaml: expected a mapping of" in printed
    assert "cannot be read" in tool(photographs, "--out", tmp_path / "out", "--config", tmp_path / "absent", code=2)
    for option, message in {
        "--model=resnet5": "timm cannot create 'resnet5'",
        "--init=absent.safetensors": "is not a file",
        "--optimizer=adam": "must be sgd or muon",
    }.items():
        assert message in tool(photographs, "--out", tmp_path / "out", option, code=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_px": 0}, "crop_px is 0"),
        ({"norm_batch": 0}, "norm_batch is 0"),
        ({"model_kwargs": {"num_classes": 16}}, "must not set num_classes"),
        ({"whiten": 0.6}, r"whiten in 0\.\.0\.5"),
        ({"batch_size": 1}, "at least 2"),
        ({"std": (0.2, 0.2, 0.0)}, "std above 0"),
        ({"precision": "fp16"}, "must be auto, bf16 or fp32"),
    ],
)
def test_values_that_cannot_work_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        Settings(**changes)


def test_the_fingerprint_follows_the_content_of_the_start_and_not_its_place(tmp_path):
    one, moved = tmp_path / "one.safetensors", tmp_path / "moved.safetensors"
    one.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    before = Settings(init=str(one)).fingerprint(10)
    assert Settings(init=str(moved)).fingerprint(10) == before != Settings().fingerprint(10)
    one.write_bytes(b"others")
    assert Settings(init=str(one)).fingerprint(10) != before


def test_every_setting_has_an_option():
    options = vars(parse(["shards", "--out", "out"]))
    assert set(Settings.__dataclass_fields__) <= set(options)
