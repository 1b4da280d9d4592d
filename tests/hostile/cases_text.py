"""Hostile members beside the image: cases 61 to 64. They are never decoded, so none of them costs its sample."""

import io
import os
import pickle
import tarfile

import numpy as np
from corpora import END, header, member, padded
from hostile.harness import Case, Kept, image, shard_of

__all__ = ["CASES"]

BOTH = {"b0": "embedded", "b1": "embedded"}
DEEP = b"[" * 100_000


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch MARKER",)


def beside(**members):
    """A builder of a shard in which the sample x has these members beside its image."""
    blocks = [member(f"x.{suffix}".encode(), content) for suffix, content in members.items()]
    return lambda folder: shard_of(member(b"x.jpg", image("b2")), *blocks)


def objects():
    """An array of objects, which numpy would unpickle."""
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def huge_caption(folder):
    """A caption of 100 MB of nothing, on hardly any disk."""
    size = 100 << 20
    with (folder / "shards" / "b.tar").open("wb") as stream:
        stream.write(member(b"b0.jpg", image("b0")) + member(b"x.jpg", image("b2")) + header(b"x.txt", size))
        stream.seek(size, os.SEEK_CUR)
        stream.write(member(b"b1.jpg", image("b1")) + END)


def nested_archive():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("../MARKER")
        archive.addfile(info)
    return stream.getvalue()


EMBEDDED = Kept(BOTH | {"x": "embedded"})
PROGRAMS = {
    "pyd": pickle.dumps(Evil()),
    "pkl": pickle.dumps(Evil()),
    "pickle": pickle.dumps(Evil()),
    "pth": pickle.dumps(Evil()),
    "npy": objects(),
    "sh": b"#!/bin/sh\ntouch MARKER\n",
    "tar.gz": nested_archive(),
    "__url__x": b"pipe:touch MARKER",
}

CASES = [
    Case(61, "caption that is not UTF-8", beside(txt=b"\xff\xfe\x00"), EMBEDDED),
    Case(62, "caption of 100 MB", huge_caption, EMBEDDED, slow=True),
    Case(63, "broken JSON", beside(json=b'{"a":'), EMBEDDED),
    Case(63, "JSON nested 100,000 deep", beside(json=padded(DEEP)), EMBEDDED),
    *(
        Case(64, f".{suffix} beside the image", beside(**{suffix: content}), EMBEDDED)
        for suffix, content in PROGRAMS.items()
    ),
]
