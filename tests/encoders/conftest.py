"""Models small enough to be made on the spot, with weights that are not degenerate."""

import hashlib
import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

MODEL_KWARGS = {"channels": [8, 8, 16, 16]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained_model():
    """Return ``make(name, seed)``: a timm trunk whose batch norms have seen data, so that folding them matters."""

    def make(name, seed=0, **kwargs):
        torch.manual_seed(seed)
        model = timm.create_model(name, **{"num_classes": 0, **kwargs})
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.normal_(norm.bias, 0, 0.2)
        return model.eval()

    return make


@pytest.fixture
def write_card():
    """Return ``write(path, model, half, **changes)``: the path of a card for a `resnet10t`, now beside its weights."""

    def write(path, model, *, half=True, **changes):
        weights = model.state_dict()
        if half:
            weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        save_file(weights, path.with_suffix(".safetensors"))
        card = {
            "architecture": "resnet10t",
            "model_kwargs": MODEL_KWARGS,
            "image_size": 32,
            "mean": [0.49, 0.48, 0.45],
            "std": [0.25, 0.24, 0.26],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "sha256": hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest(),
        }
        path.write_text(json.dumps(card | changes))
        return path

    return write


@pytest.fixture
def shipped_folder(tmp_path, trained_model, write_card):
    """Return ``make(seed, half)``: a folder with a card and weights like the ones that are shipped."""

    def make(seed=0, *, half=True):
        folder = tmp_path / f"shipped-{seed}-{half}"
        folder.mkdir()
        write_card(folder / "shipped.json", trained_model("resnet10t", seed, **MODEL_KWARGS), half=half)
        return folder

    return make


@pytest.fixture
def picture():
    """Return ``make(width, height, seed)``: an RGB image with structure at several scales."""

    def make(width=80, height=60, seed=0):
        noise = torch.rand((3, 7, 9), generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(noise[None], size=(height, width), mode="bilinear")[0]
        return Image.fromarray((smooth * 255).byte().permute(1, 2, 0).contiguous().numpy())

    return make
