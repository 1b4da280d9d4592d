#!/usr/bin/env python
r"""What whitening does to an encoder: k-NN accuracy and how well clusters agree with classes, for several exponents.

    python tools/prove/whitening.py --train 'cifar10/train-*.tar' --test 'cifar10/test-*.tar' \
        --encoder card --checkpoint runs/shipped-first/encoder.json

The whitening is fitted to train images without labels, as `tools/pretrain_encoder.py --whiten` does; labels are read
for the evaluation alone. Prints a table as CSV: for each exponent the k-NN accuracy (k = 20, temperature 0.07), and
purity and normalised mutual information of spherical k-means with 10, 100 and 300 clusters of the train images.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from knn import I64, embed_labelled, knn_predict  # noqa: E402 - beside this script
from pretrain.export import whitening  # noqa: E402 - beside this folder

from sspruning.clusterers import CLUSTERERS, KMeansSettings  # noqa: E402
from sspruning.clusterers.faiss_kmeans import NearestPrototypes  # noqa: E402
from sspruning.encoders import build_encoder  # noqa: E402
from sspruning.errors import SSPruningError  # noqa: E402
from sspruning.records import F32, EncoderSpec  # noqa: E402

EXPONENTS = (0.0, 0.15, 0.25, 0.35, 0.5)
CLUSTERS = (10, 100, 300)
K, TEMPERATURE = 20, 0.07


def agreement(rows: F32, labels: I64, k: int) -> tuple[float, float]:
    """Purity and normalised mutual information of k clusters of unit ``rows`` (n, d) with the classes (n,)."""
    settings = KMeansSettings(k=k, niter=20, spherical=True, init="afk-mc2", seed=0, device="cpu")
    found = CLUSTERERS.resolve("faiss_kmeans")(rows, settings)
    cluster, _ = NearestPrototypes(found.centroids, cosine=True).search(rows)
    counts = np.zeros((k, labels.max() + 1))
    np.add.at(counts, (cluster, labels), 1)
    joint = counts / counts.sum()
    parts = [p[p > 0] for p in (joint.ravel(), joint.sum(1), joint.sum(0))]
    both, clusters, classes = (-(p * np.log(p)).sum() for p in parts)
    return counts.max(1).sum() / len(rows), 2 * (clusters + classes - both) / (clusters + classes)


def unit(rows: np.ndarray) -> F32:
    """(n, d) float32 rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="SHARDS")
    parser.add_argument("--test", nargs="+", required=True, metavar="SHARDS")
    parser.add_argument("--encoder", default="card", help="one without whitening (default %(default)s)")
    parser.add_argument("--checkpoint", help="its card or weights")
    parser.add_argument("--label-key", default="cls", help="suffix of the class number (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        encoder = build_encoder(EncoderSpec(name=options.encoder, checkpoint=options.checkpoint))
        bank, labels = embed_labelled(options.train, encoder, options.label_key, unit=False)
        queries, wanted = embed_labelled(options.test, encoder, options.label_key, unit=False)
    except SSPruningError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    mean = bank.mean(0)
    table = csv.writer(sys.stdout)
    figures = [f"{name}_{k}" for k in CLUSTERS for name in ("purity", "nmi")]
    table.writerow(["exponent", "knn20", *figures])
    for exponent in EXPONENTS:
        matrix = whitening(torch.from_numpy(bank).double(), exponent).numpy() if exponent else np.eye(bank.shape[1])
        rows, asked = (unit((x - mean * (exponent > 0)) @ matrix) for x in (bank, queries))
        right = knn_predict(rows, labels, asked, k=K, temperature=TEMPERATURE) == wanted
        found = [value for k in CLUSTERS for value in agreement(rows, labels, k)]
        table.writerow([exponent, f"{right.mean():.4f}", *(f"{value:.3f}" for value in found)])
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
