"""One thing is changed: exactly what depends on it is made again, and the run says what."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from corpora import make_shard, sample_files, tar
from faults.harness import results, stamps
from faults.stories import STORIES

import sspruning

RUN = STORIES["run"].verb
ALWAYS = {"runs/whole/config.yaml", "runs/whole/digests.json"}  # the settings last used, and their digest
WEIGHTS = Path(sspruning.__file__).parent / "encoders" / "weights"


@pytest.fixture
def ready(ground):
    """A folder in which a whole run was done, with shards of its own beside it."""
    for index in range(3):
        make_shard(ground.root / "own" / f"s{index}.tar", range(6 * index, 6 * index + 5))
        os.utime(ground.root / "own" / f"s{index}.tar", (1e9, 1e9))
    return ground.fresh()


def run(nursery, folder, *more, code=0):
    done = nursery.run(*RUN, "--overwrite", "--set", "corpus.input=../own", *more, cwd=folder, shimmed=False)
    assert done.code == code, done.output
    return done.output


def changed(before, after):
    """Names of files that are new, gone or not as they were; those of shards by the folder that they lie in."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def parts_of(shard_id, files):
    return {name for name in files if f"/{shard_id}." in name and "/store/" in name}


def test_one_byte_of_one_caption_costs_one_part_and_what_comes_after(ready, nursery, ground):
    run(nursery, ready)
    before, digests = stamps(ready), results(ready)
    shard = ground.root / "own" / "s1.tar"
    files = [file for number in range(6, 11) for file in sample_files(number)]
    files[2] = (files[2][0], files[2][1].replace(b"picture", b"Picture"))
    shard.write_bytes(tar(files))
    output = run(nursery, ready)
    assert "1 of 3 shards need work: s1 (its content changed)" in output
    assert "embed: 5 samples" in output
    assert "prototypes are made again" in output
    after = stamps(ready)
    redone = changed(before, after)
    assert parts_of("s1", before) <= redone
    assert not (parts_of("s0", before) | parts_of("s2", before)) & redone
    assert len(parts_of("s1", after)) == 2
    again = results(ready)
    scratch = ground.fresh()
    run(nursery, scratch)
    assert results(scratch).items() <= again.items()
    assert digests != again


def test_one_lost_part_costs_itself_and_nothing_else(ready, nursery):
    run(nursery, ready)
    before = stamps(ready)
    digests = results(ready)
    part = next((ready / "runs" / "whole" / "store" / "parts").glob("s1.*.h5"))
    part.unlink()
    assert "1 of 3 shards need work: s1 (its part is missing or damaged)" in run(nursery, ready)
    assert changed(before, stamps(ready)) == {*parts_of("s1", before), "runs/whole/store/request.json"}
    assert results(ready) == digests


def some_slow(cases, *quick):
    """The cases as parameters, all but the quick ones marked as slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


# A setting, and the first of the stages that it concerns: all before it is left alone, to the last bit and minute.
SETTINGS = {
    "execution.workers=3": set(),
    "cluster.seed=1": {"prototypes", "assignment", "scores", "selection", "pruned"},
    "score.metric=prototype_margin": {"scores", "selection", "pruned"},
    "score.distance=euclidean": {"assignment", "scores", "selection", "pruned"},
    "select.keep_fraction=0.4": {"selection", "pruned"},
    "write.order=shuffled": {"pruned"},
    "write.index=[dino]": {"index"},
}


def stage_of(name):
    """The stage that makes a file."""
    for stage, part in {"parts": "/store/", "prototypes": "prototypes.h5", "assignment": "/assignment/"}.items():
        if part in name:
            return stage
    if name.startswith("pruned/"):
        return "pruned" if name.endswith(".tar") else "index"
    return "scores" if "/scores/" in name else "selection"


@pytest.mark.parametrize("setting", some_slow(SETTINGS, "cluster.seed=1", "write.index=[dino]"))
def test_one_setting_costs_what_depends_on_it_and_nothing_before(setting, ready, nursery):
    run(nursery, ready)
    before = stamps(ready)
    output = run(nursery, ready, "--set", setting)
    redone = {stage_of(name) for name in changed(before, stamps(ready)) - ALWAYS}
    wanted = SETTINGS[setting] | ({"index"} if "pruned" in SETTINGS[setting] else set())
    assert redone == wanted
    assert "nothing to do: every shard was up to date" in output
    assert ("prototypes are made again" in output) == ("prototypes" in wanted)


DECISIVE = {"encoder.image_size=16": "input_size", "corpus.max_pixels=9": "max_pixels", "encoder.batch_size=9": "batch"}


@pytest.mark.parametrize("setting", some_slow(DECISIVE, "encoder.image_size=16"))
def test_a_setting_that_every_part_depends_on_is_refused_by_name_and_changes_nothing(setting, ready, nursery):
    run(nursery, ready)
    before = stamps(ready)
    output = run(nursery, ready, "--set", setting, code=3)
    assert "this store was made with other settings" in output
    assert DECISIVE[setting] in output
    assert changed(before, stamps(ready)) <= ALWAYS | {"runs/whole/store/corpus.json"}


@pytest.mark.slow
def test_one_changed_weight_is_refused_by_its_digest_and_a_new_store_has_all_parts_anew(ready, nursery, ground):
    cards = []
    for name, flip in (("one", 0), ("other", 1)):
        shutil.copytree(WEIGHTS, ground.root / name, dirs_exist_ok=True)
        weights = ground.root / name / "shipped.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1001] ^= flip
        weights.write_bytes(content)
        card = json.loads((ground.root / name / "shipped.json").read_text())
        (ground.root / name / "shipped.json").write_text(json.dumps(card | {"sha256": sha256(content).hexdigest()}))
        cards.append(("--set", "encoder.name=card", "--set", f"encoder.checkpoint=../{name}/shipped.json"))
    run(nursery, ready, *cards[0])
    before = stamps(ready)
    output = run(nursery, ready, *cards[1], code=3)
    assert "this store was made with other settings" in output
    assert sha256((ground.root / "other" / "shipped.safetensors").read_bytes()).hexdigest() in output
    assert changed(before, stamps(ready)) <= ALWAYS
    output = run(nursery, ready, *cards[1], "--set", "paths.run_dir=runs/other")
    assert "embed: 15 samples" in output
