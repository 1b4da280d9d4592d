"""The command line: help, forms, exit codes, messages, and what it leaves on disk."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from sspruning.cli import app

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "e2e" / "small_corpora.py")))
COMMAND = typer.main.get_command(app)
VERBS = sorted(COMMAND.commands)
EMBED = ("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SMALL.CONFIG)
    return tmp_path


@pytest.fixture
def corpus(work):
    return SMALL.corpus(work / "shards")


@pytest.fixture
def call():
    """Return ``call(*args)``: the command line in this process; no exception may come out of it."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*args, code=0):
        result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "160"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert "Traceback (most recent" not in result.output
        return result

    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_verbs_are_the_ones_of_the_design():
    assert {
        "inspect", "pack", "embed", "cluster", "score", "advise", "select", "write", "run", "verify", "status", "demo"
    } <= set(VERBS)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_and_explains_every_parameter(verb, call):
    command = COMMAND.commands[verb]
    assert command.help
    text = call(verb, "--help").stdout
    for parameter in command.params:
        assert parameter.help, f"{verb}: {parameter.name}"
        assert all(name in text for name in parameter.opts if name.startswith("--")), f"{verb}: {parameter.name}"


def test_the_general_help_lists_every_verb_and_the_exit_codes(call):
    text = call("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert "2 usage" in text


def test_help_loads_no_heavy_library():
    code = (
        "import sys\nfrom sspruning.cli import main\nsys.argv = ['sspruning', 'embed', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'faiss', 'timm', 'h5py', 'pyarrow', 'numpy', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=SMALL.environment(), capture_output=True, text=True, check=True
    )
    assert found.stderr.strip() == "[]"


def test_the_version_is_printed(call):
    import sspruning

    assert call("--version").stdout.strip() == f"sspruning {sspruning.__version__}"


def test_the_forms_of_the_interface_work_one_after_the_other(work, corpus, call):
    images = work / "images"
    for key, members in list(SMALL.samples(9, 6).items()):
        target = images / f"{key}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(next(iter(members.values())))
    assert "60 samples in 3 shards" in call("inspect", "shards/train-000000.tar", "shards/train-00000[12].tar").stdout
    assert "6 samples" in call("pack", "images", "-o", "packed").stdout
    assert "60 of 60" in call(*EMBED, "--workers", "2").stdout
    assert "5 prototypes" in call("cluster", "store", "--n-clusters", "5").stdout
    assert "60 samples scored" in call("score", "store", "--metric", "prototype_distance").stdout
    chosen = call("select", "store", "--keep", "hard", "--keep-fraction", "0.7").stdout
    assert "kept 42 of 60" in chosen
    assert "sspruning write" in chosen
    assert "42 samples in 1 shards" in call("write", "store/selection.parquet", "--output", "pruned/").stdout
    assert "pruned: verified" in call("verify", "pruned/").stdout
    assert "3 of 3 shards embedded" in call("status", "store").stdout
    again = call("select", "store", "--keep", "hard", "--keep-fraction", "0.7", "--output", "pruned/").stdout
    assert "42 samples in 1 shards" in again
    forms = ("--set", "corpus.input='shards/train-*.tar'", "--set", "select.keep_fraction=0.7", "--workers", "2")
    call("run", "tiny.yaml", *forms, "--overwrite")
    assert (work / "runs" / "tiny" / "selection.parquet").exists()
    assert "42 samples equal" in call("verify", "pruned").stdout


def test_outside_scores_stick_with_their_column_until_another_table_or_metric_is_named(work, corpus, call):
    call("-q", *EMBED)
    keys, place = np.array(list(corpus)), np.arange(60.0)
    np.savez(work / "one.npz", key=keys, el2n=place)
    np.savez(work / "two.npz", key=keys, score=-1 - place)
    assert "60 samples scored by imported" in call("score", "store", "--import", "one.npz", "--column", "el2n").stdout
    assert "max 59.0000" in call("score", "store").stdout
    assert "hard by imported" in call("select", "store", "--keep-fraction", "0.7").stdout
    assert "max -1.0000" in call("score", "store", "--import", "two.npz").stdout
    assert (
        "random by prototype_margin"
        in call("select", "store", "--metric", "prototype_margin", "--keep", "random").stdout
    )
    (work / "two.npz").unlink()
    assert "two.npz: no such file" in call("select", "store", "--metric", "imported", code=2).stderr


def test_advice_is_a_command_to_run_with_numbered_reasons(work, corpus, call):
    call("-q", *EMBED, "--set", "cluster.n_clusters=1")
    said = call("advise", "store").stdout.splitlines()
    assert said[0] == "sspruning select store --keep random --keep-fraction 0.9"
    assert [line.split(". ")[0].strip() for line in said[1:]] == ["1", "2", "3", "4"]
    assert "kept 54 of 60 samples (90.0%): random by" in call(*said[0].split()[1:]).stdout
    assert "--keep random --keep-fraction 0.3" in call("advise", "store", "--keep-fraction", "0.3").stdout
    call("-q", "cluster", "store", "--n-clusters", "30")
    assert call("-q", "advise", "store").stderr.startswith("warning: Only 2.0 samples for each of 30 prototypes")


def test_auto_selects_and_says_what_it_took_and_why(work, corpus, call):
    call("-q", *EMBED)
    found = call("select", "store", "--keep", "auto", "--keep-fraction", "0.4")
    assert "kept 24 of 60 samples (40.0%): random (asked for: auto) by" in found.stdout
    assert "keep auto: random" in found.stderr
    assert "arXiv:2210.15809" in found.stderr


def test_patterns_lists_and_several_inputs_name_the_same_corpus(work, corpus, call):
    (work / "list.txt").write_text("shards/train-000000.tar\n# a comment\nshards/train-000001.tar\n")
    for inputs in (
        ["shards"],
        ["shards/*.tar"],
        ["shards/train-{000000..000002}.tar"],
        ["shards/train-000000.tar::shards/train-000001.tar", "shards/train-000002.tar"],
        ["@list.txt", "shards/train-000002.tar"],
    ):
        assert "60 samples in 3 shards" in call("inspect", *inputs).stdout


def test_a_dry_run_prints_counts_bytes_and_time_and_changes_nothing(work, corpus, call):
    before = sorted(work.rglob("*"))
    whole = call("run", "tiny.yaml", "--dry-run").stdout
    said = (
        "3 shards",
        "60",
        "KB",
        "time: about",
        "to keep: 42 samples (70.0%)",
        " in 3 shards in ",
        "nothing was done",
    )
    for expected in said:
        assert expected in whole
    embed = call(*EMBED, "--dry-run").stdout
    for expected in ("to embed: 3 shards", "KB", "time: about", "nothing was done"):
        assert expected in embed
    assert sorted(work.rglob("*")) == before
    call("run", "tiny.yaml")
    stamps = SMALL.stamps(work)
    assert "to embed: 0 shards" in call("run", "tiny.yaml", "--dry-run").stdout
    assert SMALL.stamps(work) == stamps


def test_a_dry_run_shows_damage_and_refuses_what_the_run_would_refuse(work, corpus, call):
    SMALL.cut(work / "shards" / "train-000001.tar", 5000)
    assert "DAMAGED" in call("run", "tiny.yaml", "--dry-run").stdout
    call("run", "tiny.yaml", "--dry-run", "--set", "cluster.n_clusters=1000", code=2)


def test_overrides_win_over_the_file(work, corpus, call):
    text = call("run", "tiny.yaml", "--set", "select.keep_fraction=0.5", "--set", "name=other").stdout
    assert "kept 30 of 60" in text
    assert (work / "runs" / "other" / "store").is_dir()
    assert "kept 45 of 60" in call("select", "runs/other", "--set", "select.keep_fraction=0.75").stdout


def test_quiet_says_nothing_but_warnings_and_errors(work, corpus, call):
    result = call("-q", "run", "tiny.yaml")
    assert (result.stdout, result.stderr) == ("", "")
    result = call("--quiet", "select", "runs/tiny", "--keep-fraction", "0.2")
    assert result.stdout == ""
    assert result.stderr.startswith("warning")
    assert (
        "ask for fewer"
        in call("-q", "run", "tiny.yaml", "--set", "cluster.n_clusters=99", "--set", "name=x", code=2).stderr
    )


def test_verbose_shows_the_traceback_of_an_error(work):
    result = CliRunner().invoke(app, ["-v", "status", "nowhere"])
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "sspruning: nowhere: no store here" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "missing.yaml"), "missing.yaml"),
        (("run", "tiny.yaml", "--set", "select.keep_fraction"), "expected section.key=value"),
        (("run", "tiny.yaml", "--set", "select=3"), "select"),
        (("inspect", "nowhere/*.tar"), "no file matches"),
        (("inspect", "tiny.yaml"), "does not end in .tar"),
        (("inspect", "shards", "shards/train-000000.tar"), "named twice"),
        (("embed", "shards", "--store", "s", "--encoder", "pixls"), "pixels"),
        (("embed", "shards", "--store", "s", "--device", "tpu"), "device"),
        (("embed", "shards", "--store", "s", "--workers", "0"), "workers"),
        (("select", "store", "--keep-fraction", "1.5"), "keep_fraction"),
        (("select", "store", "--keep", "most"), "hard"),
        (("cluster", "store", "--n-clusters", "61"), "61"),
        (("score", "store", "--metric", "magic"), "prototype_distance"),
        (("score", "store", "--metric", "imported"), "--import FILE"),
        (("score", "store", "--import", "tiny.yaml"), "neither parquet nor npz"),
        (("score", "store", "--import", "tiny.yaml", "--metric", "random"), "belong to imported scores"),
        (("score", "store", "--column", "el2n"), "belong to imported scores"),
        (("advise", "store", "--keep-fraction", "1.5"), "keep_fraction"),
        (("write", "store", "--output", "p", "--order", "random"), "order"),
        (("verify", "shards"), "neither pruned shards nor a store"),
        (("demo", "--dataset", "imagenet"), "digits"),
        (("embed", "shards"), "--store"),
        (("prune",), "No such command"),
        (("inspect", "--recursive", "shards"), "No such option"),
    ],
)
def test_mistakes_of_the_user_end_with_2_and_say_what_is_wrong(args, said, work, corpus, call):
    call("-q", *EMBED)
    result = call(*args, code=2)
    assert said in result.stderr
    assert not (work / "s" / "store.json").exists()


