"""open_clip: its webdataset loader, with counts from ``sizes.json`` and captions from ``.txt`` members."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

from sspruning.errors import DataError, UsageError
from sspruning.records import Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import count_samples, image_suffixes, json_pieces, quoted, shard_range

__all__ = ["OPEN_CLIP", "OpenClip"]

SIZES = "sizes.json"
IMAGES = ("png", "jpg", "jpeg", "webp")
WORKERS = 4
"""Of its data loader, where it is not told another number."""
UNPICKLED = {"pkl", "pickle", "pyd"}
"""Last suffixes of members that it unpickles, asked or not."""


class OpenClip:
    """open_clip's training script."""

    title = "open_clip"
    packages = ("open_clip_train", "webdataset", "pandas")
    install = "pip install open_clip_torch webdataset pandas"
    needs = (SIZES,)
    remark = (
        "every worker on every GPU needs a shard of its own (write with --min-shards). open_clip up to 3.3 trains with "
        "webdataset up to 0.2.86 only, so give it an environment of its own: pip install 'open_clip_torch[training]'"
    )

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """None."""
        del shard, samples
        return iter(())

    def files(self, output: Output) -> Files:
        """``sizes.json``: samples by shard."""
        yield SIZES, json_pieces({shard.name: shard.n_samples for shard in output.shards})

    def obstacles(self, output: Output) -> list[str]:
        """Samples without a caption or with an image under another suffix, which it leaves out."""
        found = []
        total = output.n_samples
        if silent := count_samples(output, without=["txt"]):
            found.append(
                f"{silent:,} of {total:,} samples have no .txt, and open_clip leaves out what has no caption: "
                "only a corpus with captions can train it"
            )
        strange = {suffix: count for suffix, count in image_suffixes(output).items() if suffix not in IMAGES}
        if strange:
            renaming = " ".join(f"--rename-suffix {suffix}=jpg" for suffix in strange)
            found.append(
                f"{sum(strange.values()):,} of {total:,} samples have their image under a suffix that open_clip does "
                f"not look for: write with {renaming}"
            )
        return found

    def command(self, output: Output) -> str:
        """open_clip's training script; with fewer workers where there are fewer shards than its default."""
        shards = len(output.shards)
        more = f" --workers {shards}" if shards < WORKERS else ""
        data = quoted(shard_range(output))
        return f"python -m open_clip_train.main --train-data {data} --dataset-type webdataset{more}"

    def read(self, output: Output) -> Iterator[str]:
        """An empty text for each pair of image and caption that its loader decodes and yields.

        The training loader is asked for the size of the epoch, and read where the installed webdataset is one that it
        works with; elsewhere its validation loader is read, which takes the same samples.
        """
        pickles = sorted({suffix for joined in output.suffixes for suffix in joined.split(";") if _unpickled(suffix)})
        if pickles:
            raise UsageError(
                f"samples have members .{', .'.join(pickles)}, and open_clip unpickles these, which runs whatever code "
                "they hold; it was not started. Leave them out with --members"
            )
        get_wds_dataset = import_module("open_clip_train.data").get_wds_dataset
        options = argparse.Namespace(
            train_data=shard_range(output),
            val_data=shard_range(output),
            train_num_samples=None,
            val_num_samples=output.n_samples,
            dataset_resampled=False,
            train_data_upsampling_factors=None,
            seed=0,
            workers=0,
            world_size=1,
            batch_size=1,
        )
        train = get_wds_dataset(options, _decoded, is_train=True, tokenizer=_tokens).dataloader
        if train.num_samples != output.n_samples:
            raise DataError(f"{SIZES} counts {train.num_samples:,} samples; run `sspruning write` again")
        if _trains():
            pairs = train.pipeline[0].dataset.iterator1()  # once over the shards; the loader itself would start again
        else:
            pairs = iter(get_wds_dataset(options, _decoded, is_train=False, tokenizer=_tokens).dataloader)
        for _ in pairs:
            yield ""

    def read_by_rule(self, output: Output) -> Iterator[str] | None:
        """None: its own code is asked."""
        del output
        return None


def _unpickled(suffix: str) -> bool:
    return suffix.rpartition(".")[2] in UNPICKLED


def _decoded(image: Any) -> int:
    """Nothing of an image that was decoded."""
    del image
    return 0


def _tokens(text: str) -> list[int]:
    """One number for a caption."""
    return [len(text)]


def _trains() -> bool:
    """Whether its training loader knows the mark that newer versions of webdataset put behind every shard."""
    from webdataset.tariterators import tar_file_expander

    if "eof_value" not in signature(tar_file_expander).parameters:
        return True
    try:
        return not list(import_module("open_clip_train.data").group_by_keys_nothrow([{}]))
    except KeyError:
        return False


OPEN_CLIP = OpenClip()
