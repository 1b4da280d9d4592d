"""An encoder of one's own: what a card says is what is built, and a wrong card says what is wrong with it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from corpora import make_corpus
from typer.testing import CliRunner

from sspruning.cli import app
from sspruning.encoders import build_encoder
from sspruning.encoders.shipped import build_from
from sspruning.errors import UsageError
from sspruning.records import EncoderSpec
from sspruning.storage.store import Store

CHANNELS = [8, 8, 16, 16]
EXACT = EncoderSpec(name="card", device="cpu", dtype="float32", batch_size=3)


@pytest.fixture
def own(tmp_path, trained_model, write_card):
    """Return ``make(seed, name, **changes)``: the specification of a card whose values are changed."""

    def make(seed=0, name="own.json", **changes):
        model = trained_model("resnet10t", seed, channels=CHANNELS)
        return replace(EXACT, checkpoint=str(write_card(tmp_path / name, model, **changes)))

    return make


def embedded(encoder, images):
    return encoder.embed(np.stack([encoder.prepare(image) for image in images]))


def refusal(spec):
    """Message of the error that building raises."""
    with pytest.raises(UsageError) as caught:
        build_encoder(spec)
    return str(caught.value)


def test_a_card_gives_what_the_same_pair_gives_as_the_shipped_encoder(own, shipped_folder, picture):
    theirs = build_from(replace(EXACT, name="shipped"), shipped_folder())
    ours = build_encoder(own())
    assert (ours.dim, ours.draft_size) == (16, 32)
    assert embedded(ours, [picture()]).tobytes() == embedded(theirs, [picture()]).tobytes()


def test_a_last_layer_is_applied_to_the_trunks_features(tmp_path, trained_model, write_card, picture):
    model = trained_model("resnet10t", channels=CHANNELS, num_classes=5)
    kwargs = {"channels": CHANNELS, "num_classes": 5}
    path = write_card(tmp_path / "whole.json", model, half=False, model_kwargs=kwargs)
    weight, bias = model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy()
    model.reset_classifier(0)
    headless = write_card(tmp_path / "trunk.json", model, half=False)

    images = [picture(seed=1), picture(90, 40, seed=2)]
    features = embedded(build_encoder(replace(EXACT, checkpoint=str(headless))), images)
    rows = embedded(build_encoder(replace(EXACT, checkpoint=str(path))), images)

    assert rows.shape == (2, 5)
    assert np.allclose(rows, features @ weight.T + bias, atol=1e-4)


def test_settings_of_the_request_win_over_the_card(own, picture):
    encoder = build_encoder(replace(own(), image_size=48))
    assert encoder.prepare(picture()).shape == (48, 48, 3)
    assert encoder.identity["preprocess"]["input_size"] == [3, 48, 48]


def test_a_model_built_for_one_size_is_resampled_to_another(tmp_path, trained_model, write_card, picture):
    model = trained_model("test_vit", img_size=32)
    path = write_card(tmp_path / "vit.json", model, architecture="test_vit", model_kwargs={"img_size": 32})
    for size in (None, 48):
        encoder = build_encoder(replace(EXACT, checkpoint=str(path), image_size=size))
        assert embedded(encoder, [picture()]).shape == (1, 64)


def test_the_identity_follows_card_and_weights_but_no_path(own, tmp_path):
    base = build_encoder(own()).identity
    assert base["encoder"] == "card"
    assert base["model"] == "resnet10t"
    assert base["weights_sha256"] == json.loads((tmp_path / "own.json").read_text())["sha256"]
    assert str(tmp_path) not in str(base)
    assert "own" not in str(base)
    others = [
        {"seed": 1},
        {"mean": [0.5, 0.5, 0.5]},
        {"image_size": 40},
        {"model_kwargs": {"channels": CHANNELS, "act_layer": "gelu"}},  # the same tensors, other embeddings
    ]
    assert all(build_encoder(own(**changes)).identity != base for changes in others)
    assert build_encoder(own(note="told to people")).identity == base


def test_the_pair_may_be_moved_and_renamed_together(own, tmp_path):
    spec = own()
    (tmp_path / "else.where").mkdir()
    for suffix in (".json", ".safetensors"):
        shutil.move(tmp_path / f"own{suffix}", tmp_path / "else.where" / f"v1.2{suffix}")
    moved = replace(spec, checkpoint=str(tmp_path / "else.where" / "v1.2.json"))
    assert build_encoder(moved).identity == build_encoder(own()).identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": None}, "needs a card: --checkpoint NAME.json"),
        ({"checkpoint": ""}, "takes the card, NAME.json"),
        ({"checkpoint": "own.safetensors"}, "takes the card, NAME.json"),
        ({"checkpoint": "absent.json"}, "absent.json: cannot be read as a card (No such file"),
        ({"model": "resnet10t"}, "takes no model"),
        ({"factory": "a:b"}, "takes no factory"),
    ],
)
def test_a_request_without_a_card_says_what_is_needed(changes, message, own):
    assert message in refusal(replace(own(), **changes))


def test_a_folder_is_no_card(tmp_path):
    (tmp_path / "folder.json").mkdir()
    assert "cannot be read as a card" in refusal(replace(EXACT, checkpoint=str(tmp_path / "folder.json")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[]", "lacks architecture, model_kwargs"),
        (b'{"architecture": "resnet10t"}', "lacks model_kwargs"),
    ],
)
def test_a_file_that_is_no_card_is_refused(content, message, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    assert message in refusal(replace(EXACT, checkpoint=str(tmp_path / "bad.json")))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("architecture", [7, "", "hf-hub:someone/model", "local-dir:/tmp/model", "../model", "timm/resnet10t"]),
        ("model_kwargs", [None, [], {"pretrained": True}, {"checkpoint_path": "/x"}, {"pretrained_cfg": {}}]),
        ("model_kwargs", [{"model": "resnet50"}, {"cache_dir": "/x"}, {"pretrained_cfg_overlay": {"file": "/x"}}]),
        ("image_size", [0, 7, 5000, 32.0, "32", True, None]),
        ("mean", [0.5, [0.5], [0.5, 0.5, "0.5"], [0.5, 0.5, float("nan")], [0.5, 0.5, float("inf")]]),
        ("std", [[0.2, 0.2, 0], [0.2, 0.2, -1], [0.2, 0.2, True]]),
        ("interpolation", ["cubic", "random", ["bicubic"], None]),
        ("crop_pct", [0, 1.5, "1", None]),
        ("sha256", ["", "0" * 63, "../" * 21 + "a", None]),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_with_what_is_expected(key, values, own):
    for value in values:
        message = refusal(own(**{key: value}))
        assert f"own.json: {key} is " in message
        assert "; expected " in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet10"}, "no model 'resnet10'. Did you mean resnet1"),
        ({"model_kwargs": {"chanels": CHANNELS}}, "timm cannot create 'resnet10t'"),
        ({"model_kwargs": {}}, "shapes differ"),
        ({"model_kwargs": {"channels": CHANNELS, "num_classes": 4}}, " tensors of the model are missing: fc."),
        ({"model_kwargs": {"channels": CHANNELS, "global_pool": ""}}, "must return (rows, dim)"),
    ],
)
def test_a_model_that_is_not_the_weights_own_is_refused(changes, message, own):
    assert message in refusal(own(**changes))


def test_a_model_that_takes_no_rgb_images_is_refused(tmp_path, trained_model, write_card):
    grey = {"channels": CHANNELS, "in_chans": 1}
    path = write_card(tmp_path / "grey.json", trained_model("resnet10t", **grey), model_kwargs=grey)
    assert "does not take 32 x 32 RGB images" in refusal(replace(EXACT, checkpoint=str(path)))


def test_weights_that_are_not_the_cards_are_refused(own, tmp_path):
    spec, weights = own(), tmp_path / "own.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "the two are not of one export" in refusal(spec)
    weights.unlink()
    assert "the weights must lie beside their card" in refusal(spec)
    weights.mkdir()
    assert "the weights must lie beside their card" in refusal(spec)


def test_weights_that_agree_with_the_card_but_are_no_safetensors_are_refused(own, tmp_path):
    spec = own(sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # of nothing
    (tmp_path / "own.safetensors").write_bytes(b"")
    assert "cannot be read as a weights file" in refusal(spec)


def test_embed_takes_a_card_and_the_store_refuses_another(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "shards", shards=1)
    command = ["embed", "shards", "--store", "store", "--encoder", "card", "--executor", "inline"]
    command += ["--batch-size", "4", "--device", "cpu", "--checkpoint"]
    for name, changes in {"own": {}, "other": {"seed": 1}, "wrong": {"sha256": "0" * 64}}.items():
        own(name=f"{name}.json", **changes)

    done = CliRunner().invoke(app, [*command, "own.json"])
    assert done.exit_code == 0, done.output
    rows = np.concatenate([chunk.embeddings for chunk in Store(tmp_path / "store").chunks()])
    assert rows.shape == (4, 16)

    assert CliRunner().invoke(app, [*command, "own.json"]).exit_code == 0
    assert CliRunner().invoke(app, [*command, "other.json"]).exit_code == 3
    failed = CliRunner().invoke(app, [*command, "wrong.json"])
    assert failed.exit_code == 2
    assert "not of one export" in " ".join(failed.output.split())
