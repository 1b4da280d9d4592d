import json

import numpy as np
import pytest

from sspruning.encoders import shipped
from sspruning.encoders.shipped import build, build_from, read_card
from sspruning.errors import MachineError, UsageError
from sspruning.records import EncoderSpec

SPEC = EncoderSpec(device="cpu", dtype="float32", batch_size=3)


def test_the_card_decides_architecture_and_preprocessing(shipped_folder, picture):
    encoder = build_from(SPEC, shipped_folder())
    assert (encoder.dim, encoder.draft_size) == (16, 32)
    assert encoder.identity["preprocess"]["mean"] == [0.49, 0.48, 0.45]
    assert encoder.embed(encoder.prepare(picture())[None]).shape == (1, 16)


def test_half_precision_storage_hardly_moves_an_embedding(shipped_folder, picture):
    rows = []
    for half in (True, False):
        encoder = build_from(SPEC, shipped_folder(half=half))
        rows.append(encoder.embed(encoder.prepare(picture())[None])[0])
    assert np.dot(*rows) / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1]) > 0.9999


def test_an_installation_without_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "WEIGHTS_DIR", tmp_path)
    with pytest.raises(MachineError, match=r"not part of this installation.*--encoder"):
        build(SPEC)


def test_weights_that_are_not_the_cards_are_refused(shipped_folder):
    folder = shipped_folder()
    damaged = bytearray((folder / "shipped.safetensors").read_bytes())
    damaged[-1] ^= 1
    (folder / "shipped.safetensors").write_bytes(damaged)
    with pytest.raises(MachineError, match="its card says"):
        build_from(SPEC, folder)
    (folder / "shipped.safetensors").unlink()
    with pytest.raises(MachineError, match="no file"):
        build_from(SPEC, folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "damaged"), ("[]", "lacks"), ('{"sha256": "0"}', "lacks architecture")]
)
def test_a_damaged_card_is_named(text, message, shipped_folder):
    folder = shipped_folder()
    (folder / "shipped.json").write_text(text)
    with pytest.raises(MachineError, match=message):
        read_card(folder)


@pytest.mark.parametrize("field", ["model", "checkpoint", "factory"])
def test_settings_of_other_encoders_are_refused(field):
    with pytest.raises(UsageError, match=f"takes no {field}"):
        build(EncoderSpec(**{field: "x"}))


@pytest.mark.skipif(not (shipped.WEIGHTS_DIR / "shipped.json").exists(), reason="no weights in this checkout")
def test_the_shipped_weights_are_whole_and_small(picture):
    card = read_card()
    encoder = build(SPEC)
    assert encoder.embed(encoder.prepare(picture())[None]).shape == (1, encoder.dim)
    assert encoder.identity["weights_sha256"] == card["sha256"]
    assert (shipped.WEIGHTS_DIR / "shipped.safetensors").stat().st_size <= 6_000_000
    assert json.dumps(encoder.identity)
