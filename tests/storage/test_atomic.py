"""A file is there whole or not at all, whatever happens while it is written."""

import errno
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import MachineError, StoreError
from sspruning.storage import atomic
from sspruning.storage.atomic import create_once, file_sha256, read_json, sweep, write_bytes, write_json, write_stream

HOST = socket.gethostname().replace(".", "-")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def calls(monkeypatch):
    """Names of the os functions that a write uses, in order; folders and files are told apart."""
    seen = []
    folders = set()

    def watch(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            value = real(*args, **kwargs)
            if name == "open" and stat.S_ISDIR(os.fstat(value).st_mode):
                folders.add(value)
            is_folder = (value if name == "open" else args[0]) in folders
            seen.append(f"{name} folder" if is_folder else name)
            if name == "close":
                folders.discard(args[0])
            return value

        monkeypatch.setattr(atomic.os, name, call)

    for name in ("open", "write", "fsync", "close", "replace", "link"):
        watch(name)
    return seen


def fail(monkeypatch, name, number, after=0):
    """Let the os function raise this error, after so many successful calls."""
    real, left = getattr(os, name), [after]

    def call(*args, **kwargs):
        if left[0] > 0:
            left[0] -= 1
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, name, call)


@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_a_stream_becomes_the_file_and_gives_its_hash_and_size(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "stream" / "deep" / "file.bin"
    content = b"".join(pieces)
    assert write_stream(path, iter(pieces)) == (hashlib.sha256(content).hexdigest(), len(content))
    assert path.read_bytes() == content
    assert names(path.parent) == ["file.bin"]
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_memory_views_are_written_too(tmp_path):
    assert write_stream(tmp_path / "f", [memoryview(b"abc")[1:], b"d"])[1] == 3
    assert (tmp_path / "f").read_bytes() == b"bcd"


def test_a_write_that_the_system_cuts_short_goes_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(atomic.os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    write_bytes(tmp_path / "f", b"0123456789" * 5)
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 5


def test_an_existing_file_is_replaced_whole(tmp_path):
    write_bytes(tmp_path / "f", b"a longer old content")
    write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_only_the_temporary_name_is_visible_while_it_is_written(tmp_path):
    def pieces():
        yield b"x"
        seen.extend(names(tmp_path))

    seen = []
    write_stream(tmp_path / "f.h5", pieces())
    (temporary,) = seen
    assert temporary.startswith(f".f.h5.tmp.{HOST}.{os.getpid()}.")
    assert len(temporary.rpartition(".")[2]) == 8


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def pieces():
        yield b"half"
        raise error

    write_bytes(tmp_path / "f", b"old")
    for name in ("f", "new"):
        with pytest.raises(error):
            write_stream(tmp_path / name, pieces())
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize("function", ["write", "fsync", "replace", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path, monkeypatch, function, number):
    fail(monkeypatch, function, number)
    with pytest.raises(MachineError, match=r"f: no space left to write; free some and run the same command again"):
        write_bytes(tmp_path / "f", b"data")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    fail(monkeypatch, "write", errno.ENOSPC, after=2)
    with pytest.raises(MachineError):
        write_stream(tmp_path / "f", [b"1", b"2", b"3"])
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, number):
    fail(monkeypatch, "open", number)
    with pytest.raises(MachineError, match=r"f: cannot be written \(.*\); check the folder's permissions"):
        write_bytes(tmp_path / "f", b"data")


@pytest.mark.parametrize("function", ["open", "write", "fsync", "close", "replace"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENODEV])
def test_any_other_error_of_the_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch, function, number):
    fail(monkeypatch, function, number)
    with pytest.raises(MachineError, match=r"f: cannot be written \(.*\); check the disk, then run the same") as caught:
        write_bytes(tmp_path / "f", b"data")
    assert caught.value.__cause__.errno == number
    assert names(tmp_path) == []


@pytest.mark.parametrize("function", ["open", "write", "fsync", "close", "replace", "link", "unlink", "mkdir"])
def test_a_call_that_a_signal_interrupts_is_repeated(tmp_path, monkeypatch, function):
    real, left = getattr(os, function), [2]

    def call(*args, **kwargs):
        if left[0]:
            left[0] -= 1
            if function == "close":  # a file whose close is interrupted is closed
                real(*args, **kwargs)
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        return real(*args, **kwargs)

    monkeypatch.setattr(atomic.os, function, call)
    assert create_once(tmp_path / "deep" / "f", b"data")
    write_bytes(tmp_path / "deep" / "g", b"more")
    assert left == [0]
    assert names(tmp_path / "deep") == ["f", "g"]
    assert (tmp_path / "deep" / "f").read_bytes() == b"data"


def test_what_goes_wrong_while_the_pieces_come_about_is_no_failure_to_write(tmp_path):
    def pieces():
        yield b"half"
        raise OSError(errno.EIO, "the source is broken")

    with pytest.raises(OSError, match="the source is broken"):
        write_stream(tmp_path / "f", pieces())
    assert names(tmp_path) == []


def test_an_error_while_the_folder_is_synced_is_no_error(tmp_path, monkeypatch):
    fail(monkeypatch, "fsync", errno.EINVAL, after=1)
    write_bytes(tmp_path / "f", b"data")
    assert names(tmp_path) == ["f"]


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, calls):
    write_stream(tmp_path / "f", [b"1", b"2"])
    assert calls == [
        "open",
        "write",
        "write",
        "fsync",
        "close",
        "replace",
        "open folder",
        "fsync folder",
        "close folder",
    ]


def test_a_file_created_once_is_synced_before_it_is_linked_and_the_folder_after(tmp_path, calls):
    assert create_once(tmp_path / "f", b"1")
    assert calls.index("fsync") < calls.index("link") < len(calls) - 1 - calls[::-1].index("fsync folder")


