"""A part is read back bit by bit, or refused."""

import fcntl
import os
import random
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from corpora import make_part
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import StoreError
from sspruning.storage import parts
from sspruning.storage.parts import PartData, encode_part, open_part

COLUMNS = ("norm", "key_hash", "row", "block_start", "block_end", "image_start", "image_size", "defects")
DATASETS = ("embedding", *COLUMNS, "key", "digest", "content", "skipped/row", "skipped/key", "skipped/reason")


def write(tmp_path, image):
    path = tmp_path / "part.h5"
    path.write_bytes(image)
    return path


def everything(path):
    """All that a reader can get from a part."""
    with open_part(path) as part:
        columns = {name: part.column(name) for name in COLUMNS}
        found = {"embedding": part.embedding(), "key": part.keys(), **columns}
        found["key_array"] = part.key_array().to_pylist()
        found |= {"digest": part.digest(), "content": part.content(), "content_hash": part.content_hash()}
        return {**found, "skipped": list(part.skipped()), "counts": (part.n_rows, part.n_skipped, part.dim)}


def assert_holds(path, part):
    found = everything(path)
    for name in ("embedding", "digest", "content", *COLUMNS):
        expected = getattr(part, name)
        assert found[name].dtype == expected.dtype, name
        assert found[name].tobytes() == expected.tobytes(), name
    assert found["content_hash"].dtype == np.uint64
    assert found["content_hash"].tolist() == [int.from_bytes(row[:8].tobytes(), "little") for row in part.content]
    assert found["key"] == found["key_array"] == part.key
    assert found["skipped"] == list(zip(part.skipped_row, part.skipped_key, part.skipped_reason, strict=True))
    assert found["counts"] == (*part.embedding.shape[:1], len(part.skipped_key), part.embedding.shape[1])


@pytest.mark.parametrize(
    ("n", "d", "skipped"), [(7, 5, 3), (1, 1, 0), (0, 4, 2), (0, 4, 0), (300, 768, 1), (9000, 3, 0)]
)
def test_a_part_is_read_back_bit_by_bit(tmp_path, n, d, skipped):
    part = make_part(n, d, skipped)
    assert_holds(write(tmp_path, encode_part(part)), part)


def test_a_key_that_is_there_twice_is_refused_however_keys_are_read(tmp_path):
    part = make_part(9000, 3, 0)
    part = replace(part, key=[*part.key[:-1], part.key[3]])
    with open_part(write(tmp_path, encode_part(part))) as opened:
        for read in (opened.keys, opened.key_array):
            with pytest.raises(StoreError, match="holds a key twice"):
                read()


KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(KEYS, min_size=1, max_size=5, unique=True))
def test_any_key_without_nul_is_kept(tmp_path_factory, keys):
    path = write(tmp_path_factory.getbasetemp(), encode_part(make_part(len(keys), keys=keys)))
    with open_part(path) as part:
        assert part.keys() == keys


def test_a_key_of_4096_bytes_is_kept(tmp_path):
    keys = ["k" * 4096, "ü" * 2048]
    with open_part(write(tmp_path, encode_part(make_part(2, keys=keys)))) as part:
        assert part.keys() == keys


def test_equal_content_gives_equal_bytes_and_other_content_other_bytes():
    image = encode_part(make_part())
    assert encode_part(make_part()) == image
    wide = replace(
        make_part(), row=make_part().row.astype(np.int64), attributes=dict(reversed(make_part().attributes.items()))
    )
    assert encode_part(wide) == image
    for field in fields(PartData):
        other = make_part(seed=1)
        value = {"key": ["x"] * 7, "skipped_key": ["x"] * 3, "skipped_reason": ["x"] * 3, "attributes": {}}.get(
            field.name
        )
        changed = replace(make_part(), **{field.name: getattr(other, field.name) if value is None else value})
        assert encode_part(changed) != image or field.name in {"row", "skipped_row"}


