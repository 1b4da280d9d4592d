"""What tests of the pretraining tool share: the tool in this process, a corpus, and a recipe that takes a second."""

import sys
from pathlib import Path

import pytest
from corpora import make_corpus

sys.path.append(str(Path(__file__).parents[2] / "tools"))

CHANNELS = [8, 8, 8, 16]
RECIPE = ("--model-kwargs", f"channels={','.join(map(str, CHANNELS))}", "--image-size", "32", "--cache-px", "16")
RECIPE += ("--epochs", "2", "--batch-size", "16", "--precision", "fp32", "--device", "cpu")


@pytest.fixture(scope="module")
def one_thread():
    import torch  # here, as the other tools' tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Folder of two shards with 20 images each."""
    folder = tmp_path_factory.mktemp("pretraining") / "shards"
    make_corpus(folder, shards=2, samples=20)
    return folder


@pytest.fixture
def tiny(one_thread):
    """Return ``tiny(**changes)``: settings of the recipe."""
    from pretrain.settings import Settings

    def make(**changes):
        recipe = {"model_kwargs": {"channels": CHANNELS}, "image_size": 32, "cache_px": 16, "epochs": 2}
        recipe |= {"batch_size": 16, "precision": "fp32", "device": "cpu"}
        return Settings(**(recipe | changes))

    return make


@pytest.fixture
def tool(one_thread, capsys):
    """Return ``tool(*arguments, code)``: what the command printed, run in this process with the quick recipe."""
    import pretrain_encoder

    def run(*arguments, code=0, recipe=RECIPE):
        capsys.readouterr()
        ended = pretrain_encoder.main([*map(str, arguments[:1]), *recipe, *map(str, arguments[1:])])
        printed = "".join(capsys.readouterr())
        assert ended == code, printed
        return printed

    return run