def test_a_process_killed_in_the_middle_leaves_no_file_but_a_temporary_one_to_sweep(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from sspruning.storage.atomic import write_stream\n"
        "def pieces():\n yield b'x' * 1000\n print('half', flush=True)\n time.sleep(60)\n"
        "write_stream(Path(sys.argv[1]), pieces())"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "f"], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"half\n"
        assert sweep(tmp_path) == 0  # its owner lives
        child.send_signal(signal.SIGKILL)
        child.wait()
    (left,) = names(tmp_path)
    assert left.startswith(f".f.tmp.{HOST}.{child.pid}.")
    assert sweep(tmp_path) == 1
    assert names(tmp_path) == []


@pytest.fixture(scope="module")
def dead_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def test_sweep_removes_only_temporary_files_of_dead_processes_of_this_host(tmp_path, dead_pid):
    swept = [f".a.h5.tmp.{HOST}.{dead_pid}.0123abcd", f".b.tmp.c.tmp.{HOST}.{dead_pid}.0123abcd"]
    kept = [
        f".a.h5.tmp.{HOST}.{os.getpid()}.0123abcd",
        f".a.h5.tmp.{HOST}.1.0123abcd",
        f".a.h5.tmp.other-{HOST}.{dead_pid}.0123abcd",
        f".a.h5.tmp.{HOST}.{dead_pid}",
        f".a.h5.tmp.{HOST}.x{dead_pid}.0123abcd",
        f".a.h5.tmp.{HOST}.{10**30}.0123abcd",
        f".a.h5.tmp.{HOST}.²³.0123abcd",
        f"a.h5.tmp.{HOST}.{dead_pid}.0123abcd",
        "a.h5",
        ".hidden",
    ]
    for name in swept + kept:
        (tmp_path / name).touch()
    assert sweep(tmp_path) == len(swept)
    assert names(tmp_path) == sorted(kept)
    assert sweep(tmp_path) == 0


@pytest.mark.parametrize("pid", ["1", str(os.getpid())], ids=["the first", "our own"])
def test_sweep_knows_files_that_are_older_than_the_process_that_has_their_number_now(tmp_path, pid):
    old, new = tmp_path / f".old.tmp.{HOST}.{pid}.0123abcd", tmp_path / f".new.tmp.{HOST}.{pid}.0123abcd"
    for path in (old, new):
        path.touch()
    os.utime(old, (1e9, 1e9))
    assert sweep(tmp_path) == 1
    assert names(tmp_path) == [new.name]


def test_sweep_takes_the_files_of_its_own_process_only_when_told_to(tmp_path):
    own = tmp_path / f".a.tmp.{HOST}.{os.getpid()}.0123abcd"
    other = tmp_path / f".a.tmp.{HOST}.1.0123abcd"
    for path in (own, other):
        path.touch()
    assert sweep(tmp_path) == 0
    assert sweep(tmp_path, ours=True) == 1
    assert names(tmp_path) == [other.name]


def test_sweep_of_a_folder_that_is_not_there_removes_nothing(tmp_path):
    assert sweep(tmp_path / "none") == 0


def test_a_file_is_created_only_once(tmp_path):
    path = tmp_path / "deep" / "store.json"
    assert create_once(path, b"first")
    assert not create_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(path.parent) == ["store.json"]


def test_without_hard_links_a_file_is_still_created_only_once(tmp_path, monkeypatch):
    fail(monkeypatch, "link", errno.EPERM)
    assert create_once(tmp_path / "f", b"first")
    assert not create_once(tmp_path / "f", b"second")
    assert (tmp_path / "f").read_bytes() == b"first"
    assert names(tmp_path) == ["f"]


def test_a_link_that_was_made_although_the_server_says_it_was_there_already_counts(tmp_path, monkeypatch):
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(atomic.os, "link", link)
    assert create_once(tmp_path / "f", b"first")
    assert (tmp_path / "f").read_bytes() == b"first"
    assert names(tmp_path) == ["f"]


def test_a_full_disk_creates_nothing(tmp_path, monkeypatch):
    fail(monkeypatch, "write", errno.ENOSPC)
    with pytest.raises(MachineError):
        create_once(tmp_path / "f", b"first")
    assert names(tmp_path) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_json_that_the_disk_does_not_give_is_an_error_of_the_machine(tmp_path):
    (tmp_path / "f.json").mkdir()
    with pytest.raises(MachineError, match=r"f\.json: cannot be read \(Is a directory\)"):
        read_json(tmp_path / "f.json")


@given(VALUES.filter(lambda value: "\\ud" not in json.dumps(value)))
def test_json_is_read_as_it_was_written_and_equal_values_give_equal_bytes(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    before = path.read_bytes()
    write_json(path, dict(reversed(value.items())) if isinstance(value, dict) else value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_has_not_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "f", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b"9" * 5000, b"{} {}"])
def test_json_that_is_damaged_is_named(tmp_path, content):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"f\.json: damaged"):
        read_json(tmp_path / "f.json")


def test_json_that_is_missing_or_too_large_is_named(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match=r"f\.json: missing"):
        read_json(tmp_path / "f.json")
    (tmp_path / "f.json").write_bytes(b"[0, 1]")
    monkeypatch.setattr(atomic, "JSON_CAP_BYTES", 5)
    with pytest.raises(StoreError, match=r"f\.json: larger than 5 bytes"):
        read_json(tmp_path / "f.json")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_zombie_owner_counts_as_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{child.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z":
        time.sleep(0.01)
    host = socket.gethostname().replace(".", "-")
    (tmp_path / f".a.tmp.{host}.{child.pid}.0123abcd").write_bytes(b"")
    try:
        assert sweep(tmp_path) == 1
    finally:
        child.wait()