def test_rows_can_be_read_in_ranges(tmp_path):
    part = make_part(100)
    with open_part(write(tmp_path, encode_part(part))) as opened:
        pieces = [opened.embedding(start, start + 33) for start in range(0, 100, 33)]
        assert np.array_equal(np.concatenate(pieces), part.embedding)
        assert opened.embedding(100).shape == (0, 5)


def test_attributes_are_plain_values_or_canonical_json(tmp_path):
    with h5py.File(write(tmp_path, encode_part(make_part()))) as file:
        assert file.attrs["shard_size"] == 5
        assert file.attrs["encoder"] == b'{"name":"x","size":[1,2]}'
        assert file.attrs["n_samples"] == 10


def test_a_part_is_readable_while_another_program_holds_it_locked(tmp_path):
    path = write(tmp_path, encode_part(make_part()))
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert_holds(path, make_part())


def chunks_on_disk(path, name):
    """(offset, size) of every stored chunk of a dataset."""
    with h5py.File(path) as file:
        dataset = file[name]
        found = (dataset.id.get_chunk_info(index) for index in range(dataset.id.get_num_chunks()))
        return [(chunk.byte_offset, chunk.size) for chunk in found]


@pytest.mark.parametrize("name", DATASETS)
def test_a_flipped_byte_in_any_column_is_found(tmp_path, name):
    path = write(tmp_path, image := encode_part(make_part()))
    (place,) = chunks_on_disk(path, name)
    for offset in random.Random(name).sample(range(place[1]), min(place[1], 12)):  # noqa: S311
        damaged = bytearray(image)
        damaged[place[0] + offset] ^= 1 << offset % 8
        write(tmp_path, damaged)
        with pytest.raises(StoreError, match=f"{name} is damaged"):
            everything(path)


def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(tmp_path):
    image = encode_part(make_part())
    path = write(tmp_path, image)
    sound = everything(path)
    for offset in random.Random(0).sample(range(len(image)), 400):  # noqa: S311
        damaged = bytearray(image)
        damaged[offset] ^= 1 << offset % 8
        write(tmp_path, damaged)
        try:
            found = everything(path)
        except StoreError as error:
            assert str(path) in str(error)  # noqa: PT017 - no error is right too
            continue
        assert all(np.array_equal(found[name], sound[name]) for name in sound), offset


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_part_that_is_cut_short_does_not_open(tmp_path, share):
    image = encode_part(make_part(300))
    path = write(tmp_path, image[: int(len(image) * share)])
    with pytest.raises(StoreError, match=r"part\.h5.*run `sspruning embed` again"):
        everything(path)


def test_a_part_that_is_missing_or_something_else_is_refused(tmp_path):
    for path in (tmp_path / "none.h5", tmp_path, write(tmp_path, b"no HDF5" * 100)):
        with pytest.raises(StoreError, match="cannot be opened"), open_part(path):
            pass


def edited(tmp_path, edit):
    """Path of a part that went through ``edit`` after it was encoded."""
    path = write(tmp_path, encode_part(make_part()))
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def swap(name, **new):
    """An edit that replaces one dataset."""

    def edit(file):
        old = file[name][()]
        del file[name]
        file.create_dataset(name, **{"data": old} | new if "shape" not in new else new)

    return edit


def link(name, target):
    def edit(file):
        file.move(name, "moved")
        file[name] = target

    return edit


