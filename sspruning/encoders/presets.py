"""The field's known self-supervised encoders under one name each, with input size, source and licence.

One table. A row either names weights that timm downloads on first use, or an architecture whose weights are a file that
the user downloads: then ``file_url`` says from where. Reading the table needs no network and no torch.

MoCo v3's ViT-Small is left out on purpose: it has 12 heads where timm's has 6, so its tensors would fit and mean
something else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sspruning.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sspruning.records import EncoderSpec

__all__ = ["PRESETS", "Preset", "spec_for_preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One known encoder."""

    name: str
    """What the user types."""
    timm_name: str
    """timm model; where ``file_url`` is set it gives the architecture and the preprocessing only."""
    image_size: int
    """Side of the square input in pixels."""
    dim: int
    """Length of an embedding."""
    source: str
    """Paper and where the weights come from."""
    file_url: str | None = None
    """Where to download the weights that timm does not carry; pass the file as the checkpoint."""
    licence_note: str = ""
    """Set where the weights' licence asks more of the user than Apache-2.0 or MIT do."""


_DINO: Final = "DINO, arXiv:2104.14294; weights from timm's Hugging Face copies"
_DINO_FILE: Final = "DINO, arXiv:2104.14294; file from github.com/facebookresearch/dino"
_DINOV2: Final = "DINOv2, arXiv:2304.07193; weights from timm's Hugging Face copies"
_DINOV2_REG: Final = "DINOv2 with registers, arXiv:2309.16588; weights from timm's Hugging Face copies"
_DINOV3: Final = "DINOv3, arXiv:2508.10104; weights from timm's Hugging Face copies"
_MAE: Final = "MAE, arXiv:2111.06377; weights from timm's Hugging Face copies"
_SWAV: Final = "SwAV, arXiv:2006.09882; file from github.com/facebookresearch/swav"
_MOCOV3: Final = "MoCo v3, arXiv:2104.02057; file from github.com/facebookresearch/moco-v3"
_IBOT: Final = "iBOT, arXiv:2111.07832; file from github.com/bytedance/ibot"
_CLIP: Final = "CLIP image tower, arXiv:2103.00020; weights from timm's Hugging Face copies"
_OPENCLIP: Final = "OpenCLIP image tower trained on LAION-2B, arXiv:2212.07143; weights from timm's Hugging Face copies"
_SIGLIP: Final = "SigLIP image tower, arXiv:2303.15343; weights from timm's Hugging Face copies"
_SIGLIP2: Final = "SigLIP 2 image tower, arXiv:2502.14786; weights from timm's Hugging Face copies"

_NC: Final = "CC BY-NC 4.0: non-commercial use only"
_DINOV3_LICENCE: Final = "DINOv3 License (Meta's own terms), to be accepted at the source"

_FB: Final = "https://dl.fbaipublicfiles.com"
_IBOT_FILES: Final = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"


def _row(
    name: str, timm_name: str, image_size: int, dim: int, source: str, url: str | None = None, note: str = ""
) -> Preset:
    return Preset(
        name=name, timm_name=timm_name, image_size=image_size, dim=dim, source=source, file_url=url, licence_note=note
    )


