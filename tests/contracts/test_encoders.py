"""What every encoder of the table promises. A new line in ENCODERS needs a builder here and nothing else."""

import hashlib
import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sspruning.encoders import ENCODERS, build_encoder, shipped
from sspruning.records import EncoderSpec

BATCH = 6
CUSTOM = """
import torch
from torchvision import transforms

def make():
    torch.manual_seed({seed})
    layers = torch.nn.Conv2d(3, 7, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers), transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
"""


def weights(model, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = {k: torch.rand(v.shape, generator=generator) for k, v in model.state_dict().items()}
    return {k: noise[k] if v.ndim == 1 else (noise[k] - 0.5).to(v.dtype) for k, v in model.state_dict().items()}


def write_card(path, seed, num_classes=0):
    kwargs = {"channels": [8, 8, 16, 16], "num_classes": num_classes}
    file = path.with_suffix(".safetensors")
    save_file(weights(timm.create_model("resnet10t", **kwargs), seed), file)
    card = {"architecture": "resnet10t", "model_kwargs": kwargs, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    card |= {"interpolation": "bicubic", "crop_pct": 1.0}
    card["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    path.write_text(json.dumps(card))
    return path


def shipped_spec(folder, seed, monkeypatch):
    write_card(folder / "shipped.json", seed)
    monkeypatch.setattr(shipped, "WEIGHTS_DIR", folder)
    return EncoderSpec(name="shipped")


def timm_spec(folder, seed, _):
    save_file(weights(timm.create_model("test_resnet", num_classes=0), seed), folder / "w.safetensors")
    return EncoderSpec(name="timm", model="test_resnet", checkpoint=str(folder / "w.safetensors"), image_size=48)


def card_spec(folder, seed, _):
    return EncoderSpec(name="card", checkpoint=str(write_card(folder / "own.json", seed, num_classes=16)))


def custom_spec(folder, seed, monkeypatch):
    (folder / "contract_factory.py").write_text(CUSTOM.format(seed=seed))
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("contract_factory", None)
    return EncoderSpec(name="custom", factory="contract_factory:make")


SPECS = {
    "shipped": shipped_spec,
    "timm": timm_spec,
    "card": card_spec,
    "custom": custom_spec,
    "pixels": lambda *_: EncoderSpec(name="pixels"),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def made(tmp_path, monkeypatch, dtype):
    """Return ``make(name, seed)``: an encoder of the table with weights drawn from the seed."""

    def make(name, seed=0):
        folder = tmp_path / f"{name}-{seed}"
        folder.mkdir(exist_ok=True)
        spec = SPECS[name](folder, seed, monkeypatch)
        return build_encoder(replace(spec, device="cpu", dtype=dtype, batch_size=BATCH))

    return make


def prepared(encoder, count=BATCH):
    rng = np.random.default_rng(0)
    shapes = [(32, 32), (50, 31), (20, 70), (1, 1), (64, 64), (1, 900)]
    images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
    return np.stack([encoder.prepare(image) for image in images[:count]])


def test_every_encoder_has_a_builder_here():
    assert sorted(SPECS) == sorted(ENCODERS)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_rows_are_finite_float32_of_the_stated_dimension(name, made):
    encoder = made(name)
    rows = encoder.embed(prepared(encoder))
    assert rows.shape == (BATCH, encoder.dim)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) == BATCH


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_row_does_not_depend_on_its_neighbours_or_their_number(name, made):
    encoder = made(name)
    batch = prepared(encoder)
    whole = encoder.embed(batch)
    for count in (1, 2, 5):
        assert encoder.embed(batch[:count]).tobytes() == whole[:count].tobytes()
    others = batch.copy()
    others[1:] = others[:0:-1]
    assert encoder.embed(others)[0].tobytes() == whole[0].tobytes()


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_an_empty_batch_gives_no_rows(name, made):
    encoder = made(name)
    assert encoder.embed(prepared(encoder)[:0]).shape == (0, encoder.dim)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_prepared_images_have_one_shape_and_the_input_is_not_changed(name, made):
    encoder = made(name)
    batch = prepared(encoder)
    assert {row.shape for row in batch} == {batch[0].shape}
    before = batch.tobytes()
    batch.flags.writeable = False
    encoder.embed(batch)
    encoder.embed(batch[:2])
    assert batch.tobytes() == before


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_identity_is_json_and_the_same_for_the_same_request(name, made):
    first = made(name).identity
    assert json.loads(json.dumps(first)) == first == made(name).identity
    needed = {"encoder", "model", "weights_sha256", "preprocess", "pooling", "dtype", "device", "batch_size"}
    assert needed <= set(first)
    assert first["batch_size"] == BATCH


@pytest.mark.parametrize("name", sorted(set(ENCODERS) - {"pixels"}))
def test_other_weights_give_another_identity_and_other_rows(name, made):
    one, two = made(name, 0), made(name, 1)
    assert one.identity["weights_sha256"] != two.identity["weights_sha256"]
    assert one.embed(prepared(one)).tobytes() != two.embed(prepared(two)).tobytes()


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_specification_travels_to_a_worker(name, tmp_path, monkeypatch):
    spec = SPECS[name](tmp_path, 0, monkeypatch)
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - made in this line
