"""The training loop: drawn by seed, one checkpoint an epoch, the same weights however often it was stopped."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from pretrain.augment import random_view
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Settings
from sspruning.errors import DataError, StoreError, UsageError
from sspruning.records import JSONValue
from sspruning.storage.atomic import write_bytes

__all__ = ["CHECKPOINT", "LOG", "Trainer"]

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
MOMENTUM = 0.9
FIRST_STREAM = 1000  # epoch e draws from the generator seeded FIRST_STREAM + e, a million further on for each seed
LINE_EVERY_S = 20.0
Say = Callable[[str], None]


class Trainer:
    """One run in one folder.

    Args:
        settings: what to train, and how.
        pixels: (n, side, side, 3) uint8 images.
        folder: checkpoint and log lie here; a checkpoint of the same run is continued.
        say: takes lines for people.

    Raises:
        DataError: fewer images than one batch.
        StoreError: the folder's checkpoint belongs to other settings or another number of images.
    """

    def __init__(self, settings: Settings, pixels: Tensor, folder: Path, say: Say) -> None:
        if len(pixels) < settings.batch_size:
            raise DataError(f"{len(pixels)} images do not fill one batch of {settings.batch_size}; lower --batch-size")
        self.settings, self.pixels, self.folder, self.say = settings, pixels, folder, say
        self.device = _device(settings.device)
        torch.manual_seed(settings.seed)
        trunk = timm.create_model(settings.model, pretrained=False, num_classes=0, **settings.model_kwargs)
        objective = OBJECTIVES.resolve(settings.objective)(trunk, int(trunk.num_features), settings)
        self.objective = objective.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            _decay_groups(self.objective, settings.weight_decay), lr=settings.learning_rate, momentum=MOMENTUM
        )
        self.steps_per_epoch = len(pixels) // settings.batch_size
        self.fingerprint = settings.fingerprint(len(pixels))
        self.epoch = 0
        """Epochs that are done."""
        self._resume()

    @property
    def trunk(self) -> nn.Module:
        """The network that is kept; the objective's heads are not."""
        return self.objective.trunk

    def epochs(self) -> Iterator[int]:
        """Train what is left, yielding the number of each epoch once its checkpoint stands."""
        while self.epoch < self.settings.epochs:
            started = time.perf_counter()
            loss = self._train_epoch(started)
            self.epoch += 1
            self._save()
            self._log({"epoch": self.epoch, "loss": loss, "seconds": round(time.perf_counter() - started, 1)})
            yield self.epoch

    def _train_epoch(self, started: float) -> float:
        """Mean loss over one epoch."""
        self.objective.train()
        size, total, spoken = self.settings.batch_size, 0.0, started
        stream = self.settings.seed * 1_000_000 + FIRST_STREAM + self.epoch
        generator = torch.Generator().manual_seed(
            stream
        )  # so that a resumed run repeats what an interrupted epoch drew
        order = torch.randperm(len(self.pixels), generator=generator)
        for step in range(self.steps_per_epoch):
            batch = self.pixels[order[step * size : (step + 1) * size]].to(self.device)
            total += self._step(batch, self.epoch * self.steps_per_epoch + step, generator)
            now = time.perf_counter()
            if now - spoken >= LINE_EVERY_S:
                spoken = now
                self._say_progress(step + 1, total / (step + 1), now - started)
        mean = total / self.steps_per_epoch
        self._say_progress(self.steps_per_epoch, mean, time.perf_counter() - started)
        return mean

    def _step(self, batch: Tensor, step: int, generator: torch.Generator) -> float:
        """Loss of one optimiser step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        views = self._views(batch, generator)
        with self._autocast():
            projected = self.objective(views)
        loss = self.objective.loss(projected.float())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.objective.after_step((step + 1) / (self.settings.epochs * self.steps_per_epoch))
        value = loss.item()
        if not math.isfinite(value):
            raise DataError(f"the loss became {value} at step {step}; lower --learning-rate or use --precision fp32")
        return value

    def _views(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Two random views of each image of (m, side, side, 3) uint8, one batch: the first views, then the second."""
        images = batch.permute(0, 3, 1, 2).float() / 255
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        views = [
            random_view(images, self.settings.image_size, generator, mean=self.settings.mean, std=self.settings.std)
            for _ in range(2)
        ]
        return torch.cat([view.to(dtype).contiguous(memory_format=torch.channels_last) for view in views])

    def _learning_rate(self, step: int) -> float:
        """Rate at a step: one epoch of linear rise, under a cosine that falls to zero at the end."""
        warmup = self.steps_per_epoch
        rest = max(1, self.settings.epochs * self.steps_per_epoch - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / rest))
        return self.settings.learning_rate * min((step + 1) / warmup, cosine)

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.settings.precision == "bf16" else nullcontext()

    def _say_progress(self, step: int, loss: float, seconds: float) -> None:
        left = (self.settings.epochs - self.epoch) * self.steps_per_epoch - step
        rate = step / seconds
        self.say(
            f"epoch {self.epoch + 1}/{self.settings.epochs}  step {step}/{self.steps_per_epoch}  loss {loss:.4f}  "
            f"{rate * self.settings.batch_size:.0f} images/s  {left / rate / 60:.0f} min left"
        )

    def _save(self) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.folder / CHECKPOINT, buffer.getvalue())

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            raise StoreError(
                f"{path} was made with other settings or other images ({state['fingerprint']}, now "
                f"{self.fingerprint}); "
                "give its settings again to continue it, or another --out to start anew"
            )
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])
        self.say(f"continuing after epoch {self.epoch} of {self.settings.epochs}")

    def _log(self, facts: dict[str, JSONValue]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters in two groups: matrices and kernels decay, biases and normalisation do not."""
    kept = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    free = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return [{"params": kept, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {error}") from error
