"""The encoder that comes with sspruning and is the default: small, label-free pretraining, no download.

``weights/shipped.json`` is its card: architecture and preprocessing, sha256 of the weights, and how they were trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sspruning.encoders.checkpoint import file_sha256, load_trunk
from sspruning.encoders.preprocess import Preprocess
from sspruning.encoders.timm_encoder import TimmEncoder, create_trunk
from sspruning.errors import MachineError, UsageError

if TYPE_CHECKING:
    from sspruning.records import EncoderSpec, JSONValue

__all__ = ["WEIGHTS_DIR", "build", "build_from", "read_card"]

WEIGHTS_DIR: Final = Path(__file__).parent / "weights"
_NEEDED: Final = ("architecture", "model_kwargs", "image_size", "mean", "std", "interpolation", "crop_pct", "sha256")
_REPAIR: Final = "reinstall sspruning, or name another encoder with --encoder"


def build(spec: EncoderSpec) -> TimmEncoder:
    """The shipped encoder; ``spec`` may set another image size, batch size, device or dtype.

    Raises:
        UsageError: ``spec`` names a model, a checkpoint or a factory: these belong to the encoders `timm` and `custom`.
        MachineError: this installation lacks the weights, or they are not the ones that the card describes.
    """
    return build_from(spec, WEIGHTS_DIR)


def build_from(spec: EncoderSpec, folder: Path) -> TimmEncoder:
    """Encoder of ``folder/shipped.json`` with the weights ``folder/shipped.safetensors`` (float32 or float16).

    Raises:
        UsageError: as `build`.
        MachineError: as `build`.
    """
    given = [key for key in ("model", "checkpoint", "factory") if getattr(spec, key) is not None]
    if given:
        raise UsageError(
            f"encoder 'shipped' has its own weights, so it takes no {given[0]}; use --encoder timm or custom"
        )
    card = read_card(folder)
    weights = folder / "shipped.safetensors"
    digest = file_sha256(weights) if weights.is_file() else "no file"
    if digest != card["sha256"]:
        raise MachineError(f"{weights} has sha256 {digest[:16]}, its card says {str(card['sha256'])[:16]}; {_REPAIR}")
    trunk = create_trunk(card["architecture"], pretrained=False, **card["model_kwargs"])
    notes = load_trunk(trunk, weights)
    side = spec.image_size or card["image_size"]
    config = {
        "input_size": (3, side, side),
        "interpolation": card["interpolation"],
        "mean": tuple(card["mean"]),
        "std": tuple(card["std"]),
        "crop_pct": card["crop_pct"],
        "crop_mode": "center",
    }
    facts: dict[str, JSONValue] = {"encoder": "shipped", "model": card["architecture"], "weights_sha256": digest}
    return TimmEncoder(trunk, Preprocess(config), spec, facts=facts, notes=notes)


def read_card(folder: Path = WEIGHTS_DIR) -> dict[str, Any]:
    """The card as a dict; the keys that loading needs are there, the rest tells how the weights came about.

    Raises:
        MachineError: no card, or not a card.
    """
    path = folder / "shipped.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MachineError(
            f"the shipped encoder is not part of this installation ({path} is missing); {_REPAIR}"
        ) from error
    except ValueError as error:
        raise MachineError(f"{path} is damaged ({error}); {_REPAIR}") from error
    lacking = [key for key in _NEEDED if not isinstance(card, dict) or key not in card]
    if lacking:
        raise MachineError(f"{path} lacks {', '.join(lacking)}; {_REPAIR}")
    return card
