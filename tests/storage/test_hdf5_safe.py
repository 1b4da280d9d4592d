"""What HDF5 would follow, fill or inflate is refused before it is read; text is inflated no further than it may be."""

import re
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import StoreError
from sspruning.storage.hdf5_safe import checked_dataset, text_array, text_values

TEXT = {"chunks": (3,), "shuffle": True, "compression": "gzip", "compression_opts": 1, "fletcher32": True}
VALUES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9), min_size=1)


def text_file(values, **options):
    """An open file in memory whose dataset `key` holds these texts."""
    encoded = [value.encode() for value in values]
    kind = h5py.string_dtype("utf-8", max(map(len, encoded)) or 1)
    file = h5py.File("x", "w", driver="core", backing_store=False, libver=("v110", "v110"))
    file.create_dataset("key", data=np.array(encoded, kind), **({**TEXT, "chunks": (min(3, len(values)),)} | options))
    return file


def read(file, path="x.h5"):
    """The texts as a list; as an array they are the same, or refused in the same words."""
    dataset = checked_dataset(path, file, "key", "S", (None,))
    try:
        found = text_values(dataset)
    except (OSError, ValueError) as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            text_array(dataset)
        raise
    assert text_array(dataset)[0].to_pylist() == found
    return found


@given(VALUES)
def test_equal_texts_have_equal_hashes_and_others_nearly_never(values):
    with text_file(values) as file:
        _, hashes = text_array(file["key"])
        assert len(set(zip(values, hashes.tolist(), strict=True))) == len(set(values)) == len(set(hashes.tolist()))


def test_bytes_that_are_no_text_are_refused():
    with text_file(["abc", "xyz"]) as file:
        file["key"][1] = b"x\xffz"
        with pytest.raises(ValueError, match="UTF8"):
            text_array(file["key"])


@given(VALUES)
def test_texts_are_those_that_hdf5_reads(values):
    with text_file(values) as file:
        assert read(file) == values == [value.decode() for value in file["key"][()].tolist()]


@given(st.binary(min_size=1, max_size=40), st.integers(1, 5))
def test_the_checksum_is_that_of_hdf5(content, repeat):
    """Chunks that HDF5 wrote pass; the same chunks with any byte changed do not."""
    with text_file([content.hex()] * repeat) as file:
        dataset = file["key"]
        mask, stored = dataset.id.read_direct_chunk((0,))
        assert mask == 0
        assert read(file) == [content.hex()] * repeat
        for at in range(len(stored)):
            changed = bytearray(stored)
            changed[at] ^= 1 << at % 8
            dataset.id.write_direct_chunk((0,), bytes(changed))
            with pytest.raises(ValueError, match="a chunk does not have its"):
                read(file)


PACKED = {
    "to nothing": zlib.compress(b""),
    "to less": zlib.compress(bytes(17)),
    "to more": zlib.compress(bytes(19)),
    "to a bomb": zlib.compress(bytes(1 << 24)),
    "not at all": b"\x78\x9c\xff\xff\xff\xff",
    "with more behind it": zlib.compress(bytes(18)) + b"more",
    "without its end": zlib.compress(bytes(18))[:-4],
}


@pytest.mark.parametrize("name", list(PACKED))
def test_a_chunk_that_does_not_inflate_to_its_length_is_refused(name):
    packed = PACKED[name]
    with text_file(["123456"] * 3) as file:
        words = np.frombuffer(packed + bytes(len(packed) % 2), ">u2").astype(int)
        sums = int(words.sum()) % 65535, int(np.cumsum(words).sum()) % 65535
        file["key"].id.write_direct_chunk((0,), packed + (sums[1] << 16 | sums[0]).to_bytes(4, "little"))
        with pytest.raises(ValueError, match=r"does not have its length|while decompressing"):
            read(file)


def never_written(file):
    file.create_dataset("hole", (1000,), "f4", chunks=(100,))


def written_in_part(file):
    file.create_dataset("hole", (1000,), "f4", chunks=(100,))[:900] = 1


def one_huge_chunk(file):
    file.create_dataset("hole", (10,), "f4", maxshape=(None,), chunks=(1 << 25,))


BAD = {
    "never written": (never_written, "they are not in the file"),
    "written in part": (written_in_part, "they are not in the file"),
    "one huge chunk": (one_huge_chunk, "more than is read at once"),
    "compressed numbers": (lambda f: f.create_dataset("hole", data=np.ones(9, "f4"), compression="gzip"), "in filters"),
    "lzf": (lambda f: f.create_dataset("hole", data=np.ones(9, "f4"), compression="lzf"), "in filters"),
    "wide numbers": (lambda f: f.create_dataset("hole", data=np.ones(9, "f16")), "expected"),
    "two dimensions": (lambda f: f.create_dataset("hole", data=np.ones((3, 3), "f4")), "has shape"),
    "a group": (lambda f: f.create_group("hole"), "not stored in this file"),
    "nothing": (lambda f: None, "is missing"),
    "a soft link": (lambda f: f.__setitem__("hole", h5py.SoftLink("/key")), "a link to elsewhere"),
    "an external link": (lambda f: f.__setitem__("hole", h5py.ExternalLink("y.h5", "/key")), "a link to elsewhere"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_does_not_stand_in_the_file_as_we_write_it_is_refused(name):
    make, message = BAD[name]
    with text_file(["a"]) as file:
        make(file)
        with pytest.raises(StoreError, match=message):
            checked_dataset("x.h5", file, "hole", "f", (None,))


def test_a_sound_dataset_is_returned_with_its_values():
    with text_file(["a"]) as file:
        file.create_dataset("group/good", data=np.arange(9, dtype="f4"), chunks=(4,), fletcher32=True)
        assert checked_dataset("x.h5", file, "group/good", "f", (9,))[:].tolist() == list(range(9))
        file.create_dataset("none", data=np.empty((0, 5), "f2"))
        assert checked_dataset("x.h5", file, "none", "f", (0, 5)).shape == (0, 5)
