import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from sspruning.encoders.preprocess import Preprocess
from sspruning.errors import UsageError

CONFIGS = {
    "no crop": {"input_size": (3, 64, 64), "crop_pct": 1.0, "interpolation": "bicubic"},
    "crop": {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bilinear"},
    "squash": {"input_size": (3, 48, 48), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
    "border": {"input_size": (3, 48, 48), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "border"},
}
SIZES = [(32, 32), (64, 64), (100, 60), (61, 97), (300, 40), (1, 1), (5, 200)]


def config_of(kind):
    return {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_mode": "center", **CONFIGS[kind]}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("size", SIZES)
def test_pixels_and_numbers_equal_timms_own_transform(kind, size, picture):
    config, image = config_of(kind), picture(*size)
    wanted = create_transform(**config, is_training=False)(image)
    preprocess = Preprocess(config)
    pixels = preprocess.geometry(image)
    factor, offset = preprocess.affine_row()
    ours = (pixels.reshape(len(pixels), -1).astype(np.float32) * factor + offset).reshape(pixels.shape)
    assert pixels.dtype == np.uint8
    assert torch.from_numpy(ours).permute(2, 0, 1).sub(wanted).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 9_999)])
def test_an_elongated_image_takes_its_centre_without_a_huge_intermediate(size, monkeypatch):
    seen = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, to, *a, **k: seen.append(to) or resize(self, to, *a, **k))
    image = Image.new("RGB", size)
    middle = [n // 3 if n > 3 else 0 for n in size]
    image.paste((255, 255, 255), (*middle, size[0] - middle[0], size[1] - middle[1]))
    pixels = Preprocess(config_of("crop")).geometry(image)
    assert pixels.shape == (64, 64, 3)
    assert pixels.min() == 255  # the middle is white
    assert max(max(to) for to in seen) <= 9 * 73


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 32)])
def test_models_without_square_rgb_inputs_are_refused(shape):
    with pytest.raises(UsageError, match=f"{shape[0]} x {shape[1]} x {shape[2]}"):
        Preprocess({**config_of("crop"), "input_size": shape})


def test_the_description_tells_all_that_changes_a_pixel():
    described = Preprocess(config_of("crop")).described
    assert described == {
        "input_size": [3, 64, 64],
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "jpeg_min_side": 146,
    }


def test_a_models_own_configuration_fits():
    config = resolve_data_config({}, model=timm.create_model("test_resnet", num_classes=0))
    assert Preprocess(config).side == 160
