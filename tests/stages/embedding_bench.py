"""Tables of embeddings in every form, and what a store made of them. The tests load this file by its path."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sspruning.config import CorpusConfig
from sspruning.execution.inline import InlineExecutor
from sspruning.progress import SilentProgress
from sspruning.stages.embedding_table import open_table
from sspruning.stages.import_embeddings import import_embeddings
from sspruning.storage.corpus import open_corpus

DIM = 24
KINDS = ("npy", "npz", "npz+list", "parquet", "parquet-fixed", "parquet-folder", "clip-retrieval")


def normalised(rows):
    """The plain rule: normalised in float32, rounded once."""
    rows = np.asarray(rows, np.float32)
    norm = np.sqrt((rows.astype(np.float64) ** 2).sum(1)).astype(np.float32)
    return (rows / norm[:, None]).astype(np.float16)


class Listening(SilentProgress):
    """Progress that remembers its notes and stages."""

    def __init__(self):
        super().__init__()
        self.said, self.stages = [], []

    def note(self, text):
        self.said.append(text)

    def stage(self, name, total, unit):
        self.stages.append(name)
        return super().stage(name, total, unit)


class Bench:
    """Shards, embeddings of their samples in another order, and ways to write a table of them."""

    def __init__(self, folder, content):
        self.folder = folder
        draws = np.random.default_rng(3)
        self.keys = [list(content)[i] for i in draws.permutation(len(content))]
        self.rows = (draws.normal(size=(len(content), DIM)) * draws.uniform(0.1, 9, (len(content), 1))).astype(
            np.float32
        )
        self.progress = Listening()

    def table(self, kind="npy", keys=None, rows=None, name="table"):
        """(path, arguments) of a table in one of `KINDS`."""
        keys = self.keys if keys is None else keys
        rows = self.rows if rows is None else rows
        path = self.folder / f"{name}.{kind.partition('-')[0].partition('+')[0]}"
        if kind == "npy":
            np.save(path, rows)
            return path, {"keys": self.text(keys, name)}
        if kind == "npz":
            np.savez(path, key=np.array(keys), embedding=rows)
        elif kind == "npz+list":
            np.savez_compressed(path, embeddings=rows)
            return path, {"keys": self.text(keys, name)}
        elif kind == "parquet":
            lists = pa.array(list(rows)) if len(rows) else pa.array([], pa.list_(pa.float32()))
            pq.write_table(pa.table({"id": keys, "embedding": lists}), path, row_group_size=17)
        elif kind == "parquet-fixed":
            lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
            pq.write_table(pa.table({"extra": [1] * len(keys), "embedding": lists, "key": keys}), path)
        elif kind == "parquet-folder":
            path = self.folder / name
            path.mkdir()
            for number, own in enumerate(np.array_split(np.arange(len(keys)), 3)):
                table = pa.table({"id": [keys[i] for i in own], "embedding": pa.array(list(rows[own]))})
                pq.write_table(table, path / f"part{number}.parquet")
        else:
            path = self.clip_retrieval(keys, rows, name)
        return path, {}

    def text(self, keys, name):
        path = self.folder / f"{name}.txt"
        path.write_text("".join(key + "\n" for key in keys), encoding="utf-8", newline="\n")
        return path

    def clip_retrieval(self, keys, rows, name):
        folder = self.folder / name
        for sub in ("img_emb", "metadata"):
            (folder / sub).mkdir(parents=True)
        for number, own in enumerate(np.array_split(np.arange(len(keys)), 4)):
            np.save(folder / "img_emb" / f"img_emb_{number}.npy", rows[own])
            table = pa.table({"image_path": [keys[i] for i in own], "caption": ["x"] * len(own)})
            pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
        return folder

    def load(self, source, store="store", executor=None, config=None, model=None, **names):
        corpus = open_corpus([str(self.folder / "shards")])
        table = open_table(source, **names)
        executor, config = executor or InlineExecutor(), config or CorpusConfig()
        return import_embeddings(table, corpus, self.folder / store, config, executor, self.progress, model=model)

    def parts(self, store):
        """Name and content of all parts of a store."""
        return {path.name: path.read_bytes() for path in (self.folder / store / "parts").glob("*.h5")}


def embeddings(store):
    """``{key: float16 row}`` of a whole store."""
    found = {}
    for record in store.records():
        with store.open_part(record) as part:
            found.update(zip(part.keys(), part.embedding(), strict=True))
    return found


def skipped(store):
    """``{key: reason}`` of a whole store."""
    found = {}
    for record in store.records():
        with store.open_part(record) as part:
            found.update({key: reason for _, key, reason in part.skipped()})
    return found


def same_rows(found, keys, rows):
    assert set(found) == set(keys)
    assert np.stack([found[key] for key in keys]).tobytes() == rows.tobytes()


def refused(bench, error, source, *words, **options):
    """Nothing is made, and the message has all these words."""
    with pytest.raises(error) as caught:
        bench.load(source, **options)
    for word in words:
        assert word in str(caught.value)
    assert not (bench.folder / "store").exists()