# fmt: off
_ROWS: Final = (
    _row("dino-vits16", "vit_small_patch16_224.dino", 224, 384, _DINO),
    _row("dino-vits8", "vit_small_patch8_224.dino", 224, 384, _DINO),
    _row("dino-vitb16", "vit_base_patch16_224.dino", 224, 768, _DINO),
    _row("dino-vitb8", "vit_base_patch8_224.dino", 224, 768, _DINO),
    _row("dino-resnet50", "resnet50.tv_in1k", 224, 2048, _DINO_FILE,
         f"{_FB}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"),
    _row("dinov2-vits14", "vit_small_patch14_dinov2.lvd142m", 224, 384, _DINOV2),
    _row("dinov2-vitb14", "vit_base_patch14_dinov2.lvd142m", 224, 768, _DINOV2),
    _row("dinov2-vitl14", "vit_large_patch14_dinov2.lvd142m", 224, 1024, _DINOV2),
    _row("dinov2-vitg14", "vit_giant_patch14_dinov2.lvd142m", 224, 1536, _DINOV2),
    _row("dinov2-vits14-reg", "vit_small_patch14_reg4_dinov2.lvd142m", 224, 384, _DINOV2_REG),
    _row("dinov2-vitb14-reg", "vit_base_patch14_reg4_dinov2.lvd142m", 224, 768, _DINOV2_REG),
    _row("dinov2-vitl14-reg", "vit_large_patch14_reg4_dinov2.lvd142m", 224, 1024, _DINOV2_REG),
    _row("dinov2-vitg14-reg", "vit_giant_patch14_reg4_dinov2.lvd142m", 224, 1536, _DINOV2_REG),
    _row("dinov3-vits16", "vit_small_patch16_dinov3.lvd1689m", 256, 384, _DINOV3, note=_DINOV3_LICENCE),
    _row("dinov3-vitb16", "vit_base_patch16_dinov3.lvd1689m", 256, 768, _DINOV3, note=_DINOV3_LICENCE),
    _row("dinov3-vitl16", "vit_large_patch16_dinov3.lvd1689m", 256, 1024, _DINOV3, note=_DINOV3_LICENCE),
    _row("dinov3-convnext-tiny", "convnext_tiny.dinov3_lvd1689m", 224, 768, _DINOV3, note=_DINOV3_LICENCE),
    _row("dinov3-convnext-base", "convnext_base.dinov3_lvd1689m", 224, 1024, _DINOV3, note=_DINOV3_LICENCE),
    _row("mae-vitb16", "vit_base_patch16_224.mae", 224, 768, _MAE, note=_NC),
    _row("mae-vitl16", "vit_large_patch16_224.mae", 224, 1024, _MAE, note=_NC),
    _row("mae-vith14", "vit_huge_patch14_224.mae", 224, 1280, _MAE, note=_NC),
    _row("swav-resnet50", "resnet50.tv_in1k", 224, 2048, _SWAV, f"{_FB}/deepcluster/swav_800ep_pretrain.pth.tar", _NC),
    _row("mocov3-resnet50", "resnet50.tv_in1k", 224, 2048, _MOCOV3,
         f"{_FB}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar", _NC),
    _row("mocov3-vitb16", "vit_base_patch16_224.mae", 224, 768, _MOCOV3,
         f"{_FB}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar", _NC),
    _row("ibot-vits16", "vit_small_patch16_224.dino", 224, 384, _IBOT, f"{_IBOT_FILES}/vits_16/checkpoint_teacher.pth"),
    _row("ibot-vitb16", "vit_base_patch16_224.dino", 224, 768, _IBOT, f"{_IBOT_FILES}/vitb_16/checkpoint_teacher.pth"),
    _row("clip-vitb32", "vit_base_patch32_clip_224.openai", 224, 768, _CLIP),
    _row("clip-vitb16", "vit_base_patch16_clip_224.openai", 224, 768, _CLIP),
    _row("clip-vitl14", "vit_large_patch14_clip_224.openai", 224, 1024, _CLIP),
    _row("openclip-vitb16", "vit_base_patch16_clip_224.laion2b", 224, 768, _OPENCLIP),
    _row("openclip-vitl14", "vit_large_patch14_clip_224.laion2b", 224, 1024, _OPENCLIP),
    _row("siglip-vitb16", "vit_base_patch16_siglip_224.webli", 224, 768, _SIGLIP),
    _row("siglip-so400m14", "vit_so400m_patch14_siglip_224.webli", 224, 1152, _SIGLIP),
    _row("siglip2-vitb16", "vit_base_patch16_siglip_224.v2_webli", 224, 768, _SIGLIP2),
    _row("siglip2-so400m14", "vit_so400m_patch14_siglip_224.v2_webli", 224, 1152, _SIGLIP2),
)
# fmt: on

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType({row.name: row for row in _ROWS})
"""Name -> `Preset`."""


def spec_for_preset(spec: EncoderSpec) -> EncoderSpec:
    """Specification for the encoder `timm` that the preset ``spec.name`` stands for; what the user set himself is kept.

    Raises:
        UsageError: the preset needs a weights file and none was given, or a model was named as well.
    """
    row = PRESETS[spec.name]
    if spec.model is not None or spec.factory is not None:
        raise UsageError(
            f"encoder {row.name!r} already names its model; drop `model` and `factory`, or use encoder 'timm'"
        )
    if row.file_url is not None and spec.checkpoint is None:
        note = f" ({row.licence_note})" if row.licence_note else ""
        raise UsageError(
            f"encoder {row.name!r} needs its weights as a file: download {row.file_url}{note} "
            "and pass it with --checkpoint FILE"
        )
    return replace(spec, name="timm", model=row.timm_name, image_size=spec.image_size or row.image_size)
