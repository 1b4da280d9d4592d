"""The training loop: drawn by seed, one checkpoint an epoch, the same weights however often it was stopped."""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.augment import random_view
from pretrain.objectives import OBJECTIVES
from pretrain.optimizers import make_optimizers
from pretrain.settings import Settings
from sspruning.encoders.checkpoint import file_sha256, load_trunk
from sspruning.encoders.timm_encoder import create_trunk
from sspruning.encoders.torch_forward import has_bfloat16, pick_device
from sspruning.errors import DataError, StoreError, UsageError
from sspruning.records import JSONValue
from sspruning.storage.atomic import write_bytes

__all__ = ["CHECKPOINT", "LOG", "Trainer", "draw_order"]

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
LOCAL_SCALE = (0.1, 0.4)
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
        weights: (n,) float64 >= 0: how often each image is seen, in proportion; None: all alike.

    Raises:
        DataError: fewer images than one batch.
        UsageError: timm does not know the model, or the objective does not take the settings.
        StoreError: the folder's checkpoint is damaged, or belongs to other settings, weights or another number of
            images.
    """

    def __init__(
        self, settings: Settings, pixels: Tensor, folder: Path, say: Say, weights: Tensor | None = None
    ) -> None:
        if len(pixels) < settings.batch_size:
            raise DataError(f"{len(pixels)} images do not fill one batch of {settings.batch_size}; lower --batch-size")
        notes: list[str] = []
        self.device = pick_device(settings.device, notes)
        self.settings = settings = replace(settings, precision=_precision(settings.precision, self.device))
        self.pixels, self.folder, self.say, self.weights = pixels, folder, say, weights
        torch.manual_seed(settings.seed)
        trunk = create_trunk(settings.model, pretrained=False, **settings.model_kwargs)
        if settings.init is not None:
            notes += load_trunk(trunk, settings.init)
        for note in notes:
            say(note)
        self.dim = int(getattr(trunk, "head_hidden_size", None) or trunk.num_features)
        """Length of the trunk's output."""
        objective = OBJECTIVES.resolve(settings.objective)(trunk, self.dim, settings)
        if settings.local_crops and not objective.takes_local:
            raise UsageError(f"the objective {settings.objective!r} uses no local crops; set local_crops to 0")
        self.objective = objective.to(self.device, memory_format=torch.channels_last)
        self.optimizers = make_optimizers(self.objective, settings)
        self.steps_per_epoch = len(pixels) // settings.batch_size
        self.init_sha256 = None if settings.init is None else file_sha256(settings.init)
        self.fingerprint = settings.fingerprint(len(pixels), weights)
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
        generator = torch.Generator().manual_seed(stream)  # a resumed run repeats what an interrupted epoch drew
        order = draw_order(len(self.pixels), self.weights, generator)
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
        share = self._rate_share(step)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
        views = self._views(batch, generator)
        with self._autocast():
            outputs = self.objective(*views)
        loss = self.objective.loss([output.float() for output in outputs])
        for optimizer, _ in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, _ in self.optimizers:
            optimizer.step()
        self.objective.after_step((step + 1) / (self.settings.epochs * self.steps_per_epoch))
        value = loss.item()
        if not math.isfinite(value):
            raise DataError(f"the loss became {value} at step {step}; lower --learning-rate or use --precision fp32")
        return value

    def _views(self, batch: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Random views of (m, side, side, 3) uint8 images: a batch of two global ones, and one of the local ones.

        The global batch holds all first views, then all second ones. Without local crops it is alone.
        """
        images = batch.permute(0, 3, 1, 2).float() / 255
        settings = self.settings
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        kinds = [(2, settings.train_px, (settings.min_scale, 1.0))]
        if settings.local_crops:
            kinds.append((settings.local_crops, settings.local_px, LOCAL_SCALE))
        found = []
        for count, side, scale in kinds:
            views = [
                random_view(images, side, generator, scale=scale, mean=settings.mean, std=settings.std)
                for _ in range(count)
            ]
            found.append(torch.cat([view.to(dtype).contiguous(memory_format=torch.channels_last) for view in views]))
        return found

    def _rate_share(self, step: int) -> float:
        """Share of the peak rate at a step: one epoch of linear rise, under a cosine that falls to zero at the end."""
        warmup = self.steps_per_epoch
        rest = max(1, self.settings.epochs * self.steps_per_epoch - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / rest))
        return min((step + 1) / warmup, cosine)

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
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.folder / CHECKPOINT, buffer.getvalue())

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            made_with = state["fingerprint"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({str(error)[:80]}); delete it to start anew") from error
        if made_with != self.fingerprint:
            raise StoreError(
                f"{path} was made with other settings, weights or images ({made_with}, now {self.fingerprint}); "
                "give its settings again to continue it, or another --out to start anew"
            )
        self.objective.load_state_dict(state["objective"])
        for (optimizer, _), held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.epoch = int(state["epoch"])
        self.say(f"continuing after epoch {self.epoch} of {self.settings.epochs}")

    def _log(self, facts: dict[str, JSONValue]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")


def draw_order(count: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """(count,) int64: the images of one epoch in random order, each as often as its weight asks for.

    An image is drawn either the whole number of times below its share or once more (systematic sampling), so equal
    weights draw each image once.

    Args:
        count: number of images, and of draws.
        weights: (count,) float64 >= 0, not all 0; None: all alike.
        generator: the only source of chance.
    """
    if weights is None:
        return torch.randperm(count, generator=generator)
    total = weights.double().cumsum(0)
    share = total / total[-1] * count
    places = torch.arange(count, dtype=torch.float64) + torch.rand(1, generator=generator, dtype=torch.float64)
    last = int(weights.nonzero().max())  # the last place may be rounded up to ``count``, which lies behind all images
    drawn = torch.searchsorted(share, places, right=True).clamp_(max=last)
    return drawn[torch.randperm(count, generator=generator)]


def _precision(asked: str, device: torch.device) -> str:
    """bf16 or fp32; for `auto` bf16 where the hardware has fast instructions for it."""
    if asked != "auto":
        return asked
    return "bf16" if has_bfloat16(device) else "fp32"
