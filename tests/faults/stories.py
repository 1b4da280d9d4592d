"""What is done to small corpora, verb by verb: each story is one verb, and the verbs that come before it."""

from dataclasses import dataclass

from corpora import make_shard, picture, sample_files, tar

INLINE = ("--executor", "inline")
CLUSTER = ("--set", "cluster.name=numpy_kmeans", "--set", "cluster.n_clusters=2")
OVER_ALL = ("--full-rounds", "2", "--set", "cluster.points_per_centroid=2")
STORE = ("--store", "store", "--encoder", "pixels", *INLINE)
EMBED = ("embed", "../shards", *STORE)
SELECT = ("select", "store", "--keep-fraction", "0.6", *CLUSTER, *INLINE)
WRITE = ("write", "store", "-o", "pruned", "--samples-per-shard", "4", *INLINE)
RUN = """\
name: whole
corpus: {input: ../shards}
encoder: {name: pixels}
cluster: {name: numpy_kmeans, n_clusters: 2}
select: {keep_fraction: 0.6}
write: {samples_per_shard: 4}
execution: {executor: inline}
"""


@dataclass(frozen=True)
class Story:
    """One verb, and what has to be done before it."""

    verb: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    code: int = 0
    """Exit code of an undisturbed run."""


STORIES = {
    "embed": Story(EMBED),
    "embed a corpus that changed": Story(("embed", "../grown", *STORE), (EMBED,), 3),
    "cluster": Story(("cluster", "store", *CLUSTER), (EMBED,)),
    "cluster over everything": Story(("cluster", "store", *CLUSTER, *OVER_ALL, *INLINE), (EMBED,)),
    "score": Story(("score", "store", *INLINE), (EMBED, ("cluster", "store", *CLUSTER))),
    "select": Story(SELECT, (EMBED,)),
    "select several": Story(
        ("select", "store", "--step", "dedup", "--keep-fraction", "0.6,0.3", *CLUSTER, *INLINE), (EMBED,)
    ),
    "write": Story(WRITE, (EMBED, SELECT)),
    "write for all trainers": Story((*WRITE, "--index", "all", "--cls", "cluster"), (EMBED, SELECT)),
    "write another selection": Story(
        (*WRITE, "--overwrite"), (EMBED, SELECT, WRITE, (*SELECT[:2], "--keep-fraction", "0.4", *SELECT[4:]))
    ),
    "write other index files": Story((*WRITE, "--index", "wids,dino"), (EMBED, SELECT, WRITE)),
    "run": Story(("run", "../whole.yaml")),
    "pack": Story(("pack", "../photos", "-o", "packed", "--samples-per-shard", "3")),
    "export keys": Story(("export", "store", "--to", "keys", "-o", "keys.txt"), (EMBED, SELECT)),
    "export npy": Story(("export", "store", "--to", "npy", "-o", "arrays"), (EMBED, SELECT)),
    "export clip-retrieval": Story(("export", "store", "--to", "clip-retrieval", "-o", "clip"), (EMBED, SELECT)),
    "export folder": Story(("export", "pruned", "--to", "folder", "-o", "folder"), (EMBED, SELECT, WRITE)),
    "import-embeddings": Story(
        (
            "import-embeddings",
            "arrays/embeddings.npy",
            "../shards",
            "--keys",
            "arrays/keys.txt",
            "--store",
            "other",
            "--set",
            "execution.executor=inline",
        ),
        (EMBED, ("export", "store", "--to", "npy", "-o", "arrays")),
    ),
}


def make_inputs(folder):
    """Corpora beside the folder that verbs work in: shards, the same grown and partly spoiled, images, a whole run."""
    for name in ("shards", "grown"):
        for index in range(2):
            make_shard(folder / name / f"s{index}.tar", range(6 * index, 6 * index + 5))
    make_shard(folder / "grown" / "s1.tar", range(20, 25))
    make_shard(folder / "grown" / "s2.tar", range(30, 33))
    whole = tar([file for number in range(40, 44) for file in sample_files(number)])
    (folder / "grown" / "s3.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "photos").mkdir()
    for number in range(4):
        (folder / "photos" / f"{number}.jpg").write_bytes(picture(number))
        (folder / "photos" / f"{number}.txt").write_text(f"picture {number}")
    (folder / "whole.yaml").write_text(RUN)


EXPORTED_FOLDERS = {"export npy", "export clip-retrieval", "export folder"}
"""These come about as a whole, by the renaming of a folder: not synced, and what fails is begun again."""
