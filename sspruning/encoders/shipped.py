"""The encoder that comes with sspruning and is the default: small, label-free pretraining, no download.

``weights/shipped.json`` is its card: architecture and preprocessing, sha256 of the weights, and how they were trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sspruning.encoders import card as cards
from sspruning.errors import MachineError, UsageError

if TYPE_CHECKING:
    from sspruning.encoders.timm_encoder import TimmEncoder
    from sspruning.records import EncoderSpec

__all__ = ["WEIGHTS_DIR", "build", "build_from", "read_card"]

WEIGHTS_DIR: Final = Path(__file__).parent / "weights"
_CARD: Final = "shipped.json"
_REPAIR: Final = "reinstall sspruning, or name another encoder with --encoder"


def build(spec: EncoderSpec) -> TimmEncoder:
    """The shipped encoder; ``spec`` may set another image size, batch size, device or dtype.

    Raises:
        UsageError: ``spec`` names a model, a checkpoint or a factory: these belong to the other encoders.
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
            f"encoder 'shipped' has its own weights, so it takes no {given[0]}; use --encoder timm, card or custom"
        )
    card = read_card(folder)
    try:
        trunk, notes = cards.load_model(folder / _CARD, card, spec.image_size)
    except UsageError as error:
        raise MachineError(f"{error}; {_REPAIR}") from error
    return cards.encoder_of(card, trunk, spec, facts={"encoder": "shipped"}, notes=notes)


def read_card(folder: Path = WEIGHTS_DIR) -> dict[str, Any]:
    """The card as a dict; the keys that loading needs are there, the rest tells how the weights came about.

    Raises:
        MachineError: no card, or not a card.
    """
    path = folder / _CARD
    if not path.is_file():
        raise MachineError(f"the shipped encoder is not part of this installation ({path} is missing); {_REPAIR}")
    try:
        return cards.read_card(path)
    except UsageError as error:
        raise MachineError(f"{error}; {_REPAIR}") from error
