"""Hostile inputs and settings are refused before any work, and nothing of them runs."""

import pytest
from hostile.cases_config import CONFIGS, INPUTS
from hostile.cases_weights import CASES as WEIGHTS
from hostile.cases_weights import MODEL
from hostile.harness import EMBED, params, shard_of

VERB, _, *OPTIONS = EMBED


@pytest.mark.parametrize("case", params(INPUTS))
def test_an_input_that_names_no_shard_is_refused(case, arena):
    arena.build(case)
    case.outcome.check(arena, arena.run(VERB, *case.inputs, *OPTIONS))


@pytest.mark.parametrize("case", params(CONFIGS))
def test_a_configuration_that_cannot_be_meant_is_refused(case, arena):
    arena.build(case)
    settings = [part for setting in case.settings for part in ("--set", setting)]
    case.outcome.check(arena, arena.run("run", "hostile.yaml", *settings))


@pytest.fixture(scope="module")
def _torch_is_loaded():
    """A folder for compiled kernels in the system's temporary one is torch's own doing, when it is first imported."""
    import timm

    timm.create_model(MODEL)


@pytest.mark.usefixtures("_torch_is_loaded")
@pytest.mark.parametrize("case", params(WEIGHTS))
def test_weights_that_could_do_harm_are_refused(case, arena):
    arena.build(case)
    (checkpoint,) = case.inputs
    encoder = ("card",) if checkpoint.endswith(".json") else ("timm", "--model", MODEL)
    command = ("embed", "shards", "--store", "store", "--executor", "inline", "--device", "cpu")
    case.outcome.check(arena, arena.run(*command, "--encoder", *encoder, "--checkpoint", checkpoint))


def test_a_shard_with_the_longest_name_that_there_is_gets_a_shorter_one(arena):
    for letter in "xy":
        (arena.shards / f"{'n' * 250}{letter}.tar").write_bytes(shard_of())
    (arena.shards / f"{'n' * 250}y.tar").write_bytes(b"")
    arena.look()
    assert arena.run(*EMBED).code == 3
    names = sorted(arena.ledger(), key=len)
    assert names[:2] == ["a", "c"]
    assert [len(name) for name in names[2:]] == [140, 140]
    assert sorted(map(type, arena.ledger().values()), key=str) == [dict, dict, dict, str]
