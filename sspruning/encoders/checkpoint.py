"""Weights files of self-supervised methods -> the trunk of a timm model, with an account of every unused tensor."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors.torch import load_file

from sspruning.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["file_sha256", "load_trunk", "read_tensors", "state_dict_sha256"]

# Where training scripts nest a state dict; the papers evaluate the averaged teacher, so it comes before the student.
_WRAPPERS: Final = ("teacher", "target", "ema", "state_dict", "model_state_dict", "model", "student")
# Name parts that come before the trunk's own names, alone or one after the other (`module.encoder_q.`).
_PREFIXES: Final = (
    "module.", "backbone.", "teacher.", "target.", "student.", "encoder_q.", "base_encoder.", "encoder.",
    "online_encoder.", "target_encoder.", "model.", "trunk.", "_orig_mod.", "_feature_blocks.",
)  # fmt: skip
_HEADS: Final = (
    "fc",
    "head",
    "head_dist",
    "classifier",
    "projection_head",
    "prototypes",
    "projector",
    "predictor",
    "queue",
    "decoder",
)
_SHOWN: Final = 6


def load_trunk(model: nn.Module, path: str | Path) -> list[str]:
    """Lines that tell what the file held beyond the trunk; ``model`` then carries the file's weights.

    Args:
        model: timm model without classifier (``num_classes=0``), or with one that the file holds too.
        path: safetensors or state-dict file, its tensors under any of the common prefixes.

    Raises:
        UsageError: the file cannot be read safely, lacks tensors of the trunk, or holds them in another shape.
    """
    tensors, notes = read_tensors(path)
    wanted = model.state_dict()
    prefix = _best_prefix(tensors, wanted)
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if prefix:
        notes.append(f"prefix {prefix!r} stripped from {len(inner)} tensors")
    outside = [name for name in tensors if not name.startswith(prefix)]
    inner = _to_timm_names(model, inner, wanted)
    missing = [n for n in wanted if n not in inner and not n.endswith("num_batches_tracked")]
    if missing:
        raise UsageError(
            f"{path}: {len(missing)} of {len(wanted)} tensors of the model are missing: {_listed(missing)}; "
            f"the file holds {_listed(tensors)}; "
            "check that --model (or the card) names the architecture it was trained with"
        )
    wrong = [
        f"{n} {tuple(inner[n].shape)} != {tuple(t.shape)}"
        for n, t in wanted.items()
        if n in inner and inner[n].shape != t.shape
    ]
    if wrong:
        raise UsageError(
            f"{path}: shapes differ (file != model): {_listed(wrong)}; check --model (or the card) and the image size"
        )
    model.load_state_dict({n: inner[n] for n in wanted if n in inner}, strict=False)
    return notes + _leftovers([n for n in inner if n not in wanted], outside)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by name on the CPU, and a line for every nesting that was opened to reach them.

    Only tensors and plain containers are ever read: safetensors, or pickles through torch's weights-only reader.

    Raises:
        UsageError: no such file, not a weights file, or one that holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"checkpoint {path} is not a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), []
        # DINO and iBOT files carry their command line as a Namespace: plain attributes, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: refused, loading it could run code or it is no weights file ({_first_line(error)}); "
            "save its state dict as safetensors and pass that"
        ) from error
    except Exception as error:  # a damaged pickle makes torch's reader raise almost anything
        raise UsageError(f"{path}: cannot be read as a weights file ({_first_line(error)})") from error
    return _unwrap(held, path)


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of the file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_dict_sha256(module: nn.Module) -> str:
    """Hex sha256 of names, dtypes, shapes and bytes of all tensors in the module's state dict, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _unwrap(held: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    notes: list[str] = []
    while isinstance(held, Mapping):
        key = next((k for k in _WRAPPERS if isinstance(held.get(k), Mapping)), None)
        if key is None:
            tensors = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
            if tensors:
                return tensors, notes
            break
        rest = [str(k) for k in held if k != key]
        notes.append(f"tensors taken from {key!r}" + (f", beside it in the file: {_listed(rest)}" if rest else ""))
        held = held[key]
    found = _listed([str(k) for k in held]) if isinstance(held, Mapping) else type(held).__name__
    raise UsageError(f"{path}: holds no tensors at its top or under {', '.join(_WRAPPERS)}; found {found}")


def _best_prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Prefix under which most of the wanted names are found; of equals not the student's, then the shortest."""
    prefixes = {""}
    for name in tensors:
        at = 0
        while step := next((p for p in _PREFIXES if name.startswith(p, at)), ""):
            at += len(step)
            prefixes.add(name[:at])
    ranked = sorted(prefixes, key=lambda p: ("student" in p or "online" in p, len(p), p))
    return max(ranked, key=lambda p: sum(p + name in tensors for name in wanted))


def _to_timm_names(model: nn.Module, inner: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors passed through timm's own converter of this model family, where names or shapes do not fit as they are.

    It knows the original names of DINOv2, MAE, CLIP and others, and resamples position embeddings to another size.
    """
    if all(name in inner and inner[name].shape == tensor.shape for name, tensor in wanted.items()):
        return inner
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return inner
    try:
        return dict(convert(dict(inner), model))
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError, TypeError, AssertionError):
        return inner  # names that the converter does not expect; the caller lists what is missing


def _leftovers(unused: list[str], outside: list[str]) -> list[str]:
    heads = [n for n in unused if n.split(".")[0].rstrip("0123456789_") in _HEADS or n.startswith(_HEADS)]
    unexpected = [n for n in unused if n not in heads]
    named = (
        ("head tensors dropped", heads),
        ("unexpected tensors ignored", unexpected),
        ("outside the trunk, ignored", outside),
    )
    return [f"{len(names)} {what}: {_listed(names)}" for what, names in named if names]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
