"""What a report counts, shows and says; the numbers are those of `select` and of plain counting."""

import json
import os
import re
import shlex
import shutil
import warnings
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile_corpus import hostile_corpus, quick

from sspruning import api
from sspruning.errors import StoreError, UsageError
from sspruning.progress import SilentProgress
from sspruning.records import Selection
from sspruning.stages import streamed
from sspruning.stages.place import Place
from sspruning.stages.report import gather, report
from sspruning.stages.report_numbers import choice_of, count_clusters, count_selection, make_stops
from sspruning.stages.sweep import compare_selections
from sspruning.storage.artifacts import SelectionFile, save_selection
from sspruning.storage.store import Store

FRACTIONS = (0.1, 0.35, 0.7, 0.99)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A run of a hostile corpus with a step, a written output, and selections at other fractions beside it."""
    root = tmp_path_factory.mktemp("chosen")
    hostile_corpus(root / "shards")
    config = quick("select.steps=[{dedup: {}}]", f"corpus.input={root / 'shards'}")
    api.embed(str(root / "shards"), root / "store", config=config)
    api.select(root / "store", keep_fractions=[0.1, 0.35, 0.97], config=config)
    api.select(root / "store", output=root / "pruned", config=config)
    return root


@pytest.fixture(scope="module")
def contents(chosen):
    """Contents of its report."""
    return gather(chosen / "store", Place.of(chosen / "store"), chosen / "pruned", SilentProgress())[0]


def columns(path, *names):
    file = SelectionFile.open(path)
    return [file.column(name) for name in names]


@pytest.mark.parametrize("fraction", [0.1, 0.35, 0.97])
def test_counts_at_other_fractions_are_those_of_select(chosen, contents, fraction):
    path = chosen / "store" / f"selection-{fraction:g}.parquet"
    score, cluster, kept = columns(path, "score", "centroid", "kept")
    counts, [row] = contents.counts, compare_selections([path])
    stop = int(np.flatnonzero(counts.stops.fractions == fraction)[0])

    assert counts.stops.counts[stop] == kept.sum()
    edges = counts.edges.copy()
    edges[-1] = np.inf
    assert counts.by_score[:, : stop + 1].sum(axis=1).tolist() == np.histogram(score[kept], edges)[0].tolist()
    assert counts.finely.sum(axis=0).tolist() == counts.by_score.sum(axis=0).tolist()
    by_cluster = np.bincount(cluster[kept], minlength=len(counts.by_cluster))
    assert counts.by_cluster[:, : stop + 1].sum(axis=1).tolist() == by_cluster.tolist()
    curves = contents.curves
    assert curves.balance[stop] == row.balance
    assert curves.tail_kept[stop] == pytest.approx(row.tail_kept)
    assert curves.mean_score[stop] == pytest.approx(row.mean_score)
    assert (curves.empty[stop], curves.fewest[stop]) == (row.empty_clusters, row.fewest)


def test_the_slider_stops_only_where_select_would_serve(chosen, contents):
    stops, n = contents.counts.stops, contents.ledger.n_embedded
    assert contents.choice.n_survivors == n - 2
    assert stops.counts.max() <= n - 2
    assert stops.fractions[stops.own] == 0.7
    config = quick("select.steps=[{dedup: {}}]", "select.keep_fraction=0.98")
    with pytest.raises(UsageError, match="are left"):
        api.select(chosen / "store", keep_fractions=[0.98], config=config)
    assert 0.98 not in stops.fractions


def test_a_fraction_between_two_per_cents_has_a_stop_of_its_own():
    settings = {"keep": "hard", "metric": "m", "keep_fraction": 1 / 3, "nested": True, "dropped": {}}
    choice = choice_of(Selection(n_embedded=9, n_kept=3, fingerprint="", settings=settings))
    stops = make_stops(choice, 9, 3)
    assert stops.fractions[stops.own] == 1 / 3
    assert stops.counts.tolist() == sorted(stops.counts.tolist())
    assert stops.counts[0] == 1  # less than half a sample would keep none, which select refuses


def test_the_ledger_adds_up_and_names_every_reason(chosen, contents):
    ledger = contents.ledger
    assert ledger.n_samples == 64
    assert dict(ledger.skipped) == {"no_image": 1, "not_an_image": 1}
    assert ledger.n_samples == ledger.n_embedded + sum(ledger.skipped.values())
    assert ledger.n_embedded == ledger.n_kept + sum(ledger.dropped.values())
    assert ledger.output.n_samples == ledger.n_kept
    [reason] = columns(chosen / "store" / "selection.parquet", "reason")
    plain = Counter(word.partition(":")[0] for word in reason.tolist() if word != "kept")
    assert dict(ledger.dropped) == plain
    assert list(ledger.dropped)[-1] == "pruned_easy"
    assert {one.reason for one in contents.skipped} == {"no_image", "not_an_image"}


def test_galleries_hold_the_extremes_and_both_sides_of_the_cut(chosen, contents):
    key, score, rank, kept = columns(chosen / "store" / "selection.parquet", "key", "score", "rank", "kept")
    shown = contents.galleries
    assert [p.score for p in shown.typical] == np.sort(score)[:24].tolist()
    assert [p.score for p in shown.unusual] == np.sort(score)[::-1][:24].tolist()
    n_kept = int(kept.sum())
    assert [p.rank for p in shown.last_kept] == list(range(n_kept - 1, n_kept - 25, -1))
    assert [p.rank for p in shown.first_dropped] == list(range(n_kept, min(n_kept + 24, len(rank))))
    assert [p.rank for p in shown.order] == list(range(len(rank)))
    by_key = dict(zip(key.tolist(), rank.tolist(), strict=True))
    assert all(by_key[p.key] == p.rank for p in shown.order)


def test_cluster_rows_run_from_the_prototype_outwards(chosen, contents):
    cluster, distance, kept = columns(chosen / "store" / "selection.parquet", "centroid", "cosine_dist_to_cent", "kept")
    assert sorted(row.cluster for row in contents.rows) == np.unique(cluster).tolist()
    for row in contents.rows:
        own = np.sort(distance[cluster == row.cluster])
        assert [p.distance for p in row.nearest] == own[:5].tolist()
        assert [p.distance for p in row.farthest] == own[5:][-5:].tolist()
        assert (row.members, row.kept) == (len(own), int(kept[cluster == row.cluster].sum()))
        assert {p.cluster for p in [*row.nearest, *row.cut, *row.farthest]} == {row.cluster}
        assert [p.rank for p in row.cut] == sorted(p.rank for p in row.cut)


def test_copies_stand_beside_the_image_that_stands_for_them(contents):
    [group] = contents.copies
    assert (group.n_copies, contents.n_copy_groups) == (2, 1)
    assert {p.reason for p in group.copies} == {f"duplicate_of:{group.stands.key}"}
    assert len({p.image for p in (group.stands, *group.copies)}) == 1


def test_captions_come_from_the_shard_as_plain_text(contents):
    captions = {p.key: p.caption for p in contents.galleries.order}
    assert "</li><b>bold</b> 4" in captions.values()
    assert any(text.startswith("<script>") for text in captions.values())
    assert captions["part.0/s2-0000"] == "caption of 2000"


def test_other_choices_are_those_of_plain_sorting(tmp_path, chosen):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    api.select(folder, config=quick("select.balance=1.0", "select.steps=[]"))
    found = gather(folder, Place.of(folder), None, SilentProgress())[0].alternatives
    score, kept = columns(folder / "selection.parquet", "score", "kept")
    count, replaced = int(kept.sum()), {one.name: one.replaced for one in found}

    def not_among(values):
        border = np.sort(values)[::-1][count - 1]
        return int((kept & (values < border)).sum())

    assert replaced["No cluster floor"] == not_among(score)
    assert replaced["Easiest instead"] == not_among(-score)
    assert replaced["Random instead"] == round(count * (1 - count / len(kept)))
    assert set(replaced) == {"No cluster floor", "Easiest instead", "Random instead", "Another score"}
    assert [one.replaced for one in found] == sorted(one.replaced for one in found)


def test_the_command_makes_the_same_selection_again(tmp_path, chosen, contents):
    from typer.testing import CliRunner

    from sspruning.cli import app

    folder = shutil.copytree(chosen / "store", tmp_path / "a store")
    before = SelectionFile.open(folder / "selection.parquet").selection.fingerprint
    found = gather(folder, Place.of(folder), None, SilentProgress())[0]
    words = found.command
    (folder / "selection.parquet").unlink()
    result = CliRunner().invoke(app, shlex.split(" ".join(words))[1:])
    assert result.exit_code == 0, result.output
    assert SelectionFile.open(folder / "selection.parquet").selection.fingerprint == before
    assert "--step" in words
    assert found.whole_command == ""
    (folder / "config.yaml").write_text(f"corpus: {{input: [x]}}\npaths: {{run_dir: '{folder}'}}\n")
    assert gather(folder, Place.of(folder), None, SilentProgress())[0].whole_command.startswith("sspruning run '")


class Text(HTMLParser):
    """Text and tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags = [], Counter()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_file_is_one_inert_page_and_the_same_again_but_for_times(chosen, tmp_path):
    first = report(chosen / "store", tmp_path / "1.html", pruned=chosen / "pruned")
    report(chosen / "store", tmp_path / "2.html", pruned=chosen / "pruned")
    pages = [(tmp_path / name).read_text() for name in ("1.html", "2.html")]
    apart = [re.sub("<!-- times -->.*<!-- /times -->", "", page, flags=re.DOTALL) for page in pages]
    assert apart[0] == apart[1]
    assert (first.size, first.notes) == (len(pages[0].encode()), [])
    assert sum(int(line.split()[-4]) for line in first.bars) == 43
    assert Text(pages[0]).tags["script"] == 2
    assert "\u202e" not in pages[0]
    assert "\\u202e" in pages[0]


