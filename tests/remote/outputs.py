"""What tests of outputs in buckets share: buckets, how they are written to, and runs that die."""

import shutil

from sspruning.config import WriteConfig
from sspruning.execution.inline import InlineExecutor
from sspruning.progress import SilentProgress
from sspruning.stages.write import write
from sspruning.storage import remote
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import Store

WRITE = {"samples_per_shard": 16, "index": ["timm", "dino", "dali"]}


class Bucket:
    """A bucket of its own, looked at past everything that is tested."""

    def __init__(self, client, name):
        self._client, self._name = client, name
        self.url = f"s3://{name}"
        client.create_bucket(Bucket=name)

    def names(self, prefix=""):
        """Names of the objects that begin so, without that beginning."""
        found = self._client.list_objects_v2(Bucket=self._name, Prefix=prefix).get("Contents", [])
        return [entry["Key"].removeprefix(prefix) for entry in found]

    def read(self, name):
        """Content of an object."""
        return self._client.get_object(Bucket=self._name, Key=name)["Body"].read()

    def objects(self, prefix=""):
        """``{name: bytes}``, as `names` has them."""
        return {name: self.read(prefix + name) for name in self.names(prefix)}

    def put(self, name, data):
        """Make an object."""
        self._client.put_object(Bucket=self._name, Key=name, Body=data)

    def remove(self, name):
        """Remove an object."""
        self._client.delete_object(Bucket=self._name, Key=name)


def do(store, output, *, progress=None, overwrite=False, **config):
    """Manifest of the shards that now stand at ``output``."""
    file = SelectionFile.open(store / "selection.parquet")
    made = WriteConfig(**{**WRITE, **config})
    return write(Store(store), file, output, made, InlineExecutor(), progress, overwrite=overwrite)


def files(folder):
    """``{name: bytes}`` of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def forget(store):
    """Make the store one of another machine: without the files that it keeps of outputs in buckets."""
    shutil.rmtree(store / "outputs")


class Uploads:
    """What is uploaded, and what cannot be."""

    def __init__(self):
        self.urls = []
        self.refused = "nothing"

    @property
    def names(self):
        """Base names, in order."""
        return [url.rpartition("/")[2] for url in self.urls]

    @property
    def tars(self):
        """Those of shards."""
        return [name for name in self.names if name.endswith(".tar")]

    def clear(self):
        """Forget what was uploaded, and refuse nothing."""
        self.__init__()


class Notes(SilentProgress):
    """Progress that keeps notes."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def note(self, text):
        self.kept.append(text)


class Dead(BaseException):
    """The run is gone."""


def dies_at(patch, number, *, after):
    """Let the run die at the ``number``-th request that changes something, before or after it is answered."""
    requests = iter(range(number))

    def deadly(call):
        def ask(*given):
            last = next(requests, None) is None
            if last and not after:
                raise Dead
            call(*given)
            if last:
                raise Dead

        return ask

    for name in ("put_file", "put_bytes", "remove"):
        patch.setattr(remote, name, deadly(getattr(remote, name)))
