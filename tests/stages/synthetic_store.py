"""Stores with planted embeddings, made without shards or an encoder. The tests load this file by its path."""

import hashlib
from itertools import pairwise

import numpy as np

from sspruning.records import ShardRef
from sspruning.storage.parts import PartData
from sspruning.storage.store import Store


def keys_of(n, prefix="k"):
    return [f"{prefix}{i:05d}" for i in range(n)]


def planted(n, d=16, groups=6, spread=0.3, seed=0):
    """(n, d) float16 unit rows around ``groups`` centres of unequal size."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, d))
    rows = centres[np.minimum(rng.geometric(0.4, n) - 1, groups - 1)] + spread * rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def digests(contents):
    """(n, 16) uint8 blake2b-128 of each of n bytes."""
    joined = b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in contents)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def make_store(path, shards, contents=None, defects=None):
    """The store at ``path`` with ``{shard_id: (keys, embeddings)}``; every third position of a shard was skipped.

    ``contents`` and ``defects``, ``{shard_id: values}``, give the columns of that name: content by any bytes, equal for
    equal images. Without them all images are different and none has a defect.
    """
    dim = next(iter(shards.values()))[1].shape[1]
    store = Store.create(path, {"dim": dim, "encoder": {"name": "planted"}})
    refs = tuple(ShardRef(name, f"/nowhere/{name}.tar", 512, 1) for name in shards)
    store.set_shards(refs)
    for ref, (keys, embedding) in zip(refs, shards.values(), strict=True):
        n = len(keys)
        hashes = [int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") for key in keys]
        at = np.arange(n, dtype=np.uint64) * np.uint64(1024)
        part = PartData(
            embedding=embedding,
            norm=np.ones(n, np.float32),
            key=list(keys),
            key_hash=np.array(hashes, np.uint64),
            row=np.arange(n, dtype=np.uint32) * 3 // 2,
            block_start=at,
            block_end=at + np.uint64(1024),
            digest=np.zeros((n, 16), np.uint8),
            image_start=at + np.uint64(512),
            image_size=np.full(n, 100, np.uint32),
            content=digests(contents[ref.shard_id] if contents else [f"image of {key}".encode() for key in keys]),
            defects=np.array(defects[ref.shard_id] if defects else np.zeros(n), np.uint8),
            skipped_row=np.empty(0, np.uint32),
            skipped_key=[],
            skipped_reason=[],
            attributes={},
        )
        given = b"".join(repr(list(column[ref.shard_id])).encode() for column in (contents, defects) if column)
        sha256 = hashlib.sha256(repr(keys).encode() + embedding.tobytes() + given).hexdigest()
        store.commit(ref, sha256, part, {})
    return Store(path)


def split(keys, embeddings, sizes):
    """``{shard_id: (keys, embeddings)}`` with shards of the given sizes, in order."""
    borders = np.cumsum([0, *sizes])
    assert borders[-1] == len(keys)
    return {f"s{i:02d}": (keys[a:b], embeddings[a:b]) for i, (a, b) in enumerate(pairwise(borders))}
