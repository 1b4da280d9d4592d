"""Disks that are full, read-only or in the way: a clear message, exit code 5, and the same command goes on later."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.harness import ONE_THREAD, PACKAGE_ROOT, assert_no_crash, content, is_temporary, stamps
from faults.stories import EMBED, SELECT, STORIES, WRITE

RUN = STORIES["run"].verb
CLONE_NEWNS = 0x00020000


def may_mount():
    """True if this user may mount file systems in a namespace of its own."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not may_mount(), reason="mounts file systems, which only root may")


def assert_told(done, *words):
    """The last line says what the machine lacks; nothing unfinished is left over."""
    assert done.code == 5, done.output
    assert_no_crash(done.output)
    last = done.output.splitlines()[-1]
    assert last.startswith("sspruning: "), done.output
    for word in words:
        assert word in last


class Shell:
    """What became of a command in a namespace with mounts of its own."""

    def __init__(self, folder, script, *verb):
        command = shlex.join([sys.executable, "-m", "sspruning", *verb])
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(PACKAGE_ROOT), "COLUMNS": "500"}
        done = subprocess.run(
            ["unshare", "-m", "sh", "-ec", script.replace("VERB", f"({command} 2>&1)")],
            cwd=folder.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.code, self.output = done.returncode, done.stdout + done.stderr


# The largest file that may be written, in bytes: a part does not fit, or only a shard, or only the selection.
LIMITS = {"select": [4000], "embed": [9000], "write": [12000]}


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, sizes in LIMITS.items() for size in sizes])
def test_files_that_may_not_become_so_large_are_told_and_the_same_command_goes_on(name, size, nursery, ground):
    story, clean = STORIES[name], ground.clean(name)
    folder = ground.fresh(clean.before)
    done = nursery.run(*story.verb, cwd=folder, file_size=size)
    assert_told(done, "no space left to write; free some and run the same command again")
    assert not [path for path in content(folder) if is_temporary(path)]
    assert nursery.run(*story.verb, cwd=folder).code == 0
    assert content(folder) == clean.new


def test_a_log_that_cannot_grow_is_named_and_the_same_command_goes_on(nursery, ground):
    clean = ground.clean("embed")
    folder = ground.fresh(clean.before)
    log = folder / "store" / "logs" / "events.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"{}\n" * 100_000)
    done = nursery.run(*EMBED, cwd=folder, file_size=200_000)
    assert_told(done, "store/logs/events.jsonl: the log cannot be written (File too large)")
    assert nursery.run(*EMBED, cwd=folder).code == 0
    assert content(folder) == clean.new


@needs_mounts
@pytest.mark.parametrize("size_kib", [64, pytest.param(200, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_is_told_and_the_run_goes_on_on_another(size_kib, nursery, ground):
    clean = ground.clean("run")
    folder = ground.fresh()
    script = f"""
        mount -t tmpfs -o size={size_kib}k none {folder}
        cd {folder}
        VERB || code=$?
        cp -a {folder}/. {ground.root}/saved
        exit $code
    """
    shutil.rmtree(ground.root / "saved", ignore_errors=True)
    (ground.root / "saved").mkdir()
    done = Shell(folder, script, *RUN)
    assert_told(done)
    assert "No space left on device" in done.output or "no space left" in done.output
    folder = ground.fresh(ground.root / "saved")
    assert not [path for path in content(folder) if is_temporary(path)]
    assert nursery.run(*RUN, cwd=folder).code == 0
    assert content(folder) == clean.new


@needs_mounts
@pytest.mark.parametrize("size_kib", [30, *(pytest.param(size, marks=pytest.mark.slow) for size in range(16, 60, 4))])
def test_a_disk_that_fills_up_under_workers_puts_no_shard_aside(size_kib, ground):
    """A full disk is no fault of a shard: nothing goes into quarantine."""
    folder = ground.fresh()
    script = f"""
        mount -t tmpfs -o size={size_kib}k none {folder}
        cd {folder}
        VERB || code=$?
        echo aside: $(ls store/quarantine)
        exit $code
    """
    done = Shell(folder, script, *EMBED[:-1], "local", "--workers", "2")
    assert done.code == 5, done.output
    assert_no_crash(done.output)
    assert done.output.splitlines()[-1] == "aside:"


@needs_mounts
def test_a_worker_that_notes_what_it_decodes_on_a_full_disk_is_not_killed_for_it(ground):
    """Writing to a mapped file that has no room is a bus error, which would look like a fault of the shard."""
    folder = ground.fresh()
    watch = "from sspruning.stages.decode_watch import DecodeWatch; from pathlib import Path; import sys\n"
    watch += "with DecodeWatch(Path(sys.argv[1]), 's0', 9.0).decoding(3):\n pass"
    script = f"""
        mount -t tmpfs -o size=64k none {folder}
        cat /dev/zero > {folder}/filler 2>/dev/null || true
        {sys.executable} -c {shlex.quote(watch)} {folder} || echo exit code $?
    """
    output = Shell(folder, script).output
    assert "No space left on device" in output
    assert "exit code 1\n" in output


@needs_mounts
@pytest.mark.parametrize("name", ["select", "embed a corpus that changed"])
def test_a_store_that_cannot_be_written_is_told_and_left_as_it_is(name, ground):
    folder = ground.fresh(ground.clean(name).before)
    before = stamps(folder)
    script = f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}; cd {folder}; VERB"
    done = Shell(folder, script, *STORIES[name].verb)
    assert_no_crash(done.output)
    assert (done.code, "Read-only file system" in done.output) == (5, True) or (
        (done.code, "store: not writable by this user; name another folder" in done.output) == (2, True)
    ), done.output
    assert stamps(folder) == before


@needs_mounts
def test_an_input_that_cannot_be_written_is_read(nursery, ground):
    clean = ground.clean("embed")
    folder = ground.fresh()
    shards = folder.parent / "shards"
    script = f"mount --bind {shards} {shards}; mount -o remount,ro,bind {shards}; cd {folder}; VERB"
    assert Shell(folder, script, *EMBED).code == 0
    assert content(folder) == clean.new


@pytest.mark.parametrize("verb", [EMBED, SELECT, WRITE], ids=["embed", "select", "write"])
def test_a_file_where_a_folder_has_to_be_is_refused_before_any_work(verb, nursery, ground):
    folder = ground.fresh(ground.clean("select" if verb is WRITE else "embed").before)
    (folder / "file").write_text("not ours")
    before = stamps(folder)
    changed = [{"store": "file/store", "pruned": "file/pruned"}.get(word, word) for word in verb]
    if verb is WRITE:
        changed = [*verb[:1], "store", *changed[2:]]
    done = nursery.run(*changed, cwd=folder)
    assert done.code in {2, 3, 5}, done.output
    assert_no_crash(done.output)
    assert stamps(folder) == before


def test_what_cannot_be_printed_is_no_crash(ground):
    folder = ground.fresh()
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sspruning", "inspect", "../shards"],
            cwd=folder, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert "No space left on device" in done.stderr
    assert_no_crash(done.stderr)
