import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sspruning.encoders.torch_forward import TorchForward, fold_batchnorm, pad_rows, pick_device, pick_dtype
from sspruning.errors import MachineError, UsageError
from sspruning.records import EncoderSpec

PLAIN = EncoderSpec(device="cpu", dtype="float32", batch_size=4)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "folded"),
    [("resnet10t", 14), ("test_efficientnet", 13), ("test_vit", 0), ("resnet50", 53)],
)
def test_folding_batch_norms_leaves_the_output_as_it_was(name, folded, trained_model):
    side = 160 if name == "test_vit" else 64
    model, sample = trained_model(name), noise(2, 3, side, side)
    with torch.inference_mode():
        before = model(sample)
        assert fold_batchnorm(model, sample[:1]) == folded
        after = model(sample)
    assert torch.nn.functional.cosine_similarity(before, after).min() > 0.999999
    left = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert left == 0


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean += 1

    def forward(self, x):
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.std(), self.bias)


@pytest.mark.parametrize(
    "module",
    [UsedTwice(), nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())],
    ids=["output used twice", "weights changed on the way"],
)
def test_folding_is_undone_where_it_would_change_the_output(module):
    norm = next(m for m in module.eval().modules() if isinstance(m, nn.BatchNorm2d))
    norm.weight.data = torch.tensor([0.5, 1.0, 2.0, 4.0])
    with torch.inference_mode():
        before = module(noise(1, 3, 8, 8))
        assert fold_batchnorm(module, noise(1, 3, 8, 8)) == 0
        assert torch.equal(module(noise(1, 3, 8, 8)), before)


def test_a_convolution_shared_by_two_norms_is_left_alone():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return (self.one(self.conv(x)) + self.two(self.conv(x))).mean((2, 3))

    assert fold_batchnorm(Shared().eval(), noise(1, 3, 8, 8)) == 0


def test_a_probe_takes_bfloat16_only_when_clearly_faster(monkeypatch):
    monkeypatch.setattr("sspruning.encoders.torch_forward.has_bfloat16", lambda _: True)
    monkeypatch.setattr("sspruning.encoders.torch_forward._PROBE_S", 0.0)
    cpu = torch.device("cpu")
    notes = []
    assert pick_dtype("auto", cpu, itertools.cycle([1.2, 1.0]), notes) == torch.bfloat16
    assert pick_dtype("auto", cpu, itertools.cycle([1.1, 1.0]), notes) == torch.float32
    assert "1.10 x" in notes[1]


def test_without_hardware_for_bfloat16_nothing_is_timed(monkeypatch):
    monkeypatch.setattr("sspruning.encoders.torch_forward.has_bfloat16", lambda _: False)
    assert pick_dtype("auto", torch.device("cpu"), iter(()), []) == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_explicit_dtype_is_obeyed_without_a_probe(dtype):
    assert str(pick_dtype(dtype, torch.device("cpu"), iter(()), [])) == f"torch.{dtype}"


def test_unknown_dtypes_and_devices_are_refused():
    with pytest.raises(UsageError, match="float16"):
        pick_dtype("float16", torch.device("cpu"), iter(()), [])
    for name in ("gpu", "meta"):
        with pytest.raises(UsageError, match="auto, cpu, cuda"):
            pick_device(name, [])


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_absent_is_an_error_but_auto_falls_back():
    with pytest.raises(MachineError, match="--device auto or cpu"):
        pick_device("cuda:0", [])
    assert pick_device("auto", []).type in {"cpu", "mps"}


def test_a_gpu_that_does_not_answer_is_noted(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "zeros", broken)
    notes = []
    assert pick_device("auto", notes).type == "cpu"
    assert notes == ["running on the CPU: the GPU does not answer (CUDA error: no kernel image)"]


def test_a_module_that_returns_maps_is_refused():
    with pytest.raises(UsageError, match=r"\(1, 4, 6, 6\).*\(rows, dim\)"):
        TorchForward(nn.Conv2d(3, 4, 3), noise(1, 3, 8, 8), PLAIN, [])


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(UsageError, match="batch_size"):
        TorchForward(nn.Flatten(), noise(1, 4), EncoderSpec(batch_size=0), [])


def test_bfloat16_comes_back_as_float32_and_near_the_exact_result(trained_model):
    sample = noise(4, 3, 32, 32)
    exact = TorchForward(trained_model("resnet10t"), sample[:1], PLAIN, [])
    half = TorchForward(trained_model("resnet10t"), sample[:1], EncoderSpec(device="cpu", dtype="bfloat16"), [])
    a, b = exact.rows(sample, 4), half.rows(sample, 4)
    assert b.dtype == np.float32
    assert half.identity["dtype"] == "bfloat16"
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999


def test_padding_copies_only_when_it_has_to():
    full = np.ones((3, 2), np.uint8)
    assert pad_rows(full, 3) is full
    assert pad_rows(full[:2], 3).tolist() == [[1, 1], [1, 1], [0, 0]]
    full.flags.writeable = False
    assert pad_rows(full, 3).flags.writeable
    with pytest.raises(UsageError, match="batch_size is 2"):
        pad_rows(full, 2)
