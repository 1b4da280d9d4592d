import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sspruning.encoders.pixels import build
from sspruning.errors import UsageError
from sspruning.records import EncoderSpec


def test_a_row_is_the_small_picture_without_its_mean():
    encoder = build(EncoderSpec(name="pixels", image_size=2))
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 255]]], np.uint8)).resize(
        (10, 10), 0
    )
    row = encoder.embed(encoder.prepare(image)[None])[0]
    assert row.tolist() == [212.5, -42.5, -42.5, -42.5, -42.5, -42.5, -42.5, -42.5, -42.5, -42.5, -42.5, 212.5]


def test_the_side_sets_the_dimension(picture):
    encoder = build(EncoderSpec(name="pixels", image_size=5))
    assert encoder.dim == 75
    assert encoder.prepare(picture()).shape == (5, 5, 3)


def test_a_flat_image_gives_zeros():
    encoder = build(EncoderSpec(name="pixels"))
    assert not encoder.embed(encoder.prepare(Image.new("RGB", (30, 20), (7, 7, 7)))[None]).any()


@pytest.mark.parametrize("field", ["model", "checkpoint", "factory"])
def test_settings_for_weights_are_refused(field):
    with pytest.raises(UsageError, match=field):
        build(EncoderSpec(name="pixels", **{field: "x"}))


def test_needs_no_torch():
    code = "import sys; from sspruning.encoders import build_encoder; from sspruning.records import EncoderSpec; "
    code += "build_encoder(EncoderSpec(name='pixels')); assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