def test_a_page_that_stands_is_left_alone_and_a_stale_one_is_not(chosen, tmp_path):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    path = report(folder).path
    os.utime(path, ns=(1, 1))
    assert report(folder).path.stat().st_mtime_ns == 1
    path.write_bytes(b"\xff" + path.read_bytes())
    assert report(folder).path.read_bytes().startswith(b"<!doctype html>")
    assert report(folder / "selection-0.1.parquet").path.name == "report-0.1.html"


def test_shards_that_are_pending_are_told_of(chosen, tmp_path):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    (folder / "selection.parquet").unlink()
    (folder / "parts" / "second.json").unlink()
    assert report(folder).notes == ["1 shard not embedded yet, so not in this report."]


def test_a_shard_that_changed_or_is_gone_leaves_a_placeholder_and_a_note(chosen, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(chosen, root)
    store = Store(root / "store")
    refs = json.loads((store.path / "corpus.json").read_text())
    second = root / "shards" / "second.tar"
    for ref in refs:
        ref["path"] = str(second) if ref["shard_id"] == "second" else str(tmp_path / "gone.tar")
    (store.path / "corpus.json").write_text(json.dumps(refs))
    data = bytearray(second.read_bytes())
    data[512:100_000] = bytes(len(data[512:100_000]))
    second.write_bytes(data)
    found = report(store.path, tmp_path / "out.html")
    assert any("gone" in note for note in found.notes)
    assert any("changed" in note for note in found.notes)
    assert 'class="gone"' in (tmp_path / "out.html").read_text()


def test_a_pipe_in_place_of_a_shard_does_not_block(chosen, tmp_path):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    os.mkfifo(tmp_path / "pipe")
    refs = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps([{**ref, "path": str(tmp_path / "pipe")} for ref in refs]))
    assert report(folder).n_pictures == 0


