"""The pretraining command: label-free, resumable to the last bit, and its result loads."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

TOOL = Path(__file__).parents[2] / "tools" / "pretrain_encoder.py"
CHANNELS = [8, 8, 8, 16]
RECIPE = ("--model-kwargs", f"channels={','.join(map(str, CHANNELS))}", "--image-size", "32", "--cache-px", "16")
RECIPE += ("--epochs", "2", "--batch-size", "16", "--precision", "fp32", "--device", "cpu")


def pretrain(*arguments, check=True, **kwargs):
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **kwargs)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def write_shard(path, images, *, label=None):
    with tarfile.open(path, "w") as archive:
        for row, pixels in enumerate(images):
            members = {"png": encoded(pixels)} | ({} if label is None else {"cls": label})
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{path.stem}-{row:03d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_corpus(folder, *, label=None):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(2):
        images = rng.integers(0, 256, (20, 20, 24, 3), dtype=np.uint8)
        write_shard(folder / f"s-{number}.tar", images, label=label)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("pretrain") / "shards")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrain") / "whole"
    pretrain(corpus, "--out", out, *RECIPE, "--keep-every", 1)
    return out


def test_exported_weights_load_into_the_named_architecture(finished):
    card = json.loads((finished / "encoder.json").read_text())
    tensors = load_file(finished / "encoder.safetensors")
    model = timm.create_model(card["architecture"], num_classes=0, **card["model_kwargs"])

    model.load_state_dict(tensors, strict=True)

    assert card["model_kwargs"] == {"channels": CHANNELS}
    assert (card["epochs"], card["seed"], card["image_size"]) == (2, 0, 32)
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float16}


def test_log_has_a_line_an_epoch(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]

    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_a_killed_run_ends_with_the_same_bytes(corpus, finished, tmp_path):
    killer = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1)); import pretrain_encoder as tool, pretrain.training as t\n"
        "step = t.Trainer._step\n"
        "def dying(self, batch, number, generator):\n"
        "    if number == 3: os.kill(os.getpid(), 9)\n"  # in the middle of the second epoch
        "    return step(self, batch, number, generator)\n"
        "t.Trainer._step = dying\n"
        "tool.main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = [str(corpus), "--out", str(tmp_path), *RECIPE]
    died = subprocess.run([sys.executable, "-c", killer, str(TOOL.parent), *arguments], env=environment, timeout=120)
    assert died.returncode == -9
    assert json.loads((tmp_path / "encoder.json").read_text())["epochs"] == 1

    rerun = pretrain(*arguments)

    assert "continuing after epoch 1 of 2" in rerun.stdout
    assert (tmp_path / "encoder.safetensors").read_bytes() == (finished / "encoder.safetensors").read_bytes()


def test_each_epoch_can_be_kept(finished):
    assert (finished / "encoder-0002.safetensors").read_bytes() == (finished / "encoder.safetensors").read_bytes()
    assert (finished / "encoder-0001.safetensors").read_bytes() != (finished / "encoder.safetensors").read_bytes()


def test_labels_change_nothing(finished, tmp_path):
    labelled = write_corpus(tmp_path / "shards", label=b"not even a number")

    pretrain(labelled, "--out", tmp_path / "out", *RECIPE)

    assert (tmp_path / "out/encoder.safetensors").read_bytes() == (finished / "encoder.safetensors").read_bytes()


def test_a_finished_run_is_left_as_it_is(corpus, finished):
    before = (finished / "encoder.safetensors").read_bytes()

    done = pretrain(corpus, "--out", finished, *RECIPE, "--keep-every", 1)

    assert "nothing left to train" in done.stdout
    assert (finished / "encoder.safetensors").read_bytes() == before


def test_a_checkpoint_of_other_settings_is_refused(corpus, finished):
    done = pretrain(corpus, "--out", finished, *RECIPE, "--seed", 1, check=False)

    assert done.returncode == 3
    assert "other settings" in done.stderr


def test_more_images_than_memory_are_refused_before_decoding(corpus, tmp_path):
    done = pretrain(corpus, "--out", tmp_path, *RECIPE, "--memory-gb", 1e-5, check=False)

    assert done.returncode == 5
    assert "40 images at 16 x 16 pixels" in done.stderr


def test_undecodable_images_are_counted_and_left_out(corpus, tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        for name, data in {"a.png": b"no image", "b.txt": b"text"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

    done = pretrain(corpus, tmp_path / "bad.tar", "--out", tmp_path / "out", *RECIPE, "--epochs", 1)

    assert "40 images" in done.stdout
    assert "'no_image': 1" in done.stdout
    assert "'not_an_image': 1" in done.stdout
