"""The chain: where artefacts lie, what is made again and what is not, and the plan before the work."""

import socket
import subprocess
import sys

import pytest

from sspruning import api
from sspruning.config import Config, load_config
from sspruning.errors import UsageError
from sspruning.fingerprint import fingerprint
from sspruning.progress import SilentProgress
from sspruning.stages import run as chain
from sspruning.stages.current_prototypes import up_to_prototypes
from sspruning.stages.run import prune, up_to_selections
from sspruning.stages.workspace import Workspace


def test_a_run_leaves_its_artefacts_in_one_folder(configured, tmp_path):
    result = prune(configured())
    assert (result.embedded.n_embedded, result.selection.n_kept, result.manifest.n_kept) == (60, 42, 42)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml",
        "digests.json",
        "store",
        "prototypes.h5",
        "scores",
        "selection.parquet",
    }
    assert load_config(tmp_path / "run" / "config.yaml") == configured()


def test_only_what_depends_on_a_setting_is_made_again(configured, tmp_path, small):
    prune(configured())
    before = small.stamps(tmp_path / "run", but=["config.yaml"])
    prune(configured("select.keep_fraction=0.5"), overwrite=True)
    after = small.stamps(tmp_path / "run", but=["config.yaml"])
    changed = {path.rsplit("/", 1)[1] for path in after if after[path] != before.get(path)}
    assert changed == {"selection.parquet", "digests.json"}
    prune(configured("select.keep_fraction=0.5", "cluster.seed=7"), overwrite=True)
    last = small.stamps(tmp_path / "run" / "store")
    assert last == {path: after[path] for path in last}


def test_damaged_artefacts_are_made_again(configured, tmp_path, small):
    prune(configured())
    expected = {
        name: digest
        for name, digest in small.digests(tmp_path / "run", tmp_path / "pruned").items()
        if not name.endswith("config.yaml")
    }
    for name in ("prototypes.h5", "selection.parquet"):
        (tmp_path / "run" / name).write_bytes(b"damaged")
    prune(configured())
    found = small.digests(tmp_path / "run", tmp_path / "pruned")
    assert {name: found[name] for name in expected} == expected


def test_a_run_folder_and_its_store_are_the_same_workspace(configured, tmp_path):
    prune(configured())
    run = Workspace(tmp_path / "run", tmp_path / "run" / "store")
    assert Workspace.of(tmp_path / "run") == run
    assert Workspace.of(tmp_path / "run" / "store") == run


def test_a_config_yaml_beside_a_store_is_the_users_own(store, tmp_path, settings):
    own = tmp_path / "config.yaml"
    own.write_text("# not written by sspruning\nencoder: {name: pixels}\n")
    before = own.read_bytes()
    api.select(store.path, config=settings())
    assert own.read_bytes() == before
    assert (store.path / "selection.parquet").exists()


def test_a_store_alone_is_its_own_workspace(store):
    assert Workspace.of(store.path) == Workspace(store.path, store.path)


@pytest.mark.parametrize(
    "bad", ["cluster.n_clusters=61", "select.keep_fraction=0.001", "corpus.image_key=tiff", "corpus.input=[]"]
)
def test_requests_that_cannot_be_served_leave_no_folder(bad, configured, tmp_path):
    with pytest.raises(UsageError):
        prune(configured(bad))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "pruned").exists()


def test_settings_stick_to_a_store(store, settings):
    workspace = Workspace.of(store.path)
    assert workspace.load_config().encoder.name == "pixels"
    workspace.save_config(Config())
    before = workspace.config.stat().st_mtime_ns
    workspace.save_config(Config())
    assert workspace.config.stat().st_mtime_ns == before
    assert workspace.load_config(["cluster.n_clusters=9"]).cluster.n_clusters == 9


@pytest.mark.parametrize("lost", ["selection.parquet", "scores/prototype_distance*/train-000000.npy"])
def test_what_a_killed_run_left_unfinished_is_swept_by_the_next_one(lost, configured, tmp_path, small):
    prune(configured())
    (target,) = (tmp_path / "run").glob(lost)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host = socket.gethostname().replace(".", "-")
    target.rename(target.with_name(f".{target.name}.tmp.{host}.{int(dead.stdout)}.0123abcd"))
    prune(configured())
    assert target.exists()
    assert small.temporaries(tmp_path) == []


