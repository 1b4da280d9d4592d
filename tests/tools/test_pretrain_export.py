"""What pretraining hands on: whitened exports, starts from exports, and equal bytes however often it was stopped."""

import json

import numpy as np
import pytest
import timm
import torch
from pretrain.export import _features, whitening
from pretrain.images import load_images
from pretrain.settings import Settings
from pretrain.training import Trainer
from safetensors.torch import load_file

import sspruning
from sspruning.config import load_config
from sspruning.errors import StoreError

WHITEN = ("--whiten", "0.35")


def exported(folder):
    """Model of an export, loaded strictly, and its card."""
    card = json.loads((folder / "encoder.json").read_text())
    model = timm.create_model(card["architecture"], **{"num_classes": 0, **card["model_kwargs"]})
    model.load_state_dict(load_file(folder / "encoder.safetensors"), strict=True)
    return model.eval(), card


def variances(rows):
    """Variances along the principal directions, largest first."""
    return torch.linalg.eigvalsh(torch.cov(rows.double().T)).flip(0)


def test_whitening_evens_variances_by_its_exponent():
    spread = torch.logspace(0, -2, 8, dtype=torch.float64)
    rows = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spread.sqrt()
    turned = rows @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double())[0]
    before = variances(turned)
    for exponent in (0.0, 0.25, 0.35, 0.5):
        after = variances(turned @ whitening(turned, exponent).T)
        assert torch.allclose(after / after[0], (before / before[0]) ** (1 - 2 * exponent), rtol=0.02)
    assert torch.allclose(whitening(turned, 0.35), whitening(turned, 0.35).T)


def test_the_last_export_is_whitened_and_centred(photographs, tool, tmp_path):
    tool(photographs, "--out", tmp_path, *WHITEN, "--keep-every", 1)
    model, card = exported(tmp_path)
    assert card["model_kwargs"]["num_classes"] == 16
    assert card["whiten"] == 0.35
    assert json.loads((tmp_path / "encoder-0001.json").read_text())["whiten"] == 0

    pixels = load_images([str(photographs)], suffixes=["jpg"], cache_px=16, memory_bytes=1 << 30).pixels
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = torch.nn.functional.interpolate(images, size=32, mode="bicubic", antialias=True).clamp(0, 1)
    images = (images - torch.tensor(card["mean"]).view(3, 1, 1)) / torch.tensor(card["std"]).view(3, 1, 1)
    with torch.inference_mode():
        after = model(images)
        before = model.forward_head(model.forward_features(images), pre_logits=True)

    assert (after.mean(0).abs() < 0.02 * after.std(0).max()).all()
    strong = int((variances(before) > 1e-3 * variances(before)[0]).sum())
    ratios = [variances(rows)[0] / variances(rows)[strong - 1] for rows in (before, after)]
    assert strong > 2
    assert ratios[1] < ratios[0] ** 0.5


def test_an_export_embeds_as_a_card(photographs, tool, tmp_path):
    tool(photographs, "--out", tmp_path / "own", *WHITEN, "--epochs", 1)
    card = tmp_path / "own" / "encoder.json"
    overrides = ["encoder.name=card", f"encoder.checkpoint={card}", "encoder.device=cpu", "execution.executor=inline"]
    sspruning.embed([str(photographs)], tmp_path / "store", config=load_config(None, overrides))
    chunks = list(sspruning.Store(tmp_path / "store").chunks())
    assert np.concatenate([chunk.embeddings for chunk in chunks]).shape == (40, 16)


def test_a_run_starts_from_an_export_without_its_last_layer(photographs, tool, tmp_path):
    tool(photographs, "--out", tmp_path / "first", *WHITEN, "--epochs", 1)
    start = tmp_path / "first" / "encoder.safetensors"
    held = load_file(start)
    lines = []

    settings = Settings(model_kwargs={"channels": [8, 8, 8, 16]}, init=str(start), batch_size=16, device="cpu")
    trainer = Trainer(settings, torch.zeros(32, 16, 16, 3, dtype=torch.uint8), tmp_path, lines.append)

    assert {"fc.weight", "fc.bias"} <= set(held)
    for name, value in trainer.trunk.state_dict().items():
        assert torch.equal(value, held[name].to(value.dtype)), name
    assert "2 head tensors dropped: fc.bias, fc.weight" in lines

    tool(photographs, "--out", tmp_path / "second", "--init", start, "--seed", 1)
    _, card = exported(tmp_path / "second")
    assert card["init_sha256"] == json.loads((tmp_path / "first" / "encoder.json").read_text())["sha256"]
    assert "num_classes" not in card["model_kwargs"]

    start.write_bytes((tmp_path / "second" / "encoder.safetensors").read_bytes())  # another start, the same name
    assert "other settings" in tool(photographs, "--out", tmp_path / "second", "--init", start, "--seed", 1, code=3)


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "muon", "--local-crops", 2, "--local-px", 16, *WHITEN),
        ("--objective", "swav", "--optimizer", "muon", "--local-crops", 1, "--norm-batch", 16),
        ("--objective", "byol", "--crop-px", 24),
    ],
    ids=["muon, local crops, whitening", "swav, muon, local crops", "byol, smaller crops"],
)
def test_an_interrupted_run_ends_with_the_same_bytes(options, photographs, tool, tmp_path, monkeypatch):
    tool(photographs, "--out", tmp_path / "whole", *options)
    step = Trainer._step

    def dying(self, batch, number, generator):
        if number == 3:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return step(self, batch, number, generator)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        assert "goes on from the last whole epoch" in tool(photographs, "--out", tmp_path / "cut", *options, code=4)

    assert "continuing after epoch 1 of 2" in tool(photographs, "--out", tmp_path / "cut", *options)
    files = [tmp_path / name / "encoder.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(content, tiny, tmp_path):
    if content is None:
        torch.save({"epoch": 1}, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(StoreError, match=r"checkpoint.pt is damaged .*; delete it to start anew"):
        Trainer(tiny(), torch.zeros(32, 16, 16, 3, dtype=torch.uint8), tmp_path, lambda _: None)


def test_a_model_whose_output_is_wider_than_its_features_is_trained_and_whitened(tiny, tmp_path):
    from pretrain.export import export_trunk

    pixels = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = tiny(model="mobilenetv3_small_050", model_kwargs={}, batch_size=8, epochs=1, whiten=0.35)
    trainer = Trainer(settings, pixels, tmp_path, lambda _: None)
    assert trainer.trunk.num_features < trainer.dim == _features(trainer).shape[1]
    assert list(trainer.epochs()) == [1]
    card = export_trunk(trainer, tmp_path, "encoder", data="", command="")
    assert card["model_kwargs"] == {"num_classes": trainer.dim}
    exported(tmp_path)
