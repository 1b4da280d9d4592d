"""Any file that is lost or damaged is named by verify, and the same commands make the same bytes again."""

import json
import os
import random
import shutil

import pytest
from faults.harness import assert_no_crash, content, stamps
from faults.stories import CLUSTER, EMBED, INLINE, STORE, STORIES

EXEMPT = ("events.jsonl", "report.html")  # logs, and what tells times of day
HEADER = 80  # bytes; a config.yaml without its first line is taken for a person's, and left alone

# What is done, and the folders that verify is asked about.
RUN = ((STORIES["run"].verb,), ("runs/whole", "pruned"))
VERB_BY_VERB = (
    (
        ("embed", "../grown", *STORE),
        ("select", "store", "--keep-fraction", "0.6,0.4", *CLUSTER, *INLINE),
        ("select", "store", "--keep-fraction", "0.5", *CLUSTER, *INLINE),
        ("write", "store", "-o", "pruned", "--samples-per-shard", "4", "--index", "all", "--cls", "cluster", *INLINE),
        ("decontaminate", "store", "--against", "../shards", *INLINE),
    ),
    ("store", "pruned"),
)
SETTINGS = {"store/config.yaml"}  # what verbs go on with where an option is not given: a person has to put it right
KNOWN = {("embed", "../grown"): 3}  # exit codes other than 0: one of these shards is damaged


def do(nursery, folder, verbs):
    for verb in verbs:
        done = nursery.run(*verb, cwd=folder, shimmed=False)
        assert done.code == KNOWN.get(verb[:2], 0), done.output


def verified(nursery, folder, places):
    """Exit codes other than 0, and all that verify says of the places."""
    found = [nursery.run("verify", place, cwd=folder, shimmed=False) for place in places]
    return {done.code for done in found} - {0}, "".join(done.output for done in found)


def files_of(folder):
    names = [name for name, kind in content(folder).items() if not kind.startswith("mode")]
    return [name for name in names if not name.endswith(EXEMPT)]


def is_settings(name):
    """True for the settings of a store or a run, which may be a person's."""
    return name.endswith("config.yaml") and not name.startswith("pruned")


def delete(path, folder):
    path.unlink()


