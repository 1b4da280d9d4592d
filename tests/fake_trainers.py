"""Trainers that exist for tests only; put into the table by name."""

import json
from pathlib import Path

TABLE = {"plain": "fake_trainers:PLAIN", "sharp": "fake_trainers:SHARP", "stray": "fake_trainers:STRAY"}


class Plain:
    """Lists what it is told of each shard beside it, and of all shards together."""

    title = "Plain"
    folder = "plain"
    at_work = ".sspruning/shards"

    def shard_files(self, shard, samples):
        listed = [shard.name, shard.n_samples, shard.size, shard.suffixes, samples]
        yield f"{self.folder}/index/{shard.name}.json", [json.dumps(listed).encode()]
        yield f"{self.at_work}/{shard.name}.{self.folder}", [b"%d\n" % len(samples)]

    def files(self, output):
        work = Path(output.folder, self.at_work)
        counts = [(work / f"{shard.name}.{self.folder}").read_text() for shard in output.shards]
        yield f"{self.folder}/total.json", [json.dumps([output.image_key, output.suffixes, counts]).encode()]

    def obstacles(self, output):
        return [f"{output.n_samples} samples are too plain: write with --sharp"]


class Sharp(Plain):
    """The same under other names, and content with nothing to say."""

    title = "Sharp"
    folder = "sharp"

    def obstacles(self, output):
        return []


class Stray(Sharp):
    """Wants to write beside the output."""

    def files(self, output):
        yield "../stray.json", [b"{}"]


PLAIN, SHARP, STRAY = Plain(), Sharp(), Stray()
