import pytest
import timm
import torch

from sspruning.encoders import build_encoder
from sspruning.encoders.presets import PRESETS, spec_for_preset
from sspruning.errors import UsageError
from sspruning.records import EncoderSpec

FAMILIES = ("dino-", "dinov2-", "dinov3-", "mae-", "swav-", "mocov3-", "ibot-", "clip-", "siglip-")
NAMES = sorted(PRESETS)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_known_family_has_a_preset(family):
    assert any(name.startswith(family) for name in PRESETS)


def test_dinov2_comes_with_and_without_registers():
    assert {"dinov2-vits14", "dinov2-vits14-reg"} <= set(PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_that_timm_has_weights_for(name):
    assert PRESETS[name].timm_name in timm.list_pretrained(PRESETS[name].timm_name.partition(".")[0] + ".*")


@pytest.mark.parametrize("name", NAMES)
def test_stated_size_and_dimension_are_the_models_own(name):
    row = PRESETS[name]
    sized = {} if row.timm_name.startswith(("resnet", "convnext")) else {"img_size": row.image_size}
    with torch.device("meta"):
        model = timm.create_model(row.timm_name, num_classes=0, **sized)
    assert model.num_features == row.dim
    if not model.pretrained_cfg.get("fixed_input_size") or "dinov2" not in name:
        assert model.pretrained_cfg["input_size"][1] == row.image_size


@pytest.mark.parametrize("name", [n for n in NAMES if PRESETS[n].file_url is None])
def test_a_preset_stands_for_a_timm_model_at_its_size(name):
    spec = spec_for_preset(EncoderSpec(name=name, batch_size=7))
    row = PRESETS[name]
    assert (spec.name, spec.model, spec.image_size, spec.batch_size) == ("timm", row.timm_name, row.image_size, 7)


@pytest.mark.parametrize("name", [n for n in NAMES if PRESETS[n].file_url is not None])
def test_a_preset_without_its_file_says_where_to_get_it(name):
    with pytest.raises(UsageError, match=r"download https://\S+"):
        build_encoder(EncoderSpec(name=name))


def test_what_the_user_sets_is_kept():
    spec = spec_for_preset(EncoderSpec(name="swav-resnet50", checkpoint="weights.pth", image_size=96))
    assert (spec.checkpoint, spec.image_size) == ("weights.pth", 96)


def test_a_preset_and_a_model_together_are_refused():
    with pytest.raises(UsageError, match="already names its model"):
        build_encoder(EncoderSpec(name="dino-vits16", model="resnet50"))


def test_terms_beyond_permissive_ones_are_noted():
    noted = {name for name in PRESETS if PRESETS[name].licence_note}
    assert {name for name in PRESETS if name.startswith(("dinov3", "mae", "swav", "mocov3"))} == noted
