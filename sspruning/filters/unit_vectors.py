"""Embeddings at length 1: float32 for products of many rows, float64 for the pairs that float32 cannot decide."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.metrics.distances import unit_rows
from sspruning.records import F32, F64, I64, Candidates, Vectors

__all__ = ["UnitVectors", "need_vectors"]

BLOCK = 4_096  # rows or pairs in float64 at once: 25 MB at d = 384


def need_vectors(candidates: Candidates, filter_name: str) -> Vectors:
    """The embeddings of the candidates.

    Raises:
        UsageError: there are none.
    """
    if candidates.vectors is None:
        raise UsageError(f"filter {filter_name!r} compares embeddings, but the candidates come without vectors")
    return candidates.vectors


class UnitVectors:
    """Rows of `Vectors`, read when asked for and scaled to length 1; a zero row stays zero."""

    def __init__(self, vectors: Vectors) -> None:
        """Measure the length of every row, block by block; only the lengths stay in memory."""
        self._vectors = vectors
        self._scale = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), BLOCK):
            rows = vectors[slice(start, start + BLOCK)].astype(np.float64)
            length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            self._scale[start : start + BLOCK] = 1.0 / np.where(length > 0, length, 1.0)
        self.tolerance = max(1e-5, (vectors.dim + 8) * 2.0**-24)
        """How far a float32 product of two of these rows can be from their cosine, whatever the order of its sums."""

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: I64) -> F32:
        """(m, d) float32 unit rows."""
        found = self._vectors[rows]
        found *= self._scale[rows, None]
        return found

    def cosine(self, left: I64, right: I64) -> F64:
        """(m,) float64 cosines of m pairs of rows; each depends on its own pair alone."""
        found = np.empty(len(left), np.float64)
        for start in range(0, len(left), BLOCK):
            some = slice(start, start + BLOCK)
            one, other = unit_rows(self._vectors[left[some]]), unit_rows(self._vectors[right[some]])
            found[some] = np.einsum("ij,ij->i", one, other)
        return found
