"""One shard to one part: rows, digests, byte ranges and skipped samples agree with the shard."""

import hashlib

import numpy as np
import pytest

from sspruning.encoders import build_encoder
from sspruning.errors import ShardError
from sspruning.records import DEFECTS, EncoderSpec, ShardRef
from sspruning.stages.embed_shard import Limits, embed_shard
from sspruning.storage.samples import ShardReader

LIMITS = Limits(("jpg", "png", "jpeg", "webp"), 10_000, 100_000, allow_missing_end=False)


def reference(path):
    stat = path.stat()
    return ShardRef(path.stem, str(path), stat.st_size, stat.st_mtime_ns)


@pytest.fixture(scope="module")
def pixels():
    return build_encoder(EncoderSpec(name="pixels", batch_size=7))


@pytest.fixture
def path(tmp_path, small):
    return small.shard(tmp_path / "a.tar", small.samples(0, 20))


def test_rows_point_at_the_blocks_and_images_they_came_from(path, pixels, small):
    part, sha256, ignored = embed_shard(reference(path), pixels, LIMITS)
    data, content = path.read_bytes(), small.members(path)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert not ignored
    assert part.key == list(content)
    for index, key in enumerate(part.key):
        blocks = data[int(part.block_start[index]) : int(part.block_end[index])]
        assert part.digest[index].tobytes() == hashlib.blake2b(blocks, digest_size=16).digest()
        start = int(part.image_start[index])
        payload = data[start : start + int(part.image_size[index])]
        assert payload == next(iter(content[key].values()))
        assert part.content[index].tobytes() == hashlib.blake2b(payload, digest_size=16).digest()
    assert (part.block_start[1:] == part.block_end[:-1]).all()


def test_embeddings_have_unit_length_and_their_norm_beside_them(path, pixels):
    part, _, _ = embed_shard(reference(path), pixels, LIMITS)
    assert part.embedding.dtype == np.float16
    assert np.abs(np.linalg.norm(part.embedding.astype(np.float64), axis=1) - 1).max() < 2e-3
    assert (part.norm > 0).all()


@pytest.mark.parametrize("batch_size", [1, 3, 20, 64])
def test_the_batch_size_of_this_encoder_does_not_move_a_bit(batch_size, path, pixels):
    expected, _, _ = embed_shard(reference(path), pixels, LIMITS)
    found, _, _ = embed_shard(reference(path), build_encoder(EncoderSpec(name="pixels", batch_size=batch_size)), LIMITS)
    assert found.embedding.tobytes() == expected.embedding.tobytes()


def test_decoding_in_threads_changes_nothing(path, pixels):
    from concurrent.futures import ThreadPoolExecutor

    expected, _, _ = embed_shard(reference(path), pixels, LIMITS)
    with ThreadPoolExecutor(3) as pool:
        found, _, _ = embed_shard(reference(path), pixels, LIMITS, pool)
    assert found.key == expected.key
    assert found.embedding.tobytes() == expected.embedding.tobytes()
    assert found.digest.tobytes() == expected.digest.tobytes()
    assert found.content.tobytes() == expected.content.tobytes()


def test_equal_images_have_equal_content_under_any_key_and_other_text(tmp_path, small, pixels):
    same, other = small.image(1), small.image(2)
    shards = [{"a": {"jpg": same}, "b": {"jpg": other}}, {"z": {"txt": b"cat", "jpg": same}, "b": {"jpg": other}}]
    paths = [small.shard(tmp_path / f"{number}.tar", content) for number, content in enumerate(shards)]
    first, second = (embed_shard(reference(path), pixels, LIMITS)[0] for path in paths)
    assert first.content.tobytes() == second.content.tobytes()
    assert first.content[0].tobytes() != first.content[1].tobytes()
    assert first.digest[0].tobytes() != second.digest[0].tobytes()


def odd_images(small):
    """``{key: (bytes, defects)}`` of images that are embedded all the same."""
    import io

    from PIL import Image

    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    flat = np.full((40, 40, 3), 90)
    flat[::2] += 1
    noise = np.random.default_rng(0).integers(0, 256, (10, 40, 3))
    blank, tiny, warned = DEFECTS["blank"], DEFECTS["tiny"], DEFECTS["warned"]
    return {
        "sound": (small.image(1), 0),
        "blank": (png(flat), blank),
        "small": (png(noise), tiny),
        "longer": (small.image(2) + b"more", warned),
        "all": (png(flat[:8]) + b"more", blank | tiny | warned),
        "last": (small.image(3), 0),
    }


