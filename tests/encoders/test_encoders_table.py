import subprocess
import sys

import pytest

from sspruning.encoders import ENCODERS, PRESETS, build_encoder
from sspruning.errors import UsageError
from sspruning.records import EncoderSpec


def test_importing_the_package_loads_no_heavy_module():
    code = "import sys, sspruning.encoders; assert not {'torch', 'timm', 'PIL', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_preset_hides_an_encoder():
    assert not set(PRESETS) & set(ENCODERS)


def test_an_unknown_name_is_answered_with_the_nearest_of_both_tables():
    with pytest.raises(UsageError, match="Did you mean 'dinov2-vits14'"):
        build_encoder(EncoderSpec(name="dinov2-vit14"))
    with pytest.raises(UsageError, match="Did you mean 'pixels'"):
        build_encoder(EncoderSpec(name="pixel"))
