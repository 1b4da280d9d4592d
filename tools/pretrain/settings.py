"""What a pretraining run is: one frozen value, which together with the images decides every weight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from sspruning.encoders.checkpoint import file_sha256
from sspruning.errors import ConfigError, UsageError
from sspruning.records import JSONValue

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one run. A file of `configs/pretrain-*.yaml` holds the same names."""

    objective: str = "simclr"
    """A name of the table in `pretrain.objectives`."""
    model: str = "resnet10t"
    """timm model name; it is trained without a classifier."""
    model_kwargs: dict[str, JSONValue] = field(default_factory=lambda: {"channels": [48, 96, 192, 384]})
    """Passed to ``timm.create_model``; the default makes 2.8 M parameters and 384 features."""
    init: str | None = None
    """Weights to start from, as another run exported them; None starts from chance."""
    image_size: int = 64
    """Side in pixels at which the finished encoder is used."""
    crop_px: int | None = None
    """Side of the training crops; None: ``image_size``. Smaller crops are faster, and objects look larger in them than
    in whole images, so that the encoder may be used at a larger side (FixRes, arXiv:1906.06423)."""
    cache_px: int = 32
    """Side in pixels at which the decoded images are held in memory; colours are changed at this size."""
    min_scale: float = 0.2
    """A global crop covers at least this share of the image."""
    local_crops: int = 0
    """Small crops of each image besides the two global ones (multi-crop); only for objectives that use them."""
    local_px: int = 24
    """Side of the small crops; they cover 0.1 to 0.4 of the image."""
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    """Of the normalisation, per channel in 0..1; the default is that of CIFAR-10's train images."""
    std: tuple[float, ...] = (0.247, 0.2435, 0.2616)
    epochs: int = 20
    batch_size: int = 512
    """Images per step; each is seen in two views. What is left over at the end of an epoch waits for the next."""
    norm_batch: int = 128
    """Views in one pass through the trunk; batch norm sees them alone. On a processor 128 ran 1.26 times as fast as
    512 (resnet10t, 48 pixels, one core, one trial)."""
    optimizer: str = "sgd"
    """sgd, or muon: orthogonalised steps for kernels and matrices, sgd for the first layer and for vectors."""
    learning_rate: float = 0.3
    """Peak rate of SGD with momentum 0.9: one epoch of linear rise, then a cosine to zero. For 512 images a step."""
    matrix_rate: float = 0.02
    """Peak rate of the orthogonalised steps, under the same schedule."""
    weight_decay: float = 5e-4
    temperature: float = 0.2
    whiten: float = 0.0
    """Exponent of the whitening that the export appends to the trunk, 0: none, 0.5: all directions alike."""
    precision: str = "auto"
    """auto (bf16 on a GPU or a processor with AVX512-BF16 or AMX), bf16 (autocast) or fp32."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work, before anything is read."""
        for name in ("image_size", "cache_px", "epochs", "local_px", "norm_batch", "train_px"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('train', 'crop')} is {getattr(self, name)}; it must be 1 or more")
        if "num_classes" in self.model_kwargs:
            raise UsageError("model_kwargs must not set num_classes: the trunk is trained without a last layer")
        if self.batch_size < 2:
            raise UsageError(f"batch_size is {self.batch_size}; contrast between images needs at least 2")
        if min(self.learning_rate, self.temperature, self.matrix_rate) <= 0 or self.weight_decay < 0:
            raise UsageError("learning_rate, matrix_rate and temperature must be above 0, weight_decay 0 or more")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError(f"mean {self.mean} and std {self.std} need three values each, std above 0")
        if not (0 < self.min_scale <= 1 and 0 <= self.whiten <= 0.5 and self.local_crops >= 0):
            raise UsageError("min_scale must lie in (0, 1], whiten in 0..0.5, local_crops be 0 or more")
        for name, known in (("precision", ("auto", "bf16", "fp32")), ("optimizer", ("sgd", "muon"))):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; it must be {', '.join(known[:-1])} or {known[-1]}"
                )

    @property
    def train_px(self) -> int:
        """Side of the training crops in pixels."""
        return self.image_size if self.crop_px is None else self.crop_px

    def fingerprint(self, image_count: int, weights: Tensor | None = None) -> str:
        """16 hex digits that a checkpoint carries, so that it is only continued with what it was made from.

        Args:
            image_count: number of images.
            weights: (n,) float64, how often each is seen; None: all alike.
        """
        facts = {**asdict(self), "image_count": image_count}
        if weights is not None:
            facts["weights"] = hashlib.sha256(weights.double().numpy().tobytes()).hexdigest()
        if self.init is not None:
            facts["init"] = file_sha256(self.init)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_settings(path: Path) -> dict[str, Any]:
    """Names and values of a YAML file that holds settings.

    Raises:
        ConfigError: unreadable, not a mapping, a name that `Settings` does not have, or a value of another type.
    """
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    known = {entry.name: str(entry.type) for entry in fields(Settings)}
    if not isinstance(held, dict) or not set(held) <= set(known):
        strange = sorted(map(str, set(held) - set(known))) if isinstance(held, dict) else type(held).__name__
        raise ConfigError(f"{path}: expected a mapping of {', '.join(sorted(known))}; got {strange}")
    for name, value in held.items():
        if not _is_of_type(value, known[name]):
            hint = "; YAML takes 5e-4 for text, write 5.0e-4" if known[name] == "float" else ""
            raise ConfigError(f"{path}: {name} is {value!r}; expected {known[name]}{hint}")
    return held


def _is_of_type(value: object, annotation: str) -> bool:
    """True if a value read from YAML is what the annotation of a setting says."""
    kind, _, optional = annotation.partition(" | ")
    if value is None:
        return optional == "None"
    if isinstance(value, list):
        return kind.startswith("tuple") and all(_is_of_type(entry, "float") for entry in value)
    types = {"int": int, "float": int | float, "str": str}
    return isinstance(value, types.get(kind, dict)) and not isinstance(value, bool) and not kind.startswith("tuple")
