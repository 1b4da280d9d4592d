"""An encoder of your own, as tools/pretrain_encoder.py exports it: a card ``NAME.json`` beside ``NAME.safetensors``.

The card says what weights alone cannot: architecture and settings of the model, preprocessing, and the sha256 of the
weights. It names no file; the weights are those that lie beside it. The encoder `shipped` is such a pair as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from sspruning.encoders.checkpoint import file_sha256, load_trunk
from sspruning.encoders.preprocess import Preprocess
from sspruning.encoders.timm_encoder import TimmEncoder, check_model_name, create_trunk
from sspruning.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from sspruning.records import EncoderSpec, JSONValue

__all__ = ["build", "encoder_of", "load_model", "read_card"]

_FILTERS: Final = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_NOT_FOR_THE_MODEL: Final = ("model", "model_name", "checkpoint_path", "cache_dir", "pretrained")
"""Settings that begin so make timm read other weights than those beside the card, or another model."""


def build(spec: EncoderSpec) -> TimmEncoder:
    """Encoder of the card ``spec.checkpoint``; ``spec`` may set another image size, batch size, device or dtype.

    Raises:
        UsageError: no card is named, the card or its weights are missing, damaged or do not belong together, or
            ``spec`` names a model or a factory.
        MachineError: the device is not there.
    """
    for key in ("model", "factory"):
        if getattr(spec, key) is not None:
            raise UsageError(f"encoder 'card' takes no {key}: the card names its model; drop --{key}")
    if spec.checkpoint is None:
        raise UsageError("encoder 'card' needs a card: --checkpoint NAME.json, as tools/pretrain_encoder.py writes it")
    path = Path(spec.checkpoint)
    if path.suffix != ".json":
        raise UsageError(
            f"checkpoint {path}: encoder 'card' takes the card, NAME.json, and finds NAME.safetensors beside it; "
            "weights without a card are for --encoder timm --model NAME"
        )
    card = read_card(path)
    trunk, notes = load_model(path, card, spec.image_size)
    # Other settings with the same tensors (an activation, say) make other embeddings.
    return encoder_of(card, trunk, spec, facts={"encoder": "card", "model_kwargs": card["model_kwargs"]}, notes=notes)


def encoder_of(
    card: Mapping[str, Any], trunk: nn.Module, spec: EncoderSpec, *, facts: dict[str, JSONValue], notes: list[str]
) -> TimmEncoder:
    """Encoder of a card whose model is loaded.

    Args:
        card: of `read_card`.
        trunk: of `load_model`, for the image size of ``spec``.
        spec: image size, batch size, device and dtype.
        facts: entries of the identity beside the model's name and the weights' sha256.
        notes: lines for people so far.

    Raises:
        UsageError: the model does not return (rows, dim).
        MachineError: the device is not there.
    """
    side = spec.image_size or card["image_size"]
    config = {
        "input_size": (3, side, side),
        "interpolation": card["interpolation"],
        "mean": tuple(card["mean"]),
        "std": tuple(card["std"]),
        "crop_pct": card["crop_pct"],
        "crop_mode": "center",
    }
    facts = {**facts, "model": card["architecture"], "weights_sha256": card["sha256"]}
    return TimmEncoder(trunk, Preprocess(config), spec, facts=facts, notes=notes)


def read_card(path: Path) -> dict[str, Any]:
    """The card as a dict; what loading needs is there and of the right kind, the rest tells how the weights came about.

    Raises:
        UsageError: no such file, not a card, or a value that cannot be meant.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read as a card ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged, a card is a JSON file ({error})") from error
    lacking = [key for key in _NEEDED if not isinstance(card, dict) or key not in card]
    if lacking:
        raise UsageError(f"{path} lacks {', '.join(lacking)}, which every card has")
    for key, (fits, expected) in _NEEDED.items():
        if not fits(card[key]):
            raise UsageError(f"{path}: {key} is {str(card[key])[:80]!r}; expected {expected}")
    return card


def load_model(path: Path, card: Mapping[str, Any], image_size: int | None = None) -> tuple[nn.Module, list[str]]:
    """The card's model in eval mode with the weights beside the card, and lines about what the file held beyond it.

    Cost: reads the weights twice, for their sha256 and for their tensors, and runs one image.

    Args:
        path: the card; the weights have its name with the suffix ``.safetensors``, float32 or float16.
        card: of `read_card`.
        image_size: side in pixels if not the card's own; reaches models that are built for one size.

    Raises:
        UsageError: no weights, not those of the card, or not of its model.
    """
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise UsageError(f"{weights}: no file; the weights must lie beside their card")
    digest = file_sha256(weights)
    if digest != card["sha256"]:
        raise UsageError(
            f"{weights} has sha256 {digest[:16]}, its card says {card['sha256'][:16]}: the two are not of one export"
        )
    kwargs = dict(card["model_kwargs"])
    if image_size is not None:
        kwargs["img_size"] = image_size
    try:
        check_model_name(card["architecture"], has_checkpoint=True)
        trunk = create_trunk(card["architecture"], pretrained=False, **kwargs)
        notes = load_trunk(trunk, weights)
    except UsageError as error:
        raise UsageError(f"{path}: its model cannot be made ({error})") from error
    _try_one_image(trunk, image_size or card["image_size"], path)
    return trunk, notes


def _try_one_image(trunk: nn.Module, side: int, path: Path) -> None:
    """Nothing, if the model takes a ``side`` x ``side`` RGB image and returns a tensor."""
    try:
        with torch.inference_mode():
            output = trunk(torch.zeros(1, 3, side, side))
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path}: its model does not take {side} x {side} RGB images ({first})") from error
    if not isinstance(output, torch.Tensor):
        raise UsageError(f"{path}: its model returns {type(output).__name__}; an encoder must return (rows, dim)")


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _are_three(value: object, low: float, high: float) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_number(entry, low, high) for entry in value)


def _is_text(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _are_model_kwargs(value: object) -> bool:
    return isinstance(value, dict) and not any(str(key).startswith(_NOT_FOR_THE_MODEL) for key in value)


_TINY: Final = 1e-6
_NEEDED: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    # A name, and not a hub's address or a folder, which timm would go and read.
    "architecture": (lambda value: _is_text(value, r"\w+(\.\w+)?"), "the name of a timm model"),
    "model_kwargs": (_are_model_kwargs, f"a mapping without {', '.join(_NOT_FOR_THE_MODEL)}"),
    "image_size": (lambda value: isinstance(value, int) and _is_number(value, 8, 4096), "an integer from 8 to 4096"),
    "mean": (lambda value: _are_three(value, -1 / _TINY, 1 / _TINY), "three numbers"),
    "std": (lambda value: _are_three(value, _TINY, 1 / _TINY), "three numbers above 0"),
    "interpolation": (lambda value: value in _FILTERS, f"one of {', '.join(_FILTERS)}"),
    "crop_pct": (lambda value: _is_number(value, 0.05, 1.0), "a number from 0.05 to 1"),
    "sha256": (lambda value: _is_text(value, r"[0-9a-f]{64}"), "64 hex digits"),
}
"""What loading needs of a card: name -> (check, what is expected)."""
