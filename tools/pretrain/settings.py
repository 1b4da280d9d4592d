"""What a pretraining run is: one frozen value, which together with the images decides every weight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from sspruning.errors import UsageError
from sspruning.records import JSONValue

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one run. The defaults are the recipe of the shipped encoder."""

    objective: str = "simclr"
    """A name of the table in `pretrain.objectives`."""
    model: str = "resnet10t"
    """timm model name; it is trained from scratch, without a classifier."""
    model_kwargs: dict[str, JSONValue] = field(default_factory=lambda: {"channels": [48, 96, 192, 384]})
    """Passed to ``timm.create_model``; the default makes 2.8 M parameters and 384 features."""
    image_size: int = 64
    """Side in pixels of the training crops, and at which the finished encoder is used."""
    cache_px: int = 32
    """Side in pixels at which the decoded images are held in memory; colours are changed at this size."""
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    """Of the normalisation, per channel in 0..1; the default is that of CIFAR-10's train images."""
    std: tuple[float, ...] = (0.247, 0.2435, 0.2616)
    epochs: int = 20
    batch_size: int = 512
    """Images per step; each is seen in two views. What is left over at the end of an epoch waits for the next."""
    learning_rate: float = 0.3
    """Peak rate of SGD with momentum 0.9: one epoch of linear rise, then a cosine to zero. For 512 images a step."""
    weight_decay: float = 5e-4
    temperature: float = 0.2
    precision: str = "bf16"
    """bf16 (autocast; fast on GPUs and on CPUs with AVX512-BF16 or AMX) or fp32."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work, before anything is read."""
        for name in ("image_size", "cache_px", "epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.batch_size < 2:
            raise UsageError(f"batch_size is {self.batch_size}; contrast between images needs at least 2")
        if self.learning_rate <= 0 or self.temperature <= 0 or self.weight_decay < 0:
            raise UsageError("learning_rate and temperature must be above 0, weight_decay 0 or more")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError(f"mean {self.mean} and std {self.std} need three values each, std above 0")
        if self.precision not in {"bf16", "fp32"}:
            raise UsageError(f"precision is {self.precision!r}; it must be bf16 or fp32")

    def fingerprint(self, image_count: int) -> str:
        """16 hex digits that a checkpoint carries, so that it is only continued with what it was made from."""
        text = json.dumps({**asdict(self), "image_count": image_count}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