def cut(path, folder):
    os.truncate(path, path.stat().st_size // 2)


def empty(path, folder):
    os.truncate(path, 0)


def flip(path, folder):
    """Flip one bit."""
    start = HEADER if path.name == "config.yaml" else 0
    data = bytearray(path.read_bytes())
    dice = random.Random(path.name)  # noqa: S311 - a place, no secret
    data[dice.randrange(start, len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def flip_unseen(path, folder):
    """Flip one bit and put the file's time back."""
    status = path.stat()
    flip(path, folder)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(path, folder):
    """Exchange a file with another of its kind, or the next best, by renaming both; returns the other one's name."""
    others = [folder / name for name in files_of(folder) if not is_settings(name)]
    others = [other for other in others if other.read_bytes() != path.read_bytes()]
    beside = [other for other in others if other.parent == path.parent] or others
    other = next((other for other in beside if other.suffix == path.suffix), beside[0])
    path.rename(path.with_name("aside"))
    other.rename(path)
    path.with_name("aside").rename(other)
    return str(other.relative_to(folder))


DAMAGES = {
    "deleted": delete,
    "cut in half": cut,
    "emptied": empty,
    "one bit flipped": flip,
    "one bit flipped, its time put back": flip_unseen,
    "swapped with a sibling": swap,
}


@pytest.fixture
def finished(ground, nursery):
    """A function that makes the folder in which a story is done."""

    def make(story):
        folder = ground.fresh()
        do(nursery, folder, story[0])
        assert verified(nursery, folder, story[1])[0] == set()
        return folder

    return make


def told(folder):
    """Content of all files that have to come again."""
    found = content(folder)
    return {name: found[name] for name in files_of(folder)}


def damage_and_repair(nursery, folder, story, name, damage):
    """Damage one file; returns what was not as it has to be, in words."""
    verbs, places = story
    before, whole = told(folder), (folder / name).read_bytes()
    other = DAMAGES[damage](folder / name, folder) or name
    codes, output = verified(nursery, folder, places)
    assert_no_crash(output)
    wrong = []
    if codes != {3} or not (name in output or other in output):
        wrong.append(f"{name}: {damage}: verify ends with {codes} and says: {output}")
    if name in SETTINGS:
        (folder / name).write_bytes(whole)
    for verb in verbs:
        done = nursery.run(*verb, cwd=folder, shimmed=False)
        assert_no_crash(done.output)
        if done.code != KNOWN.get(verb[:2], 0):
            wrong.append(f"{name}: {damage}: {verb[0]} ends with {done.code} and says: {done.output}")
    after = told(folder)
    differing = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if differing:
        wrong.append(f"{name}: {damage}: {differing} are not as they were")
    return wrong


HANDFUL = (
    ("runs/whole/store/store.json", "one bit flipped"),
    ("runs/whole/store/corpus.json", "deleted"),
    ("runs/whole/scores/digests.json", "cut in half"),
    ("pruned/shard-000001.tar", "one bit flipped, its time put back"),
    ("pruned/.sspruning/manifest.json", "emptied"),
)


def test_a_damaged_file_is_named_and_the_same_command_makes_the_same_bytes(finished, nursery, record_property):
    folder = finished(RUN)
    columns = sorted(str(path.relative_to(folder)) for path in (folder / "runs/whole/scores").rglob("*.npy"))
    cases = [*HANDFUL, (columns[0], "swapped with a sibling")]
    assert [case for name, damage in cases for case in damage_and_repair(nursery, folder, RUN, name, damage)] == []
    record_property("outcomes", f"{len(cases)} damages, all named and repaired")
    before = stamps(folder)
    do(nursery, folder, RUN[0])
    assert stamps(folder) == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("story", [RUN, VERB_BY_VERB], ids=["run", "verb by verb"])
def test_any_file_that_is_damaged_is_named_and_repaired(story, damage, finished, ground, nursery, record_property):
    folder = finished(story)
    names, wrong = files_of(folder), []
    if damage == "swapped with a sibling":
        names = [name for name in names if not is_settings(name)]  # there is no other of its kind
    whole = shutil.copytree(folder, ground.root / "whole", dirs_exist_ok=True)
    for name in names:
        found = damage_and_repair(nursery, folder, story, name, damage)
        if found:
            ground.fresh(whole)
            do(nursery, folder, story[0])
        wrong += found
    shutil.rmtree(whole)
    assert not wrong, "\n".join(wrong)
    record_property("outcomes", f"{len(names)} files, each named and repaired")


@pytest.mark.slow
def test_a_folder_that_was_copied_is_read_once_and_then_left_alone(finished, ground, nursery):
    folder = finished(RUN)
    copied = shutil.copytree(folder, ground.root / "copied")
    shutil.rmtree(folder)
    shutil.copytree(copied, folder)
    shutil.rmtree(copied)
    whole = told(folder)
    do(nursery, folder, RUN[0])
    before = stamps(folder)
    do(nursery, folder, RUN[0])
    assert stamps(folder) == before
    assert told(folder) == whole


def test_damage_that_times_do_not_show_is_found_by_verify_and_by_verify_inputs(finished, nursery):
    """As after a failing disk, or a clock that was set back."""
    story = ((EMBED,), ("store",))
    folder = finished(story)
    for path in folder.rglob("*.json"):
        os.utime(path, (4e9, 4e9))
    part = next((folder / "store" / "parts").glob("s0.*.h5"))
    whole = part.read_bytes()
    before = stamps(folder)
    do(nursery, folder, story[0])
    assert stamps(folder) == before
    flip(part, folder)
    do(nursery, folder, story[0])
    assert part.read_bytes() != whole
    codes, output = verified(nursery, folder, story[1])
    assert codes == {3}
    assert part.name in output
    do(nursery, folder, [(*EMBED, "--verify-inputs")])
    assert part.read_bytes() == whole
    assert verified(nursery, folder, story[1])[0] == set()


def test_another_release_left_no_digests_and_is_read_all_the_same(finished, nursery):
    folder = finished(RUN)
    whole = told(folder)
    as_of_an_earlier_release(folder)
    codes, output = verified(nursery, folder, RUN[1])
    assert codes == {3}
    assert output.count("digest") >= 3
    do(nursery, folder, RUN[0])
    assert told(folder) == whole
    assert verified(nursery, folder, RUN[1])[0] == set()


def as_of_an_earlier_release(folder):
    """Take all digests out that a release without them did not write."""
    for path in folder.rglob("digests.json"):
        path.unlink()
    for path in [*folder.rglob("manifest.json"), *folder.rglob("sources.json")]:
        found = json.loads(path.read_text())
        for entry in found if isinstance(found, list) else [found]:
            entry.pop("digest")
        if path.parent.name == "store":
            found.pop("files")
        path.write_text(json.dumps(found, sort_keys=True, indent=1) + "\n")