def test_prototypes_are_made_once_unless_forced(store, settings, small, inline):
    workspace = Workspace.of(store.path)
    first = up_to_prototypes(workspace, settings(), inline, SilentProgress())
    stamp = workspace.prototypes.stat().st_mtime_ns
    again = up_to_prototypes(workspace, settings(), inline, SilentProgress())
    assert again.fingerprint == first.fingerprint
    assert workspace.prototypes.stat().st_mtime_ns == stamp
    forced = up_to_prototypes(workspace, settings(), inline, SilentProgress(), force=True)
    assert workspace.prototypes.stat().st_mtime_ns > stamp
    assert forced.centroids.tobytes() == first.centroids.tobytes()


EVERYTHING = ("cluster.full_rounds=3", "cluster.points_per_centroid=4")


def test_a_clustering_over_everything_that_was_killed_goes_on_and_leaves_nothing(store, settings, inline, monkeypatch):
    workspace, config = Workspace.of(store.path), settings(*EVERYTHING)
    clean = up_to_prototypes(workspace, config, inline, SilentProgress())
    assert clean.info["full_rounds"]["rounds"] >= 2
    assert not workspace.rounds.exists()
    workspace.prototypes.unlink()

    class Killed(type(inline)):
        left = 1

        def run(self, spec, tasks):
            for outcome in super().run(spec, tasks):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                yield outcome

    with pytest.raises(KeyboardInterrupt):
        up_to_prototypes(workspace, config, Killed(), SilentProgress())
    assert workspace.rounds.exists()
    monkeypatch.setattr(chain, "cluster", None)  # the sample is not clustered again
    found = up_to_prototypes(workspace, config, inline, SilentProgress())
    assert found.centroids.tobytes() == clean.centroids.tobytes()
    assert found.info == clean.info
    assert not workspace.rounds.exists()


def test_rounds_that_nobody_needs_any_more_are_swept(store, settings, inline):
    workspace = Workspace.of(store.path)
    up_to_prototypes(workspace, settings(), inline, SilentProgress())
    workspace.rounds.mkdir()
    (workspace.rounds / f"{'0' * 16}.0001.h5").write_bytes(b"left behind")
    up_to_prototypes(workspace, settings(), inline, SilentProgress())
    assert not workspace.rounds.exists()


def test_other_full_rounds_are_other_prototypes_but_none_are_what_they_were(store, settings, inline):
    workspace = Workspace.of(store.path)
    found = {
        n: up_to_prototypes(workspace, settings(f"cluster.full_rounds={n}"), inline, SilentProgress()) for n in (0, 2)
    }
    assert found[0].fingerprint != found[2].fingerprint
    assert "full_rounds" not in found[0].info
    before = settings().cluster.model_dump(mode="json", exclude={"reuse", "full_rounds"})
    assert found[0].info["settings"] == fingerprint(before)


def test_a_warning_for_keeping_few_hard_samples_is_given(store, settings, inline):
    class Listening(SilentProgress):
        said = ()

        def note(self, text):
            self.said = (*self.said, text)

    progress = Listening()
    up_to_selections(Workspace.of(store.path), settings("select.keep_fraction=0.3"), inline, progress)
    assert any(note.startswith("warning") and "random" in note for note in progress.said)
    progress = Listening()
    up_to_selections(Workspace.of(store.path), settings("select.keep_fraction=0.6"), inline, progress)
    assert progress.said == ()


def test_embedding_and_selecting_by_hand_gives_the_shards_of_a_run(configured, tmp_path, small):
    prune(configured())
    config = configured()
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=config)
    api.select(tmp_path / "store", output=tmp_path / "by-hand", config=config)
    tars = [path.name for path in sorted((tmp_path / "pruned").glob("*.tar"))]
    for name in tars:
        assert (tmp_path / "by-hand" / name).read_bytes() == (tmp_path / "pruned" / name).read_bytes()


def test_a_persons_own_config_in_the_run_folder_is_never_written_over(configured, tmp_path):
    own = tmp_path / "run" / "config.yaml"
    own.parent.mkdir()
    own.write_text("name: mine  # with a remark\n")
    with pytest.raises(UsageError, match="not written by sspruning"):
        prune(configured())
    assert own.read_text() == "name: mine  # with a remark\n"
