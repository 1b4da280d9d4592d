"""What the fault tests share: verbs in forked processes, a ground to run them on, folders compared byte by byte."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from faults.stories import STORIES, make_inputs

import sspruning

HERE = Path(__file__).parent
PACKAGE_ROOT = Path(sspruning.__file__).parent.parent
DEADLINE_S = 60
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
VARYING = {"events.jsonl", "report.html"}  # tell times of day; that they are there counts, not what they say
PLACES = {"corpus.json", "sources.json"}
UNTOLD = {"mark", "mark.half", "config.yaml"}  # of the tests; and the settings last used, workers and all
WORDS_OF_A_CRASH = ("Traceback (most recent", "Exception ignored", "Fatal Python error")


@dataclass(frozen=True)
class Done:
    """What became of a verb."""

    code: int | None
    output: str
    calls: list | None
    elsewhere: list | None


class Nursery:
    """A process that forks a child for each verb; ``with`` ends it."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(PACKAGE_ROOT), "COLUMNS": "500"},
        )

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def run(self, *args, cwd, at=0, fault=None, lasting=False, file_size=None, shimmed=True):
        """`Done` of one verb in a process of its own, with executor inline, in the folder ``cwd``."""
        request = {
            "args": [str(arg) for arg in args],
            "cwd": str(cwd),
            "root": str(cwd),
            "at": at,
            "fault": fault,
            "lasting": lasting,
            "file_size": file_size,
            "shimmed": shimmed,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        done = Done(**json.loads(self._process.stdout.readline()))
        assert done.code is not None, f"it hangs: {args}\n{done.output}"
        return done


@dataclass(frozen=True)
class Clean:
    """A story as it goes when nothing disturbs it."""

    before: Path
    """Folder as it is before the verb."""
    old: dict
    """Its `content`."""
    new: dict
    """`content` after the verb."""
    calls: list
    elsewhere: list


class Ground:
    """A folder with small corpora, beside which every trial has the same folder, so that paths in files are equal."""

    def __init__(self, root, nursery):
        self.root, self.trial, self._nursery = root, root / "trial", nursery
        self._known = {}
        make_inputs(root)

    def fresh(self, before=None):
        """The trial's folder: empty, or a copy of another."""
        shutil.rmtree(self.trial, ignore_errors=True)
        if before is None:
            self.trial.mkdir()
        else:
            shutil.copytree(before, self.trial)
        return self.trial

    def clean(self, name):
        """`Clean` of a story."""
        if name not in self._known:
            story, folder = STORIES[name], self.fresh()
            for verb in story.before:
                done = self._nursery.run(*verb, cwd=folder)
                assert done.code == 0, done.output
            before = shutil.copytree(folder, self.root / f"before-{len(self._known)}")
            done = self._nursery.run(*story.verb, cwd=folder)
            assert done.code == story.code, done.output
            self._known[name] = Clean(before, content(before), content(folder), done.calls, done.elsewhere)
        return self._known[name]


def faulty_driver(*args, mark, times=99, **plan):
    """A command line in a process of its own, in the current folder, whose workers do what `faulty_workers` says.

    Its output can be read as ``stdout``.
    """
    paths = os.pathsep.join([str(PACKAGE_ROOT), str(HERE.parent)])
    plan = json.dumps({**plan, "times": times, "mark": str(mark)})
    return subprocess.Popen(
        [sys.executable, str(HERE / "faulty_driver.py"), *args],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths, "COLUMNS": "500", "FAULTY": plan},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition):
    """Wait until something is so."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.005)


def content(folder):
    """``{path: sha256, or the kind of what is no file}`` of all that stands below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.is_symlink():
            found[name] = "varies" if path.name in VARYING else hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = f"mode {path.lstat().st_mode:o}"
    return found


def results(folder):
    """`content` of files, without those that say where something lies: equal wherever the same was done."""
    return {
        name: kind
        for name, kind in content(folder).items()
        if not kind.startswith("mode") and name.rpartition("/")[2] not in PLACES | UNTOLD
    }


def stamps(folder, but=VARYING):
    """``{path: (size, mtime_ns, sha256)}`` of all files below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_size,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def is_temporary(name):
    """True for names that only unfinished files have."""
    return ".tmp." in name


def assert_no_crash(output):
    """Nothing that a person should not see was printed."""
    for words in WORDS_OF_A_CRASH:
        assert words not in output, output
