"""Folders of pruned shards, made by the product itself from 60 small samples; each kind once in a session."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyarrow.parquet as pq

from sspruning import api
from sspruning.config import load_config
from sspruning.records import Output
from sspruning.stages.sidecars import output_of

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "e2e" / "small_corpora.py")))
SETTINGS = [
    "encoder.name=pixels",
    "cluster.n_clusters=4",
    "select.keep_fraction=0.7",
    "execution.executor=inline",
    "write.samples_per_shard=16",
    "write.index=all",
]
LONG = "a/" + "long-folder-name/" * 5 + "and-a-long-file-name"


class Pruned(NamedTuple):
    """A folder of pruned shards, and what must be in it."""

    path: Path
    content: dict[str, dict[str, bytes]]
    """{key: {suffix: bytes}} of the selected samples, from the source."""

    @property
    def output(self) -> Output:
        return output_of(self.path)


def captioned(seed):
    """Jpg, caption, JSON and class: what every trainer takes."""
    members = {"jpg": SMALL.image(seed), "txt": f"caption {seed}".encode(), "json": json.dumps({"n": seed}).encode()}
    return f"{seed // 1000}/sub/{seed:05d}", members | {"cls": str(seed % 4).encode()}


def mixed(seed):
    """Images under several suffixes, large letters among them, and members that not all samples have; no class."""
    suffix, kind = [("jpeg", "JPEG"), ("PNG", "PNG"), ("webp", "WEBP")][seed % 3]
    members = {suffix: SMALL.image(seed, kind)}
    if seed % 2:
        members["txt"] = f"caption {seed}".encode()
    if seed % 5 == 0:
        members["meta.json"] = b'{"seed": %d}' % seed
    return f"part.{seed % 2}/s-{seed:05d}", members


def unlabeled(seed):
    """An image and nothing else."""
    return f"{seed:05d}", {"jpg": SMALL.image(seed)}


def late_png(seed):
    """The images of the last source shard have another suffix."""
    return f"{seed:05d}", {"png" if seed >= 2000 else "jpg": SMALL.image(seed, "PNG" if seed >= 2000 else "JPEG")}


def blank(seed):
    """Names with a blank."""
    return f"my pictures/{seed:05d}", {"jpg": SMALL.image(seed)}


def long_names(seed):
    """Names that do not fit into a plain tar header."""
    return f"{LONG}-{seed:05d}", {"txt": b"x" * (seed % 700), "jpg": SMALL.image(seed)}


KINDS = {make.__name__: make for make in (captioned, mixed, unlabeled, late_png, blank, long_names)}
_sources: dict[str, tuple[Path, dict[str, dict[str, bytes]]]] = {}
_made: dict[tuple[str, ...], Pruned] = {}


def source(factory, kind):
    """(folder with a store, {key: {suffix: bytes}}) of a kind."""
    if kind not in _sources:
        root, content = factory.mktemp(kind), {}
        for number in range(3):
            own = dict(KINDS[kind](1000 * number + sample) for sample in range(20))
            SMALL.shard(root / "shards" / f"train-{number:06d}.tar", own)
            content |= own
        api.embed(str(root / "shards"), root / "store", config=load_config(None, SETTINGS))
        _sources[kind] = root, content
    return _sources[kind]


def pruned(factory, kind, *overrides):
    """`Pruned` of a kind, written with these settings in addition; tests must leave it as it is.

    Args:
        factory: pytest's ``tmp_path_factory``.
        kind: one of `KINDS`.
        overrides: settings, such as write.cls=zero.
    """
    known = (kind, *overrides)
    if known not in _made:
        root, content = source(factory, kind)
        folder = root / f"pruned{len(_made)}"
        api.select(root / "store", output=folder, config=load_config(None, [*SETTINGS, *overrides]))
        table = pq.read_table(folder / ".sspruning" / "selection.parquet", columns=["key", "kept"])
        kept = table.filter(table.column("kept")).column("key").to_pylist()
        assert len(kept) == 42
        lowered = {key: {suffix.lower(): data for suffix, data in content[key].items()} for key in kept}
        _made[known] = Pruned(folder, lowered)
    return _made[known]
