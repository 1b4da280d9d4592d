#!/usr/bin/env python
"""The k-NN accuracy of an encoder: labels of test images voted by their nearest train images.

    python tools/prove/knn.py --train 'cifar10/train-*.tar' --test 'cifar10/test-*.tar' --encoder shipped

The weighted vote of Wu et al. 2018 (arXiv:1805.01978): each of k neighbours votes exp(cosine similarity / temperature).
Labels are read here and nowhere in pretraining.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sspruning.encoders import Encoder, build_encoder
from sspruning.encoders.images import decode_image
from sspruning.errors import DataError, SSPruningError
from sspruning.records import F32, EncoderSpec
from sspruning.storage.corpus import open_corpus
from sspruning.storage.samples import ShardReader

I64 = NDArray[np.int64]
IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")
BLOCK_ROWS = 1000


def embed_labelled(inputs: Sequence[str], encoder: Encoder, label_suffix: str, *, unit: bool = True) -> tuple[F32, I64]:
    """Embeddings (n, d) float32, of unit length if so wanted, and labels (n,) int64 of all samples, in corpus order.

    Raises:
        DataError: a sample has no image or no label.
    """
    embeddings, labels, batch = [], [], []
    for image, label in _samples(inputs, encoder, label_suffix):
        batch.append(image)
        labels.append(label)
        if len(batch) == encoder.batch_size:
            embeddings.append(encoder.embed(np.stack(batch)))
            batch = []
    if batch:
        embeddings.append(encoder.embed(np.stack(batch)))
    rows = np.concatenate(embeddings)
    if not unit:
        return rows, np.asarray(labels, np.int64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.asarray(labels, np.int64)


def _samples(inputs: Sequence[str], encoder: Encoder, label_suffix: str) -> Iterator[tuple[np.ndarray, int]]:
    for shard in open_corpus(inputs).shards:
        with ShardReader(shard.path) as reader:
            for sample in reader.samples():
                image, label = sample.find(IMAGE_SUFFIXES), sample.find((label_suffix,))
                if image is None or label is None:
                    raise DataError(f"{shard.path}: sample {sample.key!r} has no image or no .{label_suffix}")
                pixels = decode_image(reader.read(image.start, image.size), draft_size=encoder.draft_size)
                yield encoder.prepare(pixels), int(reader.read(label.start, label.size))


def knn_predict(bank: F32, bank_labels: I64, queries: F32, *, k: int, temperature: float) -> I64:
    """Labels voted for each query; a tie goes to the smallest label.

    Args:
        bank: (n, d) unit vectors.
        bank_labels: (n,) in [0, classes).
        queries: (m, d) unit vectors.
        k: neighbours that vote, at most n.
        temperature: each votes exp(cosine / temperature).

    Cost: O(m n d) time; ``BLOCK_ROWS`` * n * 4 bytes at a time.
    """
    classes = int(bank_labels.max()) + 1
    predicted = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK_ROWS):
        similarity = queries[start : start + BLOCK_ROWS] @ bank.T
        nearest = np.argpartition(similarity, -k, axis=1)[:, -k:]
        weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / temperature)
        votes = np.zeros((len(similarity), classes))
        np.add.at(votes, (np.arange(len(similarity))[:, None], bank_labels[nearest]), weight)
        predicted[start : start + BLOCK_ROWS] = votes.argmax(axis=1)
    return predicted


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", nargs="+", required=True, metavar="SHARDS", help="the bank of neighbours")
    add("--test", nargs="+", required=True, metavar="SHARDS", help="the images to label")
    add("--encoder", default="shipped", help="as for `sspruning embed` (default %(default)s)")
    add("--model", help="timm model name, for --encoder timm")
    add("--checkpoint", help="local weights, for --encoder timm; a card, for --encoder card")
    add("--image-size", type=int, help="side of the input in pixels (default: the encoder's own)")
    add("--label-key", default="cls", help="suffix of the member that holds the class number (default %(default)s)")
    add("--k", type=int, default=20, help="neighbours that vote (default %(default)s)")
    add("--temperature", type=float, default=0.07, help="of the vote (default %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code; prints one line of JSON with the accuracy."""
    options = parse(arguments)
    try:
        encoder = build_encoder(
            EncoderSpec(
                name=options.encoder,
                model=options.model,
                checkpoint=options.checkpoint,
                image_size=options.image_size,
            )
        )
        bank, bank_labels = embed_labelled(options.train, encoder, options.label_key)
        queries, labels = embed_labelled(options.test, encoder, options.label_key)
        if not 1 <= options.k <= len(bank):
            raise DataError(f"--k is {options.k}, but there are {len(bank)} train images; it must lie in 1..that")
    except SSPruningError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    predicted = knn_predict(bank, bank_labels, queries, k=options.k, temperature=options.temperature)
    facts = {"encoder": encoder.identity, "train": len(bank), "test": len(queries), "k": options.k}
    print(json.dumps({**facts, "temperature": options.temperature, "accuracy": float((predicted == labels).mean())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
