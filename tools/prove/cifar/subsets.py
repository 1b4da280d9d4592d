"""Ranks of all images under a metric and a policy, made by the product itself: cluster, score or import, select."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import sspruning
from sspruning.config import Config, override
from sspruning.recipes import RECIPES
from sspruning.records import F32, I64
from sspruning.storage.artifacts import SelectionFile

__all__ = ["MIXTURES", "SSL", "Subsets"]

SSL = "ssl_prototypes"
"""The product's own metric: cosine distance to the nearest prototype of the shipped encoder's embeddings."""
MIXTURES = {"coverage-hardness": {"keep": "coverage", "options": {"hardness": 0.5}}}
"""Settings that no recipe of the product has: coverage whose budgets lean towards hard clusters."""
PRODUCT_METRICS = {SSL: "prototype_distance", "ssl_margin": "prototype_margin"}


class Subsets:
    """Ranks over one store, each made once and kept.

    Args:
        folder: holds ``store/``, ``scores/`` (tables of outside scores) and ``ranks/``.
        keys: of the images, in the order in which ranks are wanted.
    """

    def __init__(self, folder: Path, keys: list[str]) -> None:
        self.folder, self.keys = folder, keys
        self.config = override(Config(), "execution", executor="inline")  # selecting is a matter of seconds

    def embed(self, shards: str, *, workers: int) -> None:
        """Bring the store up to date; the shipped encoder, no labels."""
        config = self.config if workers == 1 else override(Config(), "execution", workers=workers)
        sspruning.embed([shards], self.folder / "store", config=config)

    def import_scores(self, name: str, score: F32) -> None:
        """Keep outside scores (n,) as the table that the product imports."""
        path = self.table(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"key": self.keys, "score": score}), path)

    def table(self, name: str) -> Path:
        """Where the outside scores of that name lie."""
        return self.folder / "scores" / f"{name}.parquet"

    def ranks(self, metric: str, policy: str, *, balance: float, k: int | None, seed: int, keep: float) -> I64:
        """(n,) int64: rank of each image; a fraction keeps the smallest ranks.

        Args:
            metric: what makes the scores.
            policy: a policy; a recipe of the product, with its own steps, options and balance; or a name of `MIXTURES`.
            balance: cluster floor of a policy.
            k: prototypes; None: the product's choice.
            seed: of draws and ties.
            keep: the fraction; the ranks of some recipes are good for one fraction only.
        """
        name = (
            f"{metric}-{policy}-k{k}-s{seed}-f{keep}"
            if policy in {*RECIPES, *MIXTURES}
            else f"{metric}-{policy}-b{balance}-k{k}-s{seed}"
        )
        cached = self.folder / "ranks" / f"{name}.npy"
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            plain = {"recipe": "", "keep": policy, "balance": balance}
            chosen = {"recipe": policy} if policy in RECIPES else {**plain, **MIXTURES.get(policy, {})}
            np.save(cached, self._column("rank", metric, {**chosen, "seed": seed, "keep_fraction": keep}, k))
        return np.load(cached)

    def scores(self, metric: str, k: int | None = None) -> F32:
        """(n,) float32 scores of a metric, larger = harder."""
        return self._column("score", metric, {"recipe": "", "keep": "hard", "keep_fraction": 0.9}, k)

    def embeddings(self) -> F32:
        """(n, d) float32 unit embeddings in the order of ``keys``."""
        found: dict[str, F32] = {}
        for chunk in sspruning.Store(self.folder / "store").chunks():
            found.update(zip(chunk.keys, chunk.embeddings.astype(np.float32), strict=True))
        return np.stack([found[key] for key in self.keys])

    def _column(self, column: str, metric: str, chosen: dict, k: int | None) -> np.ndarray:
        outside = metric not in PRODUCT_METRICS and chosen.get("keep") != "random"
        score = {"metric": "imported", "table": str(self.table(metric))} if outside else {}
        if metric in PRODUCT_METRICS:
            score = {"metric": PRODUCT_METRICS[metric]}
        config = override(self.config, "cluster", n_clusters=k)
        config = override(config, "score", **score)
        config = override(config, "select", **chosen)
        selection = sspruning.select(self.folder / "store", config=config).selection
        file = SelectionFile.open(Path(selection.path))
        held = dict(zip(file.column("key"), file.column(column), strict=True))
        return np.array([held[key] for key in self.keys])
