import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sspruning.encoders.custom import build
from sspruning.errors import UsageError
from sspruning.records import EncoderSpec

GOOD = """
import torch
from torchvision import transforms

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.full((3,), SHIFT))

    def forward(self, x):
        return x.mean((2, 3)) + self.shift

def make():
    return Mean(), transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Return ``make(source)``: the name of an importable module with that source and a function `make` in it."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def make(source):
        name = f"custom_encoder_under_test_{len(written)}"
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return EncoderSpec(name="custom", factory=f"{name}:make", device="cpu", dtype="float32", batch_size=4)

    yield make
    for name in written:
        sys.modules.pop(name, None)


def test_a_row_is_what_the_module_returns_for_the_transformed_image(factory):
    encoder = build(factory(GOOD.replace("SHIFT", "2.0")))
    row = encoder.embed(encoder.prepare(Image.new("RGB", (20, 10), (255, 0, 51)))[None])
    assert encoder.dim == 3
    assert row.dtype == np.float32
    assert np.allclose(row, [[3.0, 2.0, 2.2]])


def test_the_identity_holds_the_factory_and_the_weights(factory):
    spec = factory(GOOD.replace("SHIFT", "2.0"))
    identity = build(spec).identity
    assert identity["model"] == spec.factory
    assert identity["weights_sha256"] == build(spec).identity["weights_sha256"]
    assert identity["weights_sha256"] != build(factory(GOOD.replace("SHIFT", "2.5"))).identity["weights_sha256"]


def test_a_training_module_is_put_into_eval_mode(factory):
    source = "import torch, numpy as np\ndef make():\n"
    source += "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9))\n"
    source += "    return net.train(), lambda image: np.ones((2, 5), np.float64)\n"
    encoder = build(factory(source))
    assert encoder.embed(encoder.prepare(Image.new("RGB", (4, 4)))[None]).tolist() == [[1.0] * 10]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("make = 3", "is int, not a function"),
        ("def other(): pass", "has no 'make'"),
        ("import absent_package_of_nobody", "cannot import.*PYTHONPATH"),
        ("def make(): raise KeyError('weights')", "failed: KeyError: 'weights'"),
        ("def make(): return 1", "returned int; it must return the pair"),
        ("def make(): return 1, 2", "first of the pair is int"),
        ("import torch\ndef make(): return torch.nn.Flatten(), 2", "second of the pair is int"),
        ("import torch\ndef make(): return torch.nn.Flatten(), lambda i: i", "returned Image; it must return a tensor"),
        (
            "import torch\ndef make(): return torch.nn.Identity(), lambda i: torch.ones(3, 4, 4)",
            r"must return \(rows, dim\)",
        ),
    ],
)
def test_a_factory_that_does_not_keep_its_contract_is_told_how(body, message, factory):
    with pytest.raises(UsageError, match=message):
        build(factory(body))


def test_a_transform_of_varying_shape_is_refused(factory):
    source = "import torch, numpy as np\ndef make(): return torch.nn.Flatten(), lambda image: np.asarray(image)[..., 0]"
    encoder = build(factory(source))
    with pytest.raises(UsageError, match=r"\(4, 5\) for a 5 x 4 image.*\(256, 256\) before"):
        encoder.prepare(Image.new("RGB", (5, 4)))


@pytest.mark.parametrize("name", [None, "", "package.module", ":make", "module:"])
def test_a_name_that_is_no_factory_is_refused(name):
    with pytest.raises(UsageError, match=r"package.module:function"):
        build(EncoderSpec(name="custom", factory=name))


@pytest.mark.parametrize(("field", "value"), [("model", "resnet50"), ("checkpoint", "w.pth"), ("image_size", 64)])
def test_settings_that_the_factory_decides_are_refused(field, value):
    with pytest.raises(UsageError, match=f"takes no {field}"):
        build(EncoderSpec(name="custom", factory="a:b", **{field: value}))


def test_threads_are_left_alone(factory):
    before = torch.get_num_threads()
    build(factory(GOOD.replace("SHIFT", "1.0")))
    assert torch.get_num_threads() == before
