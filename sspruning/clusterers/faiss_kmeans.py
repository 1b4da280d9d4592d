"""FAISS: k-means over all points of the sample, and the search for nearest prototypes, made exact."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from sspruning.clusterers import Clustering, KMeansSettings
from sspruning.errors import MachineError
from sspruning.records import F16, F32, F64, I32, I64, JSONValue

__all__ = ["NearestPrototypes", "faiss_kmeans", "import_faiss"]

CANDIDATES = 16  # neighbours looked at in float64 where float32 cannot tell
REPAIR_ROWS = 256  # rows repaired at once: 12 MB at d = 384
GPU_SCRATCH_BYTES = 256 << 20  # FAISS takes 1.5 GB by itself, in each process

_INIT = {
    "afk-mc2": "ClusteringInitMethod_AFK_MC2",
    "k-means++": "ClusteringInitMethod_KMEANS_PLUS_PLUS",
    "random": "ClusteringInitMethod_RANDOM",
}


def import_faiss() -> ModuleType:
    """The FAISS module.

    Raises:
        MachineError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise MachineError(
            "FAISS is not installed: `pip install 'sspruning[cpu]'`, or 'sspruning[gpu]' for an NVIDIA GPU"
        ) from error


def _on_gpu(faiss: Any, index: Any) -> Any:
    """``index`` on the first GPU, in float32."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH_BYTES)
    return faiss.index_cpu_to_gpu(resources, 0, index)


def _gpu_works(faiss: Any) -> bool:
    """True if a small search on the first GPU gives the right rows, with products as exact as float32 allows.

    One that rounds more, as TF32 and float16 do, is not used: `NearestPrototypes` would miss near-ties on it.
    """
    rows = np.random.default_rng(0).normal(size=(64, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    try:
        if faiss.get_num_gpus() < 1:
            return False
        index = _on_gpu(faiss, faiss.IndexFlatIP(64))
        index.add(rows)
        values, labels = index.search(rows, 1)
    except (AttributeError, RuntimeError, AssertionError):
        return False
    error = np.abs(values[:, 0] - np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return bool((labels[:, 0] == np.arange(64)).all() and error.max() <= 64 * 2.0**-24)


def _use_gpu(faiss: Any, wanted: str) -> bool:
    works = wanted != "cpu" and _gpu_works(faiss)
    if wanted == "gpu" and not works:
        raise MachineError(
            "cluster.device is 'gpu' but FAISS finds no working GPU; use 'auto', or install 'sspruning[gpu]'"
        )
    return works


def faiss_kmeans(sample: F32, settings: KMeansSettings) -> Clustering:
    """`Clustering` by ``faiss.Kmeans`` over every row of ``sample``.

    FAISS's own silent subsampling (256 points a centroid) is off. Empty clusters are split from large ones by FAISS
    and counted. The same sample, settings and FAISS build gave the same centroids for 1, 2 or 4 threads in every case
    that was tried; the objective is a float32 sum, whose last digits may differ.

    Args:
        sample: (m, d) float32, m >= k.
        settings: k, iterations, geometry, start, seed, device.

    Raises:
        MachineError: FAISS is missing, or a GPU was asked for and none works.

    Cost:
        O(niter m k d) time; the sample is not copied.
    """
    faiss: Any = import_faiss()
    gpu = _use_gpu(faiss, settings.device)
    options: dict[str, Any] = {
        "niter": settings.niter,
        "seed": settings.seed,
        "spherical": settings.spherical,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": len(sample),
    }
    info: dict[str, JSONValue] = {"device": "gpu" if gpu else "cpu", "init": settings.init}
    method = getattr(faiss, _INIT[settings.init], None)
    if method is None:
        info["init"] = "random"
        info["note"] = f"this FAISS ({faiss.__version__}) has no start by {settings.init}; random points were used"
    else:
        options["init_method"] = method
    means = faiss.Kmeans(sample.shape[1], settings.k, gpu=gpu, **options)
    means.train(np.ascontiguousarray(sample, np.float32))
    info["split_clusters"] = int(sum(step["nsplit"] for step in means.iteration_stats))
    if len(sample) == settings.k:
        return _every_row_a_centroid(sample, settings, info)
    objective = np.asarray(means.obj, np.float64)  # shorter where FAISS saw no change and stopped
    objective = np.pad(objective, (0, settings.niter - len(objective)), mode="edge")
    return Clustering(means.centroids.copy(), objective, info)


def _every_row_a_centroid(sample: F32, settings: KMeansSettings, info: dict[str, JSONValue]) -> Clustering:
    """`Clustering` with as many centroids as rows: FAISS hands such rows back as they are, without iterations."""
    centroids = sample.astype(np.float64)
    length = np.linalg.norm(centroids, axis=1)
    if settings.spherical:
        centroids /= np.where(length > 0, length, 1.0)[:, None]
    objective = np.full(settings.niter, length.sum() if settings.spherical else 0.0)
    return Clustering(centroids.astype(np.float32), objective, info)


class NearestPrototypes:
    """Finds the nearest prototypes of each row, exactly, whatever the grouping of rows, the threads or the device.

    FAISS searches in float32, whose last bits depend on how rows are grouped. Where two of the candidates it finds are
    closer than the rounding error, the row's candidates are compared again in float64 by direct subtraction, always on
    the CPU, ties going to the lower prototype.
    """

    def __init__(self, centroids: F32, *, cosine: bool, device: str = "cpu") -> None:
        """Build the index: inner product with unit centroids when ``cosine``, squared Euclidean otherwise.

        Args:
            centroids: (k, d).
            cosine: which of the two.
            device: cpu, gpu, or auto: a GPU that passes a small search, else the CPU.

        Raises:
            MachineError: FAISS is missing, or a GPU was asked for and none works.
        """
        faiss: Any = import_faiss()
        wide = centroids.astype(np.float64)
        if cosine:
            length = np.linalg.norm(wide, axis=1, keepdims=True)
            wide /= np.where(length > 0, length, 1.0)
        self.k, self.d = centroids.shape
        self._exact: F64 = wide
        self._cosine = cosine
        index = faiss.IndexFlatIP(self.d) if cosine else faiss.IndexFlatL2(self.d)
        self._index = _on_gpu(faiss, index) if _use_gpu(faiss, device) else index
        self._index.add(np.ascontiguousarray(wide, np.float32))
        self._square = float(max(1.0, np.einsum("ij,ij->i", wide, wide).max(initial=0.0)))

    def search(self, embeddings: F16 | F32) -> tuple[I32, I32]:
        """(m,) nearest and (m,) second nearest prototype of (m, d) rows; both the same when k = 1.

        Cost:
            one FAISS search for three neighbours, and a second one for rows that are too close to call.
        """
        found = self._nearest(embeddings, 2)
        return found[:, 0].astype(np.int32), found[:, -1].astype(np.int32)

    def nearest(self, embeddings: F16 | F32) -> I32:
        """(m,) nearest prototype of (m, d) rows: the first of `search`.

        Cost:
            one FAISS search for two neighbours, and a second one for rows that are too close to call.
        """
        return self._nearest(embeddings, 1)[:, 0].astype(np.int32)

    def _nearest(self, embeddings: F16 | F32, wanted: int) -> I64:
        """(m, wanted) nearest prototypes; (m, 1) when k = 1."""
        rows = np.ascontiguousarray(embeddings, np.float32)
        values, labels = self._index.search(rows, min(wanted + 1, self.k))
        if self.k == 1:
            return labels
        # float32 products of d terms err by at most d * 2^-24 * |x| |c| in whatever order a processor or a GPU adds,
        # a little more as centroids are rounded too; twice for the difference of two of them; the expanded Euclidean
        # form adds both squares. The lengths themselves are float32, hence the thousandth on top.
        length = 1.001 * np.sqrt(np.einsum("ij,ij->i", rows, rows)).astype(np.float64)
        scale = length if self._cosine else (length + np.sqrt(self._square)) ** 2
        window = 2.0 * (self.d + 8) * 2.0**-24 * np.maximum(scale, 1e-30)
        close = np.abs(np.diff(values.astype(np.float64), axis=1)).min(axis=1) <= window
        nearest = labels[:, :wanted].copy()
        suspects = np.flatnonzero(close)
        for start in range(0, len(suspects), REPAIR_ROWS):
            some = suspects[start : start + REPAIR_ROWS]
            nearest[some] = self._repaired(rows[some], window[some], wanted)
        return nearest

    def _repaired(self, rows: F32, window: F64, wanted: int) -> I64:
        """(m, wanted) nearest prototypes of rows whose float32 search was too close to call."""
        wide = rows.astype(np.float64)
        if self._cosine:
            length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            wide /= np.maximum(length, 1e-30)[:, None]
        values, labels = self._index.search(rows, min(CANDIDATES, self.k))
        candidates = np.sort(labels, axis=1).astype(np.int64)
        best = _nearest_of(wide, self._exact[candidates], candidates, wanted)
        if self.k > CANDIDATES:
            spread = np.abs(values[:, -1].astype(np.float64) - values[:, wanted - 1])
            for row in np.flatnonzero(spread <= window).tolist():  # more near-ties than candidates: look at all
                everyone = np.arange(self.k, dtype=np.int64)[None]
                best[row] = _nearest_of(wide[row : row + 1], self._exact[None], everyone, wanted)[0]
        return best


def _nearest_of(rows: F64, centroids: F64, ids: I64, wanted: int) -> I64:
    """(m, wanted) ids of the nearest of (m, c, d) candidates in float64; ids ascend, so ties go to the lower."""
    difference = centroids - rows[:, None, :]
    squared = np.einsum("ijk,ijk->ij", difference, difference)
    return np.take_along_axis(ids, np.argsort(squared, axis=1, kind="stable")[:, :wanted], axis=1)