def test_one_sample_and_none_make_a_page_too(tmp_path):
    from hostile_corpus import SMALL

    SMALL.shard(tmp_path / "one" / "a.tar", SMALL.samples(0, 1))
    config = quick("cluster.n_clusters=1", "select.keep_fraction=1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        api.embed(str(tmp_path / "one"), tmp_path / "store", config=config)
        api.select(tmp_path / "store", config=config)
    assert report(tmp_path / "store").n_pictures == 1
    assert ">1</span> of 1 image kept" in (tmp_path / "store" / "report.html").read_text()

    SMALL.shard(tmp_path / "none" / "a.tar", {"bad": {"jpg": b"no"}})
    api.embed(str(tmp_path / "none"), tmp_path / "empty", config=config)
    report(tmp_path / "empty")
    assert "nothing selected yet" in (tmp_path / "empty" / "report.html").read_text()
    settings = {"content": Store(tmp_path / "empty").content_fingerprint(), "keep": "hard", "keep_fraction": 0.5}
    path = tmp_path / "empty" / "selection.parquet"
    save_selection(path, [], Selection(n_embedded=0, n_kept=0, fingerprint="f", settings=settings))
    report(path)
    assert "No images to choose from" in (tmp_path / "empty" / "report.html").read_text()


def test_a_selection_that_is_not_nested_has_one_stop(chosen, tmp_path):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    api.select(folder, config=quick("select.keep=coverage", "select.steps=[]"))
    file = SelectionFile.open(folder / "selection.parquet")
    found = count_selection(file, choice_of(file.selection), count_clusters(file), SilentTicker())
    assert found.counts.stops.fractions.tolist() == [0.7]
    assert "selected anew" in report(folder).path.read_text()


def test_a_selection_without_ranks_shows_all_but_the_order_and_the_cut(chosen, tmp_path, monkeypatch):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    api.select(folder, config=quick("select.steps=[]"))
    ranked = gather(folder, Place.of(folder), None, SilentProgress())[0]
    monkeypatch.setattr(streamed, "STREAM_ABOVE", 0)
    api.select(folder, keep_fractions=[0.7], config=quick("select.steps=[]"))
    path = folder / "selection-0.7.parquet"
    found = gather(path, Place.of(path), None, SilentProgress())[0]
    page = report(path).path.read_text()

    assert found.counts.stops.fractions.tolist() == [0.7]
    assert found.counts.kept().tolist() == ranked.counts.kept().tolist()
    assert found.ledger.dropped == ranked.ledger.dropped
    assert [one.key for one in found.galleries.unusual] == [one.key for one in ranked.galleries.unusual]
    assert {one.key: one.kept for one in found.galleries.typical} == {
        one.key: one.kept for one in ranked.galleries.typical
    }
    assert found.galleries.order == found.galleries.last_kept == found.galleries.first_dropped == []
    assert [row.cut for row in found.rows] == [[] for _ in ranked.rows]
    assert "chosen without ranks" in page
    assert "Order of keeping" not in page
    assert 'href="#cut"' not in page
    assert api.sweep(folder, [0.7], config=quick("select.steps=[]"))[0].n_kept == found.ledger.n_kept


class SilentTicker:
    def tick(self, count=1):
        """Tell nobody."""


def test_what_does_not_belong_together_is_refused(chosen, tmp_path):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    with pytest.raises(UsageError, match="is a folder"):
        report(folder, tmp_path)
    with pytest.raises(StoreError, match="no finished pruned shards"):
        report(folder, pruned=tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        report(tmp_path / "nothing")
    with pytest.raises(StoreError, match="no store here"):
        report(chosen / "shards")
    api.select(folder, config=quick("select.keep_fraction=0.5"))
    with pytest.raises(StoreError, match="another selection"):
        report(folder, pruned=chosen / "pruned")
    hostile_corpus(tmp_path / "more", count=24)
    api.embed(str(tmp_path / "more"), folder, config=quick())
    with pytest.raises(StoreError, match="not made from the store"):
        report(folder)


def test_a_map_is_drawn_of_the_selections_own_prototypes_only(chosen, tmp_path, contents):
    assert len(contents.clusters) == 4
    assert 0 < contents.map_share <= 1
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    api.cluster(folder, config=quick("cluster.seed=7", "cluster.init=random"))
    found = gather(folder, Place.of(folder), None, SilentProgress())[0]
    assert found.clusters == []
    assert len(found.rows) == 4


def test_the_time_of_each_stage_is_that_of_its_last_run(chosen, tmp_path):
    folder = shutil.copytree(chosen / "store", tmp_path / "store")
    events = [
        {"event": "start", "stage": "embed", "unit": "samples"},
        {"event": "end", "stage": "embed", "done": 5, "seconds": 1.0},
        {"event": "end", "stage": "embed", "done": 64, "seconds": 2.0, "peak_bytes": 1000},
        {"event": "interrupted", "stage": "select", "done": 1, "seconds": 1.0},
        {"event": "end", "stage": "<b>", "done": "many", "seconds": 1.0},
    ]
    lines = [json.dumps(event) for event in events]
    (folder / "logs" / "events.jsonl").write_text("\n".join([*lines, "no json", "[]"]) + "\n")
    stages = gather(folder, Place.of(folder), None, SilentProgress())[0].stages
    assert [(one.stage, one.done, one.unit, one.seconds, one.memory) for one in stages] == [
        ("embed", 64, "samples", 2.0, 1000)
    ]
