"""What a hostile case is, the folder that it is tried in, and what must be true after it, whatever it was."""

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from corpora import END, member, picture, tar
from typer.testing import CliRunner

from sspruning.cli import app
from sspruning.storage.store import Store

__all__ = ["EMBED", "GOOD", "Arena", "Case", "Kept", "Quarantined", "Refused", "image", "params", "shard_of"]

COMMAND = typer.main.get_command(app)  # making it takes longer than most cases
EMBED = ("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
GOOD = {"a": ["a0", "a1"], "c": ["c0", "c1"]}
IMAGES = {key: picture(number) for number, key in enumerate([*GOOD["a"], *GOOD["c"], "b0", "b1", "b2"])}
GOOD_SHARDS = {name: tar([(f"{key}.jpg", IMAGES[key]) for key in keys]) for name, keys in GOOD.items()}


def image(key="b0"):
    """A small sound JPEG, another one for each key."""
    return IMAGES[key]


def shard_of(*between):
    """An archive of two sound samples, b0 and b1, with ready blocks between them."""
    return member(b"b0.jpg", IMAGES["b0"]) + b"".join(between) + member(b"b1.jpg", IMAGES["b1"]) + END


@dataclass(frozen=True)
class Case:
    """One hostile input."""

    number: int
    """As the list of hostile cases has it; from 97 on our own."""
    title: str
    build: Callable
    """Called with the folder; makes the input there. For shards it may return the bytes of ``shards/b.tar``."""
    outcome: object
    settings: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("shards",)
    patch: Callable | None = None
    """Called with pytest's monkeypatch and the arena before the run; changes what the encoder or the disk does."""
    slow: bool = False


def params(cases):
    """The cases as parameters of a test, each under its number."""
    return [
        pytest.param(case, id=f"{case.number:03d} {case.title}", marks=[pytest.mark.slow] if case.slow else [])
        for case in cases
    ]


# What may not happen while a hostile file is read. Python tells of all of these itself, whoever does them.
FORBIDDEN = (
    "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec",
    "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "pickle.find_class", "webbrowser.open",
)  # fmt: skip
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
_watching: list["_Watch"] = []


@dataclass
class _Watch:
    allowed: tuple[str, ...]
    processes: bool
    seen: list[str]

    def judge(self, event, args):
        if event in FORBIDDEN and not self.processes:
            self.seen.append(f"{event}{args!r}")
        elif event == "open" and self.writes(args) and not self.inside(args[0]):
            self.seen.append(f"open for writing: {args!r}")
        elif (
            event in CHANGES
            and not self.below_a_folder(event, args)
            and not all(self.inside(path) for path in args if isinstance(path, str | bytes | Path))
        ):
            self.seen.append(f"{event}{args!r}")

    @staticmethod
    def writes(args):
        path, mode, flags = args
        if not isinstance(path, str | bytes | Path):
            return False
        return any(letter in (mode or "") for letter in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    @staticmethod
    def below_a_folder(event, args):
        """True for a name below an open folder, as when a tree is removed; its root was judged before."""
        return event in {"os.remove", "os.rmdir"} and args[-1] >= 0

    def inside(self, path):
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a link is where it stands, not what it leads to
        return place.startswith((*self.allowed, os.devnull)) or "__pycache__" in place


def _audit(event, args):
    if _watching and (event == "open" or event in FORBIDDEN or event in CHANGES):
        _watching[-1].judge(event, args)


sys.addaudithook(_audit)


@contextmanager
def watched(*allowed, processes=False):
    """What happens in this block and must not, as a list that fills: programs, sockets, pickles, writing elsewhere."""
    watch = _Watch(tuple(str(path) for path in allowed), processes, [])
    _watching.append(watch)
    try:
        yield watch.seen
    finally:
        _watching.remove(watch)


@contextmanager
def unwatched():
    """A block in which the test itself changes the world."""
    watching, _watching[:] = list(_watching), []
    try:
        yield
    finally:
        _watching[:] = watching


def snapshot(folder, *but):
    """``{path: content}`` of all that stands below a folder; links and devices by their kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(folder / name) for name in but):
            continue
        if path.is_file() and not path.is_symlink():
            found[str(path)] = path.read_bytes() if path.stat().st_size < 1 << 24 else path.stat().st_size
        else:
            found[str(path)] = path.lstat().st_mode
    return found


@dataclass
class Result:
    code: int
    out: str
    err: str


class Arena:
    """A folder with two good shards and room for a hostile one between them; the command line works in it."""

    OURS = ("store", "pruned")

    def __init__(self, root):
        self.root = root / "case"
        self.root.mkdir()
        (root / "beside.txt").write_text("not ours")
        self.marker = self.root / "MARKER"
        self.shards = self.root / "shards"
        self.shards.mkdir()
        for name, content in GOOD_SHARDS.items():
            (self.shards / f"{name}.tar").write_bytes(content)
        self.around = root
        os.chdir(self.root)

    def build(self, case):
        """Make the input of a case."""
        made = case.build(self.root)
        if isinstance(made, bytes):
            (self.shards / "b.tar").write_bytes(made)
        self.look()

    def disturb(self, change):
        """What happens to the hostile shard in the middle of a case, by another hand than ours."""
        with unwatched():
            change(self.shards / "b.tar")
            self.look()

    def look(self):
        """What stands now outside of our own folders is what must stand there after."""
        self.before = snapshot(self.around, *(f"case/{name}" for name in self.OURS))

    def run(self, *args, processes=False):
        """`Result` of the command line, which may write into its own folders and do nothing else to the world."""
        with watched(*(self.root / name for name in self.OURS), processes=processes) as seen:
            done = CliRunner().invoke(app, [str(arg) for arg in args], color=True)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert seen == [], "done while reading"
        assert "Traceback (most recent" not in done.output
        self.assert_untouched()
        return Result(done.exit_code, done.stdout, done.stderr)

    def assert_untouched(self):
        """Nothing ran, and nothing but our own folders changed."""
        assert not self.marker.exists(), "something was executed"
        assert snapshot(self.around, *(f"case/{name}" for name in self.OURS)) == self.before

    @property
    def store(self):
        return Store(self.root / "store")

    def ledger(self):
        """``{shard: {key: "embedded" or reason, or the problem of a quarantined shard}}``; the counts must agree."""
        store = self.store
        found = dict(store.quarantined())
        self.embeddings = {}
        for record in store.records():
            with store.open_part(record) as part:
                keys, skipped = part.keys(), list(part.skipped())
                rows = sorted([*part.column("row").tolist(), *(row for row, _, _ in skipped)])
                if record.shard_id in GOOD:
                    self.embeddings |= {key: row.tobytes() for key, row in zip(keys, part.embedding(), strict=True)}
            reasons = {key: reason for _, key, reason in skipped}
            assert rows == list(range(record.n_samples)), "every sample is accounted for once"
            assert len(keys) == record.n_rows
            assert len(reasons) == sum(record.skipped.values())
            assert not reasons.keys() & set(keys)
            assert record.shard_id not in found
            found[record.shard_id] = dict.fromkeys(keys, "embedded") | reasons
        assert found.keys() == store.shards().keys(), "every shard is accounted for"
        return found

    def assert_good_shards_are_whole(self, ledger):
        assert {name: ledger[name] for name in GOOD} == {n: dict.fromkeys(k, "embedded") for n, k in GOOD.items()}
        assert self.embeddings == self.clean

    clean: dict = {}  # noqa: RUF012 - set once, by the fixture
    """Embeddings of the good shards by key, as they are when nothing hostile stands between them."""


@dataclass(frozen=True)
class Quarantined:
    """The shard is put aside by name, with the offset of what is wrong; exit code 3."""

    message: str
    offset: int | None = None
    letter = "E"

    def check(self, arena, result):
        assert result.code == 3, result
        assert "  b: " in result.err
        assert self.message in result.err
        ledger = arena.ledger()
        problem = ledger["b"]
        assert isinstance(problem, str), f"the shard was read as {problem}"
        assert self.message in problem
        if self.offset is not None:
            assert problem.startswith(f"at byte {self.offset}: ")
        arena.assert_good_shards_are_whole(ledger)


@dataclass(frozen=True)
class Kept:
    """The shard is read: each of its samples is embedded or skipped for a reason; exit code 0."""

    ledger: dict
    ignored: dict | None = None
    """Members that belong to no sample."""

    @property
    def letter(self):
        return "S" if set(self.ledger.values()) - {"embedded"} or self.ignored else "OK"

    def check(self, arena, result):
        assert result.code == 0, result
        ledger = arena.ledger()
        assert ledger["b"] == self.ledger
        (record,) = [record for record in arena.store.records() if record.shard_id == "b"]
        assert record.ignored == (self.ignored or {})
        for reason in set(self.ledger.values()) - {"embedded"}:
            assert f"skipped, {reason}:" in result.out
        arena.assert_good_shards_are_whole(ledger)


@dataclass(frozen=True)
class Refused:
    """Nothing is begun; exit code 2."""

    message: str
    code: int = 2
    letter = "R"

    def check(self, arena, result):
        assert result.code == self.code, result
        assert self.message in result.err
        for name in arena.OURS:
            assert not list((arena.root / name).rglob("*.h5"))
            assert not (arena.root / name / "store.json").exists()