def test_bad_data_end_with_3(work, corpus, call):
    call("-q", *EMBED)
    assert "no selection here" in call("write", "store", "--output", "pruned", code=3).stderr
    assert "no store here" in call("select", "elsewhere", code=3).stderr
    (work / "shards" / "train-000001.tar").write_bytes(b"not a tar")
    assert "train-000001.tar" in call("inspect", "shards", code=3).stderr + call("inspect", "shards", code=3).stdout
    assert "train-000001: at byte 0" in call(*EMBED, code=3).stderr
    assert "train-000001" in call("status", "store", code=3).stderr
    call("select", "store", "--output", "pruned", "--executor", "inline")
    SMALL.flip(work / "pruned" / "shard-000000.tar", 700)
    assert "shard-000000.tar" in call("verify", "pruned", code=3).stderr


def test_unfinished_work_ends_with_4(work, corpus, call):
    call("-q", *EMBED)
    (work / "store" / "parts" / "train-000001.json").unlink()
    assert "train-000001" in call("status", "store", code=4).stderr


@pytest.mark.skipif(os.name != "posix", reason="limits are a matter of POSIX")
def test_a_full_disk_ends_with_5_and_leaves_no_half_file(work, corpus, call):
    import resource

    limited = subprocess.run(
        SMALL.command(*EMBED),
        env=SMALL.environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    assert limited.returncode == 5, limited.stderr
    assert "no space left" in limited.stderr
    assert "run the same command again" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert SMALL.temporaries(work) == []
    assert not list((work / "store" / "parts").iterdir())
    call(*EMBED)
    call("verify", "store")


def test_memory_that_runs_out_ends_with_5(work, corpus, call, monkeypatch):
    from sspruning.stages import run

    def greedy(*_, **__):
        raise MemoryError

    monkeypatch.setattr(run, "up_to_parts", greedy)
    assert "out of memory" in call(*EMBED, code=5).stderr


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused_before_work_starts(folder, work, corpus, call):
    (work / "file").write_text("something else")
    embed = ("embed", "shards", "--store", folder, "--encoder", "pixels", "--executor", "inline")
    assert "file: a file stands there" in call(*embed, code=2).stderr
    assert "file: a file stands there" in call("run", "tiny.yaml", "--set", f"paths.run_dir={folder}", code=2).stderr
    assert (work / "file").read_text() == "something else"
    assert sorted(path.name for path in work.iterdir()) == ["file", "shards", "tiny.yaml"]


def test_every_event_of_a_run_is_one_line_of_json(work, corpus, call):
    call("-q", "run", "tiny.yaml")
    events = [json.loads(line) for line in (work / "runs" / "tiny" / "events.jsonl").read_text().splitlines()]
    ended = [event["stage"] for event in events if event["event"] == "end"]
    assert ended == ["inspect", "embed", "sample", "cluster", "assign", "select", "write", "count", "pictures"]
    assert all(event["peak_bytes"] > 1 << 20 for event in events if event["event"] == "end")


def test_every_verb_that_reports_does_so_in_json(work, corpus, call):
    call("-q", "run", "tiny.yaml")
    key = pq.read_table(work / "runs" / "tiny" / "selection.parquet").column("key")[0].as_py()
    for kind, *words in [
        ("inspection", "inspect", "shards"),
        ("status", "status", "runs/tiny"),
        ("verified", "verify", "pruned"),
        ("advice", "advise", "runs/tiny"),
        ("sweep", "sweep", "runs/tiny", "--keep-fraction", "0.9,0.5"),
        ("sample", "show", "runs/tiny", key),
        ("report", "report", "runs/tiny"),
        ("trainers", "check-trainer", "pruned", "--webdataset"),
        ("exported", "export", "runs/tiny", "--to", "keys", "-o", "keys.txt"),
    ]:
        lines = call(*words, "--json").stdout.splitlines()
        assert [json.loads(line)["kind"] for line in lines] == [kind]
    assert json.loads(call("status", "runs/tiny", "--json").stdout)["n_embedded"] > 0
    assert [json.loads(line)["kind"] for line in call("run", "tiny.yaml", "--json").stdout.splitlines()] == [
        "embedded", "selected", "written", "report"
    ]  # fmt: skip


def test_the_module_runs_as_a_command(work):
    found = SMALL.cli("--version", cwd=work)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer by signal")
def test_a_stop_that_hangs_is_cut_off():
    code = (
        "import time\nfrom sspruning import stopping, terminal\nstopping.STOP_WITHIN_S = 0.5\n"
        "@terminal.verb\ndef hang():\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n    finally:\n        time.sleep(60)\n"
        "hang()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=SMALL.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "run the same command again" in said
