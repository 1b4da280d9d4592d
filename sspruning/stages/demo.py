"""The whole flow on data that every machine has: what is kept, what is dropped, and whether it helped."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sspruning.config import Config, load_config
from sspruning.errors import MachineError, UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.records import U8
from sspruning.stages.demo_figure import COLUMNS, draw
from sspruning.stages.pack import PackReport, pack
from sspruning.stages.run import RunResult, prune
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import write_bytes, write_json

__all__ = ["DATASETS", "DemoResult", "Probe", "demo"]

DATASETS = ("digits", "cifar10", "fashion-mnist")
SEEDS = 5
PROBE_SIDE = 8  # pixels; the probe sees images at this size, so that it takes seconds
PROBE_TRAIN_CAP = 20_000


@dataclass(frozen=True, slots=True)
class Probe:
    """Test accuracy of a small classifier over seeds."""

    name: str
    n_train: int
    mean: float
    spread: float
    """Standard deviation over the seeds."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made and measured."""

    packed: PackReport
    run: RunResult
    probes: list[Probe]
    typical: list[str]
    """Keys of the easiest samples."""
    rare: list[str]
    """Keys of the hardest samples."""
    folder: Path
    picture: Path


@dataclass(frozen=True, slots=True)
class _Data:
    train: list[U8]
    train_labels: np.ndarray
    test: list[U8]
    test_labels: np.ndarray


def _digits() -> _Data:
    """1,797 handwritten digits of 8 by 8 pixels that scikit-learn carries; every fifth is for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MachineError("the demo needs scikit-learn: `pip install 'sspruning[demo]'`") from error
    found: Any = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    held_out = np.arange(len(images)) % 5 == 0
    return _Data(list(images[~held_out]), found.target[~held_out], list(images[held_out]), found.target[held_out])


def _downloaded(name: str, folder: Path) -> _Data:
    """CIFAR-10 or Fashion-MNIST through torchvision."""
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "fashion-mnist": datasets.FashionMNIST}[name]
    try:
        train, test = (kind(str(folder), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise MachineError(
            f"{name} could not be downloaded ({error}); without a network use --dataset digits"
        ) from error
    return _Data(
        list(np.asarray(train.data)), np.asarray(train.targets), list(np.asarray(test.data)), np.asarray(test.targets)
    )


def _write_images(data: _Data, folder: Path) -> None:
    """Training images as PNG files with their class beside them; written once."""
    if (folder / "complete").exists():
        return
    for number, (image, label) in enumerate(zip(data.train, data.train_labels.tolist(), strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        stem = folder / f"{number // 1000:03d}" / f"{number:05d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".png").write_bytes(buffer.getvalue())
        stem.with_suffix(".cls").write_text(str(label), encoding="utf-8")
    write_bytes(folder / "complete", b"")


def _features(images: list[U8]) -> np.ndarray:
    """(n, p) small pixels for the probe, in 0..1."""
    small = [
        np.asarray(Image.fromarray(image).resize((PROBE_SIDE, PROBE_SIDE), Image.Resampling.BOX), np.float32).ravel()
        for image in images
    ]
    return np.stack(small) / 255


def _accuracy(train: np.ndarray, labels: np.ndarray, data: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((64,), max_iter=40, learning_rate_init=0.005, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is the point
        model.fit(train, labels)
    return float(model.score(*data))


def _probes(data: _Data, kept: np.ndarray, progress: Progress) -> list[Probe]:
    """Accuracy after training on all, on the kept, and on equally many random samples, over seeds."""
    train, test = _features(data.train), (_features(data.test), data.test_labels)
    n = len(train)
    cap = min(1.0, PROBE_TRAIN_CAP / n)
    names = ("all", "kept", "random")
    found: dict[str, list[float]] = {name: [] for name in names}
    sizes: dict[str, int] = {}
    with progress.stage("probe", len(names) * SEEDS, "trainings") as ticker:
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            chosen = {"all": np.arange(n), "kept": kept, "random": rng.permutation(n)[: len(kept)]}
            for name, rows in chosen.items():
                own = rng.permutation(rows)[: max(1, round(cap * len(rows)))]
                found[name].append(_accuracy(train[own], data.train_labels[own], test, seed))
                sizes[name] = len(own)
                ticker.tick()
    return [Probe(name, sizes[name], float(np.mean(found[name])), float(np.std(found[name], ddof=1))) for name in names]


def _by_hardness(path: Path) -> tuple[list[str], list[int], np.ndarray]:
    """Keys and image numbers from the easiest to the hardest, and the sorted numbers of the kept images."""
    file = SelectionFile.open(path)
    order = np.argsort(file.column("score"), kind="stable")
    keys = file.column("key")[order]
    numbers = np.array([int(key.rsplit("/", 1)[1]) for key in keys])
    return list(keys), numbers.tolist(), np.sort(numbers[file.column("kept")[order]])


def _config(folder: Path, keep_fraction: float, workers: int | None) -> Config:
    settings = [
        "name=demo",
        f"corpus.input={json.dumps(str(folder / 'shards'))}",
        f"select.keep_fraction={keep_fraction}",
        f"paths.run_dir={json.dumps(str(folder / 'run'))}",
        f"paths.output={json.dumps(str(folder / 'pruned'))}",
    ]
    if workers is not None:
        settings.append(f"execution.workers={workers}")
    return load_config(None, settings)


def demo(
    folder: Path,
    *,
    dataset: str = "digits",
    keep_fraction: float = 0.7,
    workers: int | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """`DemoResult` of packing, pruning and probing a small data set in ``folder``.

    Labels are read by the probe alone.

    Args:
        folder: everything the demo makes lies there.
        dataset: digits (scikit-learn carries it, no network), cifar10 or fashion-mnist (downloaded).
        keep_fraction: share to keep.
        workers: processes; None takes one for each core.
        progress: told of every stage.

    Raises:
        UsageError: unknown data set.
        MachineError: scikit-learn, or the network, is missing.
    """
    progress = progress or SilentProgress()
    if dataset not in DATASETS:
        raise UsageError(f"unknown data set {dataset!r}; known: {', '.join(DATASETS)}")
    data = _digits() if dataset == "digits" else _downloaded(dataset, folder / "download")
    images = folder / "images"
    _write_images(data, images)
    packed = pack(images, folder / "shards", samples_per_shard=300, overwrite=True, progress=progress)
    result = prune(_config(folder, keep_fraction, workers), progress, overwrite=True)
    keys, numbers, kept = _by_hardness(folder / "run" / "selection.parquet")
    probes = _probes(data, kept, progress)
    picture = folder / "demo.png"
    title = f"{dataset}: {result.selection.n_kept:,} of {result.selection.n_embedded:,} images kept, no labels used"
    easy, hard = numbers[:COLUMNS], numbers[::-1][:COLUMNS]
    draw(picture, [data.train[i] for i in easy], [data.train[i] for i in hard], probes, title)
    write_json(
        folder / "probe.json",
        [{"name": p.name, "n_train": p.n_train, "mean": p.mean, "spread": p.spread, "seeds": SEEDS} for p in probes],
    )
    return DemoResult(packed, result, probes, keys[:5], keys[:-6:-1], folder, picture)
