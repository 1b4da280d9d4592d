import argparse
import os

import pytest
import timm
import torch
from safetensors.torch import save_file

from sspruning.encoders.checkpoint import load_trunk, read_tensors, state_dict_sha256
from sspruning.errors import UsageError


def with_prefix(tensors, prefix):
    return {prefix + name: value for name, value in tensors.items()}


def foreign_files(tensors):
    """The layouts in which the methods' authors published their ResNet-50s, made from given trunk tensors."""
    fc = {"fc.weight": torch.zeros(5, 4), "fc.bias": torch.zeros(5)}
    mlp = {"fc.0.weight": torch.zeros(4, 4), "fc.2.weight": torch.zeros(4, 4)}
    other = {name: torch.full_like(value, 7) for name, value in tensors.items()}
    swav_heads = {"module.projection_head.0.weight": torch.zeros(4, 4), "module.prototypes.weight": torch.zeros(9, 4)}
    dino = {
        "teacher": with_prefix(tensors, "backbone.") | {"head.mlp.0.weight": torch.zeros(3, 3)},
        "student": with_prefix(other, "module.backbone."),
        "args": argparse.Namespace(arch="resnet50"),
        "epoch": 100,
    }
    return {
        "torchvision": tensors | fc,
        "swav": with_prefix(tensors, "module.") | swav_heads,
        "dino, backbone only": tensors,
        "dino, full": dino,
        "moco v2": {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": with_prefix(tensors | mlp, "module.encoder_q.")
            | with_prefix(other, "module.encoder_k.")
            | {"module.queue": torch.zeros(4, 9)},
        },
        "moco v3": {
            "state_dict": with_prefix(tensors | mlp, "module.base_encoder.")
            | with_prefix(other, "module.momentum_encoder.")
            | {"module.predictor.0.weight": torch.zeros(3, 3)},
        },
        "vicreg, full": {
            "model": with_prefix(tensors, "module.backbone.") | {"module.projector.0.weight": torch.zeros(3, 3)},
            "optimizer": {"state": {}},
        },
        "flat teacher and student": with_prefix(other, "student.backbone.") | with_prefix(tensors, "teacher.backbone."),
    }


@pytest.mark.parametrize("layout", sorted(foreign_files({})))
def test_published_layouts_load_into_the_trunk(layout, tmp_path, trained_model):
    source, model = trained_model("test_resnet", seed=1), timm.create_model("test_resnet", num_classes=0)
    torch.save(foreign_files(source.state_dict())[layout], tmp_path / "weights.pth")
    load_trunk(model, tmp_path / "weights.pth")
    assert state_dict_sha256(model) == state_dict_sha256(source)


def test_torchvision_names_are_those_of_timms_resnet50(tmp_path):
    from torchvision.models import resnet50

    source, model = resnet50(), timm.create_model("resnet50", num_classes=0)
    torch.save(with_prefix(source.state_dict(), "module."), tmp_path / "swav.pth.tar")
    notes = load_trunk(model, tmp_path / "swav.pth.tar")
    assert torch.equal(model.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    assert notes == [
        "prefix 'module.' stripped from 320 tensors",
        "2 head tensors dropped: fc.weight, fc.bias",
    ]


def test_what_was_not_used_is_told_apart(tmp_path, trained_model):
    held = trained_model("test_resnet").state_dict()
    held = {
        **with_prefix(held, "module."),
        "module.fc.weight": torch.zeros(2),
        "module.odd": torch.zeros(1),
        "q": torch.ones(1),
    }
    save_file(held, tmp_path / "w.safetensors")
    notes = load_trunk(timm.create_model("test_resnet", num_classes=0), tmp_path / "w.safetensors")
    assert notes[1:] == [
        "1 head tensors dropped: fc.weight",
        "1 unexpected tensors ignored: odd",
        "1 outside the trunk, ignored: q",
    ]


def test_a_missing_trunk_tensor_is_an_error_that_names_it(tmp_path, trained_model):
    held = trained_model("test_resnet").state_dict()
    del held["conv1.0.weight" if "conv1.0.weight" in held else "conv1.weight"]
    save_file(held, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"w\.safetensors: 1 of .* missing: conv1"):
        load_trunk(timm.create_model("test_resnet", num_classes=0), tmp_path / "w.safetensors")


def test_weights_of_another_architecture_are_refused(tmp_path, trained_model):
    save_file(trained_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="check that --model"):
        load_trunk(timm.create_model("test_resnet", num_classes=0), tmp_path / "w.safetensors")


def test_another_width_is_refused_with_both_shapes(tmp_path, trained_model):
    save_file(trained_model("resnet10t", channels=[8, 8, 8, 8]).state_dict(), tmp_path / "w.safetensors")
    model = timm.create_model("resnet10t", channels=[8, 8, 8, 16], num_classes=0)
    with pytest.raises(UsageError, match=r"\(8, 8, 3, 3\) != \(16, 8, 3, 3\)"):
        load_trunk(model, tmp_path / "w.safetensors")


def test_position_embeddings_are_resampled_to_another_size(tmp_path, trained_model):
    save_file(trained_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    model = timm.create_model("test_vit", num_classes=0, img_size=96)
    load_trunk(model, tmp_path / "w.safetensors")
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 64)


def test_half_precision_files_load_into_a_float32_trunk(tmp_path, trained_model):
    held = {k: v.half() if v.is_floating_point() else v for k, v in trained_model("test_resnet").state_dict().items()}
    save_file(held, tmp_path / "w.safetensors")
    model = timm.create_model("test_resnet", num_classes=0)
    load_trunk(model, tmp_path / "w.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Evil(tmp_path / "marker")}, tmp_path / "evil.pth")
    with pytest.raises(UsageError, match=r"refused.*safetensors"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"<html>not found</html>"),
        ("zip.pth", b"PK\x03\x04junk"),
        ("huge.safetensors", b"\xff" * 16),
        ("cut.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{"),
    ],
)
def test_damaged_files_are_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        read_tensors(tmp_path / name)


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"no tensors.*found epoch, lr"):
        read_tensors(tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(UsageError, match="found list"):
        read_tensors(tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent.pth is not a file"):
        read_tensors(tmp_path / "absent.pth")


def test_the_hash_follows_values_names_and_dtypes():
    def digest(change=None):
        module = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(module.weight, 0.5)
        torch.nn.init.zeros_(module.bias)
        if change:
            change(module)
        return state_dict_sha256(module)

    assert digest() == digest()
    changes = (
        lambda m: m.weight.data.add_(1e-7),
        lambda m: m.bfloat16(),
        lambda m: m.register_buffer("b", torch.ones(1)),
    )
    assert len({digest(), *map(digest, changes)}) == 4
