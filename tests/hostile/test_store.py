"""What was changed in a store is made again or refused by name; no number of it reaches a selection."""

import os
import shutil

import pytest
from hostile.cases_store import CASES, DAMAGED_NOTES, REWRITE, Named, Redone
from hostile.harness import EMBED, Arena, Case, params, shard_of

SELECT = ("select", "store", "--executor", "inline", "--set", "select.keep_fraction=0.5")
QUICK = ("--set", "cluster.name=numpy_kmeans", "--set", "cluster.n_clusters=2")
VARYING = ("events.jsonl", "config.yaml", "corpus.json")  # times and places
DIGESTS = ("manifest.json", "digests.json")  # have digests of these


def content(folder):
    """``{path: bytes}`` of a store, without what varies from run to run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in VARYING + DIGESTS and "logs" not in path.parts
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of three good shards with a store and a selection, as they are without damage."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("whole")
        patch.chdir(root)
        arena = Arena(root)
        arena.build(Case(0, "three good shards", lambda folder: shard_of(), None))
        assert arena.run(*EMBED).code == 0
        assert arena.run(*SELECT, *QUICK).code == 0
    return arena.root


@pytest.fixture
def damaged(arena, whole):
    """An `Arena` that holds a copy of that folder."""
    shutil.copytree(whole, arena.root, dirs_exist_ok=True)
    arena.look()
    return arena


@pytest.mark.parametrize("case", params(CASES))
def test_what_was_changed_is_made_again_or_refused_and_never_used(case, damaged, whole):
    clean = content(whole / "store")
    case.build(damaged.root)
    if isinstance(case.outcome, Named):
        settings = case.settings or ("cluster.seed=1",)  # else nothing would have to be read again
        changed = sorted((damaged.root / "store").glob(case.outcome.files))
        result = damaged.run(*SELECT, "--set", *settings)
        assert result.code == 3, result
        assert str(changed[0].relative_to(damaged.root)) in result.err
        assert case.outcome.message in result.err
        for path in changed:
            path.unlink()
    if isinstance(case.outcome, Redone):
        result = damaged.run(*SELECT)
        assert result.code == 3, "samples were left out in silence"
        assert "1 of 3 shards are not embedded, such as b" in result.err
    if isinstance(case.outcome, Named | Redone):
        result = damaged.run(*EMBED)
        assert result.code == 0, result
        assert "6 of 6 samples" in result.out
    assert damaged.run(*SELECT, "--set", "cluster.seed=0", "--set", "select.seed=0").code == 0
    found = content(damaged.root / "store")
    for name in clean:
        assert found[name] == clean[name], name


@pytest.mark.parametrize("case", params([REWRITE]))
def test_a_payload_that_changed_since_it_was_embedded_is_never_written(case, arena):
    arena.build(case)
    assert arena.run(*EMBED).code == 0
    path = arena.shards / "b.tar"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[512 + 100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    arena.look()
    result = arena.run(*SELECT, *QUICK, "--set", "select.keep_fraction=1.0", "--output", "pruned")
    assert result.code == 3, result
    assert "shards/b.tar: at byte 0: " in result.err
    assert case.outcome.message in result.err
    assert not list((arena.root / "pruned").rglob("*.tar"))


@pytest.mark.parametrize("case", params(DAMAGED_NOTES))
def test_a_damaged_note_of_the_store_is_named(case, damaged):
    case.build(damaged.root)
    for verb in (SELECT, ("status", "store"), ("verify", "store")):
        result = damaged.run(*verb)
        assert result.code == 3, result
        assert "store" in result.err
        assert len(result.err) < 1000
