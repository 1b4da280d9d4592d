"""What a `Crew` does: the halves of embedding, each alone, and the plain script that embedding is compared with."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sspruning.encoders import Encoder, build_encoder
from sspruning.encoders.images import decode_image
from sspruning.records import EncoderSpec
from sspruning.storage.samples import ShardReader

__all__ = ["SUFFIXES", "Variant", "decode", "forward", "plain_script", "prepare"]

SUFFIXES = ("jpg", "png", "jpeg", "webp")


def forward(spec: EncoderSpec, images: str) -> Callable[[tuple[int, int]], int]:
    """Step that runs prepared images ``start`` to ``stop`` of the array file ``images`` through the encoder."""
    encoder = build_encoder(spec)
    prepared = np.load(images, mmap_mode="c")  # writable as the encoder wants it; one copy for all processes

    def step(item: tuple[int, int]) -> int:
        return len(encoder.embed(np.asarray(prepared[item[0] : item[1]])))

    return step


def _prepared(encoder: Encoder, shard: str) -> Iterator[np.ndarray]:
    with ShardReader(shard) as reader:
        for sample in reader.samples():
            member = sample.find(SUFFIXES)
            if member is not None:
                data = reader.read(member.start, member.size)
                yield encoder.prepare(decode_image(data, draft_size=encoder.draft_size))


def decode(spec: EncoderSpec) -> Callable[[str], int]:
    """Step that reads, decodes and prepares the images of a shard, and forgets them."""
    encoder = build_encoder(spec)

    def step(shard: str) -> int:
        return sum(1 for _ in _prepared(encoder, shard))

    return step


def prepare(spec: EncoderSpec, folder: str) -> Callable[[tuple[int, str]], int]:
    """Step that leaves the prepared images of a numbered shard as ``folder``/NUMBER.npy."""
    encoder = build_encoder(spec)

    def step(item: tuple[int, str]) -> int:
        images = np.stack(list(_prepared(encoder, item[1])))
        np.save(Path(folder) / f"{item[0]:06d}.npy", images)
        return len(images)

    return step


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a user might write the script."""

    shards: list[str]
    loaders: int
    batch_size: int
    channels_last: bool

    @property
    def described(self) -> str:
        """For people."""
        layout = "channels_last" if self.channels_last else "default layout"
        return f"{self.loaders} loader processes, batch {self.batch_size}, {layout}"


def plain_script(spec: EncoderSpec, dtype: str, output: str) -> Callable[[Variant], int]:
    """Step that embeds shards as a short script would: webdataset, DataLoader, timm's transform and model, autocast."""
    import torch
    import webdataset
    from timm.data import create_transform
    from torch.utils.data import DataLoader

    model, config = _plain_model(spec)
    transform = create_transform(**config, is_training=False)
    layouts = {True: torch.channels_last, False: torch.contiguous_format}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.eval().to(device)

    def step(variant: Variant) -> int:
        layout = layouts[variant.channels_last]
        model.to(memory_format=layout)
        dataset = (
            webdataset.WebDataset(variant.shards, shardshuffle=False)
            .decode("pil")
            .to_tuple(";".join(SUFFIXES), "__key__")
            .map_tuple(transform, str)
        )
        # A spawned process like this one would spawn its loaders too, which takes seconds; a script forks them.
        start = "fork" if variant.loaders and "fork" in multiprocessing.get_all_start_methods() else None
        loader = DataLoader(
            dataset, batch_size=variant.batch_size, num_workers=variant.loaders, multiprocessing_context=start
        )
        keys: list[str] = []
        rows = []
        mixed = torch.autocast(device, dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext()
        with torch.inference_mode(), mixed:
            for images, names in loader:
                features = model(images.to(device).contiguous(memory_format=layout)).float()
                rows.append(torch.nn.functional.normalize(features).half().cpu().numpy())
                keys.extend(names)
        np.savez(output, keys=np.array(keys), embedding=np.concatenate(rows))
        return len(keys)

    return step


def _plain_model(spec: EncoderSpec) -> tuple[Any, dict[str, Any]]:
    """The encoder's network and data configuration, by timm alone."""
    import timm
    from safetensors.torch import load_file
    from timm.data import resolve_data_config

    from sspruning.encoders.shipped import WEIGHTS_DIR

    if spec.name == "shipped":
        card = json.loads((WEIGHTS_DIR / "shipped.json").read_text(encoding="utf-8"))
        model = timm.create_model(card["architecture"], num_classes=0, **card["model_kwargs"])
        config = {key: card[key] for key in ("mean", "std", "interpolation", "crop_pct")}
        config["input_size"] = (3, card["image_size"], card["image_size"])
        weights = WEIGHTS_DIR / "shipped.safetensors"
    else:
        model = timm.create_model(str(spec.model), num_classes=0)
        config = resolve_data_config({"img_size": spec.image_size}, model=model)
        weights = Path(str(spec.checkpoint))
    model.load_state_dict(load_file(weights))
    return model, config
