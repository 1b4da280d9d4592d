"""What a kill cannot show: files reach the disk before they get their names, and folders after."""

import pytest
from faults.stories import EXPORTED_FOLDERS, STORIES

QUICK = ["embed a corpus that changed", "write for all trainers"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in STORIES if name not in QUICK]
SYNCED = [*QUICK, *(case for case in SLOW if case.values[0] not in EXPORTED_FOLDERS)]
PAST_THE_PROTOCOL = {
    "events.jsonl",  # a log, of which a line may be lost
    "plan.*.npy",  # scratch of one process, gone at its end
    ".file.tmp.*",  # export folder: many small copies, made again if their size is wrong
}


def name_of(path):
    """Base name of a file, with the varying part of temporary ones left out."""
    base = path.rpartition("/")[2]
    return next((form for form in PAST_THE_PROTOCOL if base.startswith(form.split("*")[0])), base)


@pytest.mark.parametrize("name", SYNCED)
def test_files_are_synced_before_they_get_their_names_and_folders_after(name, ground):
    calls = [tuple(call) for call in ground.clean(name).calls]
    named = [at for at, (call, _, _) in enumerate(calls) if call in {"replace", "link"}]
    assert named
    for at in named:
        _, source, target = calls[at]
        earlier, later = calls[:at], calls[at + 1 :]
        if not any(call == "replace" and to == source for call, _, to in earlier):  # else synced under that name
            written = [name for name, path, _ in earlier if path == source]
            assert written[0] == "open", source
            assert written[-2:] == ["fsync", "close"], f"{source}: {written}"
        if not any(call == "replace" and path == target for call, path, _ in later):
            folder = target.rpartition("/")[0]
            until = next((i for i, (call, _, _) in enumerate(later) if call in {"replace", "link"}), len(later))
            assert ("fsync", folder, None) in later[:until], f"{target}: the folder is not synced before the next file"


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_no_file_comes_about_in_another_way(name, ground):
    clean = ground.clean(name)
    assert {name_of(path) for path in clean.elsewhere if not path.endswith("/store")} <= PAST_THE_PROTOCOL
    named = {target for call, _, target in clean.calls if call in {"replace", "link"}}
    new = {path for path, kind in clean.new.items() if not kind.startswith("mode") and clean.old.get(path) != kind}
    moved = {path for path in new if not any(target.endswith(f"/{path}") for target in named)}
    assert {name_of(path) for path in moved} <= {"events.jsonl"} or name.startswith("export")


def test_what_makes_a_file_count_is_written_after_it(ground):
    clean = ground.clean("run")
    targets = [target.partition("/trial/")[2] for call, _, target in clean.calls if call == "replace"]
    at = {name: number for number, name in enumerate(targets)}
    records = {
        name: f"runs/whole/store/parts/{name.rpartition('/')[2].split('.')[0]}.json"
        for name in at
        if name.endswith(".h5") and "/parts/" in name
    }
    records |= {name: f"pruned/.sspruning/shards/{name[7:]}.json" for name in at if name.endswith(".tar")}
    assert len(records) == 4
    assert all(at[name] < at[record] for name, record in records.items())
    assert max(at[name] for name in at if name.startswith("pruned/")) == at["pruned/.sspruning/manifest.json"]