@pytest.mark.parametrize("pool_size", [0, 3])
def test_defects_stand_in_the_row_of_their_image(pool_size, tmp_path, small):
    from concurrent.futures import ThreadPoolExecutor

    images = odd_images(small)
    content = {key: {"png" if data.startswith(b"\x89PNG") else "jpg": data} for key, (data, _) in images.items()}
    content["skipped"] = {"jpg": b"<html>"}
    encoder = build_encoder(EncoderSpec(name="pixels", batch_size=3, image_size=16))
    pool = ThreadPoolExecutor(pool_size) if pool_size else None
    part, _, _ = embed_shard(reference(small.shard(tmp_path / "a.tar", content)), encoder, LIMITS, pool)
    if pool is not None:
        pool.shutdown()
    assert part.defects.dtype == np.uint8
    assert dict(zip(part.key, part.defects.tolist(), strict=True)) == {key: bits for key, (_, bits) in images.items()}


def test_a_jpeg_that_is_decoded_at_half_its_size_is_not_called_tiny(tmp_path, small):
    content = {"a": {"jpg": small.image(1, side=16)}}
    encoder = build_encoder(EncoderSpec(name="pixels", image_size=4))
    part, _, _ = embed_shard(reference(small.shard(tmp_path / "a.tar", content)), encoder, LIMITS)
    assert part.defects.tolist() == [0]


@pytest.mark.parametrize("pool_size", [0, 2])
def test_every_unusable_sample_is_listed_with_its_row_and_reason(pool_size, tmp_path, small, pixels):
    from concurrent.futures import ThreadPoolExecutor

    content = {
        "good": {"jpg": small.image(1)},
        "no image": {"txt": b"text"},
        "not an image": {"jpg": b"<html>"},
        "empty": {"png": b""},
        "large": {"jpg": small.image(2, side=101)},
        "heavy": {"jpg": bytes(100_001)},
        "flat": {"png": flat_png()},
        "last": {"jpg": small.image(3)},
    }
    path = small.shard(tmp_path / "a.tar", content)
    pool = ThreadPoolExecutor(pool_size) if pool_size else None
    part, _, _ = embed_shard(reference(path), pixels, LIMITS, pool)
    if pool is not None:
        pool.shutdown()
    assert (part.key, part.row.tolist()) == (["good", "last"], [0, 7])
    assert list(zip(part.skipped_row.tolist(), part.skipped_key, part.skipped_reason, strict=True)) == [
        (1, "no image", "no_image"),
        (2, "not an image", "not_an_image"),
        (3, "empty", "empty"),
        (4, "large", "too_many_pixels"),
        (5, "heavy", "image_too_large"),
        (6, "flat", "zero_embedding"),
    ]


def flat_png():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (50, 50, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_preferred_suffix_is_embedded(tmp_path, small, pixels):
    path = small.shard(tmp_path / "a.tar", {"a": {"png": small.image(1, "PNG"), "jpg": small.image(2)}})
    part, _, _ = embed_shard(reference(path), pixels, LIMITS)
    assert int(part.image_start[0]) == small.offset_of(path, "a", "jpg")


def test_a_large_sample_is_hashed_in_pieces_to_the_same_digest(path, pixels, monkeypatch):
    expected, _, _ = embed_shard(reference(path), pixels, LIMITS)
    monkeypatch.setattr("sspruning.stages.embed_shard.STREAM_BLOCKS_ABOVE", 600)
    found, _, _ = embed_shard(reference(path), pixels, LIMITS)
    assert found.digest.tobytes() == expected.digest.tobytes()
    assert found.content.tobytes() == expected.content.tobytes()
    assert found.embedding.tobytes() == expected.embedding.tobytes()


def test_an_empty_archive_is_a_part_without_rows(tmp_path, small, pixels):
    part, _, _ = embed_shard(reference(small.shard(tmp_path / "a.tar", {})), pixels, LIMITS)
    assert part.embedding.shape == (0, pixels.dim)
    assert part.key == part.skipped_key == []
    assert (part.content.shape, part.defects.shape) == ((0, 16), (0,))


def test_a_shard_that_changes_while_it_is_read_is_refused(path, pixels):
    shard = reference(path)
    path.touch()
    with pytest.raises(ShardError, match="changed while it was read"):
        embed_shard(ShardRef(shard.shard_id, shard.path, shard.size, shard.mtime_ns - 1), pixels, LIMITS)


def test_rows_are_the_samples_that_the_reader_sees(path, pixels):
    part, _, _ = embed_shard(reference(path), pixels, LIMITS)
    with ShardReader(str(path)) as reader:
        assert [(s.key, s.row) for s in reader.samples()] == list(zip(part.key, part.row.tolist(), strict=True))
