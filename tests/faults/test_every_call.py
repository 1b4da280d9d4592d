"""Every verb, stopped at every call of the commit protocol: the same command then ends with the same bytes."""

import shutil

import pytest
from faults.harness import assert_no_crash, content, is_temporary
from faults.shim import KILL, TORN
from faults.stories import STORIES, make_inputs

FEW = 3
NAMES = sorted(name for name in STORIES if name != "import-embeddings")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Folder with the corpora, beside which every trial has its own folder."""
    folder = tmp_path_factory.mktemp("ground")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def clean(ground, nursery):
    """Return ``clean(name)``: folder before the verb of a story, what an undisturbed run leaves, and its calls."""
    known = {}

    def made(name):
        if name not in known:
            story, folder = STORIES[name], ground / f"before-{len(known)}"
            folder.mkdir()
            for verb in story.before:
                assert nursery.run(*verb, cwd=folder).code == 0
            after = ground / f"after-{len(known)}"
            shutil.copytree(folder, after)
            done = nursery.run(*story.verb, cwd=after)
            assert done.code == story.code, done.output
            known[name] = folder, content(after), done.calls
        return known[name]

    return made


@pytest.fixture
def trial(ground, clean, nursery):
    """Return ``trial(name, at, fault)``: what became of a verb that failed at a call; then it is run again."""

    def tried(name, at, fault):
        before, wanted, _ = clean(name)
        folder = ground / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        story = STORIES[name]
        disturbed = nursery.run(*story.verb, cwd=folder, at=at, fault=fault)
        shown = {path: kind for path, kind in content(folder).items() if not is_temporary(path)}
        again = nursery.run(*story.verb, cwd=folder)
        assert again.code == story.code, (at, again.output)
        assert_no_crash(disturbed.output + again.output)
        left = content(folder)
        if fault not in (KILL, TORN):  # a temporary file that the disk does not let go stays until somebody works there
            left = {path: kind for path, kind in left.items() if not is_temporary(path)}
        assert left == wanted, at
        return disturbed, shown

    return tried


def places(calls, few):
    """Numbers of calls to try: all, or some that are spread evenly."""
    every = range(1, len(calls) + 1)
    return every if not few else sorted({every[index * (len(calls) - 1) // (FEW - 1)] for index in range(FEW)})


def try_places(name, fault, clean, trial, *, few):
    """Stop at each place in turn; returns how often the disturbed run ended by itself."""
    before, wanted, calls = clean(name)
    ended = 0
    for at in places(calls, few):
        disturbed, shown = trial(name, at, fault)
        if fault in (KILL, TORN):
            assert disturbed.code in {-9, STORIES[name].code}, disturbed.output
        else:
            assert disturbed.code in {5, STORIES[name].code}, disturbed.output
        old = content(before)
        torn = {path for path, kind in shown.items() if path in wanted and kind not in {wanted[path], old.get(path)}}
        assert not {path for path in torn if path.endswith((".tar", ".h5", ".npy", ".parquet"))}, at
        ended += disturbed.code >= 0
    return ended


@pytest.mark.parametrize("name", ["embed", "select", "write", "write another selection", "run"])
def test_a_kill_at_some_calls_is_made_good_by_the_same_command(name, clean, trial):
    try_places(name, KILL, clean, trial, few=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", [KILL, TORN, "EIO", "ENOSPC", "EINTR"])
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_at_any_call_is_made_good_by_the_same_command(name, fault, clean, trial):
    try_places(name, fault, clean, trial, few=False)


@pytest.mark.parametrize("name", ["embed", "write", "run"])
def test_files_are_synced_before_they_get_their_names_and_folders_after(name, clean):
    """A kill cannot show a missing fsync, so the order of the calls is looked at."""
    calls = [tuple(entry) for entry in clean(name)[2]]
    named = [index for index, (call, _, _) in enumerate(calls) if call in {"replace", "link"}]
    assert named
    for index in named:
        _, source, target = calls[index]
        before, after = calls[:index], calls[index + 1 :]
        writes = [at for at, call in enumerate(before) if call[:2] == ("write", source)]
        syncs = [at for at, call in enumerate(before) if call[:2] == ("fsync", source)]
        moved = any(call == "replace" and to == source for call, _, to in before)  # synced under an earlier name
        assert moved or max(syncs, default=-1) > max(writes, default=-1), source
        assert ("fsync", target.rpartition("/")[0], None) in after