def virtual(file):
    layout = h5py.VirtualLayout(shape=(7,), dtype="<f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "norm", shape=(7,))
    del file["norm"]
    file.create_virtual_dataset("norm", layout)


def external(file):
    secret = os.path.join(os.path.dirname(file.filename), "secret.txt")  # noqa: PTH118, PTH120
    with open(secret, "wb") as stream:  # noqa: PTH123
        stream.write(b"secret" * 10)
    swap("norm", shape=(7,), dtype="<f4", external=[(secret, 0, 28)])(file)


def outside(file):
    """Move the skipped samples to another file, so that only a group is a link."""
    other = os.path.join(os.path.dirname(file.filename), "other.h5")  # noqa: PTH118, PTH120
    with h5py.File(other, "w") as target:
        file.copy("skipped", target)
    del file["skipped"]
    file["skipped"] = h5py.ExternalLink("other.h5", "skipped")


def attribute(name, value):
    def edit(file):
        file.attrs[name] = value

    return edit


EDITS = {
    "rows missing": swap("norm", data=np.ones(6, "<f4")),
    "rows too many": swap("row", data=np.arange(8, dtype="<u4")),
    "other dimensions": swap("embedding", data=np.ones((7, 4), "<f2")),
    "embeddings in float32": swap("embedding", data=np.ones((7, 5), "<f4")),
    "embeddings of integers": swap("embedding", data=np.ones((7, 5), "<i2")),
    "flat embeddings": swap("embedding", data=np.ones(35, "<f2")),
    "digests in wider numbers": swap("digest", data=np.ones((7, 16), "<u8")),
    "contents in wider numbers": swap("content", data=np.ones((7, 16), "<u8")),
    "contents of 8 bytes": swap("content", data=np.ones((7, 8), "u1")),
    "defects that are signed": swap("defects", data=np.ones(7, "i1")),
    "defects missing": lambda file: file.move("defects", "moved"),
    "keys of variable length": swap("key", data=["k"] * 7, dtype=h5py.string_dtype()),
    "keys that are numbers": swap("key", data=np.ones(7, "<u4")),
    "keys that are no UTF-8": swap("key", data=np.array([b"\xff"] * 7)),
    "rows that are references": swap("row", shape=(7,), dtype=h5py.ref_dtype),
    "2^50 rows": swap("norm", shape=(2**50,), dtype="<f4", chunks=(1024,)),
    "lzf compression": swap("norm", compression="lzf"),
    "a soft link": link("norm", h5py.SoftLink("/moved")),
    "an external link": link("norm", h5py.ExternalLink("other.h5", "/norm")),
    "a group in place of a dataset": lambda file: (file.move("norm", "moved"), file.create_group("norm")),
    "a dataset missing": lambda file: file.move("digest", "moved"),
    "a group missing": lambda file: file.move("skipped", "moved"),
    "a virtual dataset": virtual,
    "external storage": external,
    "a group in another file": outside,
    "reasons missing": lambda file: file["skipped"].attrs.__delitem__("reasons"),
    "reasons that are no JSON": lambda file: file["skipped"].attrs.__setitem__("reasons", "["),
    "reasons too few": lambda file: file["skipped"].attrs.__setitem__("reasons", "[]"),
    "another format": attribute("format", "something"),
    "the version before": attribute("format_version", 1),
    "another version": attribute("format_version", 3),
    "a format that is a list": attribute("format", [1, 2]),
    "counts that contradict": attribute("n_samples", 11),
    "a count that is text": attribute("n_rows", "many"),
    "a count that is missing": lambda file: file.attrs.__delitem__("n_skipped"),
}


@pytest.mark.parametrize("name", list(EDITS))
def test_a_part_that_is_not_what_it_must_be_is_refused(tmp_path, name):
    path = edited(tmp_path, EDITS[name])
    with pytest.raises(StoreError, match=r"part\.h5"):
        everything(path)


def test_unknown_datasets_and_attributes_are_ignored(tmp_path):
    path = edited(tmp_path, lambda file: (file.create_dataset("new", data=[1]), file.attrs.update(more=1)))
    assert_holds(path, make_part())


def test_a_chunk_of_embeddings_is_about_256_kib(tmp_path):
    path = write(tmp_path, encode_part(make_part(2000, 384)))
    assert parts._CHUNK_BYTES == 1 << 18
    with h5py.File(path) as file:
        assert file["embedding"].chunks == (341, 384)
        assert all(file[name].fletcher32 for name in DATASETS)
