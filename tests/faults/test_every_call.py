"""Every verb, stopped at every call of the commit protocol: the same command then ends with the same bytes."""

import random
from collections import Counter

import pytest
from faults.harness import assert_no_crash, content, is_temporary
from faults.shim import KILL, TORN
from faults.stories import EXPORTED_FOLDERS, STORIES

FULL = "ENOSPC for good"  # from a call on, as a full disk is; the others fail once
FAULTS = [KILL, TORN, "EIO", "ENOSPC", FULL, "EINTR"]
LONG = ["run"]  # the verbs of other stories in one: killed at each call, and befallen by one of the other faults there
QUICK = ["embed a corpus that changed", "select", "write for all trainers", "write another selection"]


def places(name, clean, fault, few=None):
    """Numbers of calls to strike at: all, or a few, drawn from a seed; of long stories by turns."""
    every = [at for at, call in enumerate(clean.calls, 1) if fault != TORN or call[0] == "write"]
    if name in LONG and fault != KILL:
        others = [other for other in FAULTS if other != KILL]
        every = [at for at in every if others[at % len(others)] == fault]
    if few is None or len(every) <= few:
        return every
    return sorted(random.Random(str(clean.calls[0])).sample(every, few))  # noqa: S311 - places, no secrets


def strike(nursery, ground, name, at, fault):
    """`Done` of a story's verb that a fault befell at a call; what it left is whole, and the verb ends the work."""
    story, clean, folder = STORIES[name], ground.clean(name), ground.fresh(ground.clean(name).before)
    struck = nursery.run(*story.verb, cwd=folder, at=at, fault=fault.removesuffix(" for good"), lasting=fault == FULL)
    where = f"{fault} at call {at} of {len(clean.calls)}: {clean.calls[at - 1]}\n{struck.output}"
    left = content(folder)
    for path, kind in left.items():
        if path.endswith("digests.json"):
            continue  # grows as a verb goes on
        assert is_temporary(path) or kind in {clean.new.get(path, kind), clean.old.get(path)}, f"{where}\n{path}: torn"
    if fault in {KILL, TORN}:
        assert struck.code == -9, where
    else:
        assert struck.code in {5, story.code}, where
        assert_no_crash(struck.output)
        if struck.code == 5:
            assert struck.output.splitlines()[-1].startswith("sspruning: "), where
        else:
            assert clean.new.items() <= left.items(), where
    again = nursery.run(*story.verb, cwd=folder)
    assert_no_crash(again.output)
    refused = again.code == 2 and "there already" in again.output and left == clean.new
    assert again.code == story.code or refused, f"{where}\n{again.output}"
    assert content(folder) == clean.new, where
    return struck


def strike_all(nursery, ground, name, fault, record_property, few=None):
    """Strike at each place in turn; says how the verbs ended."""
    where = places(name, ground.clean(name), fault, few)
    codes = Counter(strike(nursery, ground, name, at, fault).code for at in where)
    words = {-9: "killed", 5: "failed with exit code 5"}
    told = (f"{count} {words.get(code, 'done in spite of it')}" for code, count in sorted(codes.items()))
    record_property("outcomes", ", ".join(told))


@pytest.mark.parametrize("fault", [KILL, FULL])
@pytest.mark.parametrize("name", QUICK)
def test_a_fault_at_some_calls_is_made_good_by_the_same_command(name, fault, nursery, ground, record_property):
    strike_all(nursery, ground, name, fault, record_property, few=4 if fault == KILL else 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", STORIES)
def test_a_fault_at_any_call_is_made_good_by_the_same_command(name, fault, nursery, ground, record_property):
    strike_all(nursery, ground, name, fault, record_property)


PATIENT = [name for name in STORIES if name not in {*QUICK, *EXPORTED_FOLDERS}]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in PATIENT)])
def test_signals_that_interrupt_every_other_call_change_nothing(name, nursery, ground):
    story, clean = STORIES[name], ground.clean(name)
    folder = ground.fresh(clean.before)
    done = nursery.run(*story.verb, cwd=folder, at=1, fault="EINTR", lasting=True)
    assert done.code == story.code, done.output
    assert clean.new.items() <= content(folder).items()
    nursery.run(*story.verb, cwd=folder)  # folders that could not be removed are gone now
    assert content(folder) == clean.new


def test_a_part_that_a_killed_commit_did_not_come_to_remove_goes_later(nursery, ground):
    clean = ground.clean("embed a corpus that changed")
    at = next(at for at, (call, path, _) in enumerate(clean.calls, 1) if call == "unlink" and path.endswith(".h5"))
    strike(nursery, ground, "embed a corpus that changed", at, KILL)


def test_a_disk_that_fails_once_while_a_worker_writes_is_asked_again(nursery, ground):
    clean = ground.clean("embed a corpus that changed")
    at = next(at for at, call in enumerate(clean.calls, 1) if call[0] == "fsync" and ".h5.tmp." in call[1])
    assert strike(nursery, ground, "embed a corpus that changed", at, "EIO").code == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("EIO", "cannot be written (Input/output error); check the disk, then run the same command again"),
        ("ENOSPC", "no space left to write; free some and run the same command again"),
        ("EROFS", "cannot be written (Read-only file system); check the folder's permissions"),
    ],
)
def test_what_the_disk_refuses_is_told_with_the_file_and_what_to_do(fault, words, nursery, ground):
    clean = ground.clean("select")
    at = next(at for at, (call, path, _) in enumerate(clean.calls, 1) if call == "fsync" and ".prototypes.h5." in path)
    struck = strike(nursery, ground, "select", at, fault)
    assert struck.code == 5
    assert f"sspruning: store/prototypes.h5: {words}" in struck.output
