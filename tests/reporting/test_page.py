"""The page: one inert file. What is not there leaves no trace, what is hostile stays text."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from sspruning.reporting.contents import (
    Alternative,
    Choice,
    ClusterRow,
    Contents,
    CopyGroup,
    Counts,
    Curves,
    Galleries,
    Ledger,
    MapCluster,
    OutputFacts,
    Picture,
    SkippedSample,
    StageTime,
    Stops,
)
from sspruning.reporting.page import json_text, render

EVIL = "\"><img src=x onerror=alert(1)></script><script>alert(2)</script><!-- {{ 7*7 }} \u202e ' &lt;"


def picture(rank, text="key", **more):
    given = {"shard": text, "row": 1, "score": 0.5, "distance": 0.5, "cluster": 0, "reason": "kept", "kept": rank < 7}
    return Picture(key=f"{text}{rank}", rank=rank, image="data:image/jpeg;base64,AAAA", **{**given, **more})


def ledger(text="", **more):
    given = {"n_shards": 2, "n_samples": 12, "n_embedded": 10, "skipped": {"no_image" + text: 2}, "quarantined": {}}
    return Ledger(**{**given, **more})


def whole(text="", *, nested=True):
    """Contents with everything that a report can have; ``text`` wherever people's text can stand."""
    shown = [picture(rank, text or "key", caption=text, note=text, reason=f"duplicate_of:{text}") for rank in range(10)]
    stops = Stops(fractions=np.array([0.5, 0.7, 0.9]), counts=np.array([5, 7, 9]), own=1)
    if not nested:
        stops = Stops(fractions=np.array([0.7]), counts=np.array([7]), own=0)
    s = len(stops.counts)
    by_score = np.zeros((4, s + 1), np.int64)
    by_score[:, 0], by_score[0, s] = [0, 2, 2, 3], 3
    by_cluster = np.array([[4] + [0] * (s - 1) + [2], [2] + [0] * (s - 1) + [1], [1] + [0] * s])
    ones = np.ones(s)
    return Contents(
        name=text or "run",
        ledger=ledger(
            text,
            n_kept=7,
            dropped={"duplicate_of": 1, "pruned_easy" + text: 2},
            quarantined={"bad" + text: text},
            output=OutputFacts(folder="pruned" + text, n_shards=1, n_samples=7, size=1000),
        ),
        choice=Choice(
            keep="hard" + text,
            metric="prototype_distance" + text,
            fraction=0.7,
            balance=0.5,
            floor="proportional",
            nested=nested,
            n_survivors=9,
            settings={},
        ),
        counts=Counts(
            stops=stops,
            edges=np.linspace(0, 1, 5),
            clipped=True,
            by_score=by_score,
            finely=by_score,
            by_cluster=by_cluster,
        ),
        curves=Curves(
            balance=ones,
            balance_before=0.5,
            empty=ones.astype(int),
            fewest=ones.astype(int),
            mean_score=ones,
            tail_kept=ones,
        ),
        galleries=Galleries(order=shown, typical=shown, unusual=shown, last_kept=shown[:7], first_dropped=shown[7:]),
        rows=[
            ClusterRow(cluster=0, members=6, kept=4, why="The largest", nearest=shown[:2], cut=shown[6:8], farthest=[])
        ],
        clusters=[MapCluster(cluster=i, x=float(i), y=float(i % 2), picture=shown[i]) for i in range(3)],
        map_share=0.5,
        copies=[CopyGroup(stands=shown[0], copies=shown[8:], n_copies=2)],
        n_copy_groups=1,
        skipped=[SkippedSample(key=text or "k", shard=text, reason="no_image" + text)],
        alternatives=[Alternative(name="Random instead", meaning=text, replaced=2)],
        command=["sspruning", "select", text or "store", "--keep-fraction", "0.7"],
        whole_command="sspruning run " + text,
        facts=[("Encoder", text)],
        config=f"name: {text}\n",
        notes=[text],
        stages=[StageTime(stage="embed" + text, done=10, unit="samples" + text, seconds=2.0, memory=1 << 30)],
        made="today",
    )


class Tags(HTMLParser):
    """Elements, attributes and text of a page, as a browser's parser sees them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.names, self.words = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.words.append(data)


def test_hostile_text_adds_no_element_and_no_attribute():
    tame, hostile = Tags(render(whole("x"))), Tags(render(whole(EVIL)))
    assert hostile.tags == tame.tags
    assert hostile.names == tame.names
    assert not {name for name in hostile.names if name.startswith("on")}
    assert "\u202e" not in "".join(hostile.words)
    assert "49" not in re.findall(r"<!-- (\d+)", render(whole(EVIL)))


def test_json_in_the_page_can_neither_end_its_element_nor_a_line():
    value = {"a": "</script><!--&\u2028\u2029", "b": [1, 2.5, None]}
    text = json_text(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text(float("nan"))


def test_the_policy_admits_the_pages_own_script_and_nothing_else():
    page = render(whole())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert f"script-src 'sha256-{digest}';" in policy


def test_nothing_in_the_page_leads_elsewhere():
    page = render(whole())
    assert re.findall(r"""(?:src|href)="(?!data:|#)[^"]*""", page) == []
    assert not re.search(r"https?://|@import|url\(", page)
    targets, marks = set(re.findall(r'href="#([^"]+)"', page)), set(re.findall(r'id="([^"]+)"', page))
    assert targets <= marks
    assert set(re.findall(r'aria-labelledby="([^"]+)"', page)) <= marks


def test_ids_are_unique_and_headings_go_down_one_step_at_a_time():
    page = render(whole())
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    levels = [int(found) for found in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_equal_contents_give_equal_pages_and_times_stand_apart():
    contents = whole()
    other = replace(contents, stages=[], made="tomorrow")
    pages = [render(one) for one in (contents, whole(), other)]
    apart = [re.sub("<!-- times -->.*<!-- /times -->", "", page, flags=re.DOTALL) for page in pages]
    assert pages[0] == pages[1]
    assert pages[0] != pages[2]
    assert apart[0] == apart[2]


def test_what_is_missing_leaves_no_trace():
    page = render(Contents(name="x", ledger=ledger()))
    assert "10 images embedded, nothing selected yet" in page
    for name in ("order", "extremes", "cut", "scores-of", "clusters", "copies", "skipped", "choices", "times", "keep"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
    assert json.loads(re.search(r'id="data">(.*?)</script>', page)[1]) == {}


def test_the_slider_is_off_with_a_reason_where_sets_are_not_nested():
    fixed, movable = render(whole(nested=False)), render(whole())
    assert "other fractions would have to be selected anew" in fixed
    assert 'id="back"' not in fixed
    assert "selected anew" not in movable
    assert 'id="back"' in movable


def test_the_ledger_adds_up():
    page = render(whole())
    table = re.search(r'<table class="ledger">.*?</table>', page, re.DOTALL)[0]
    cells = [int(cell.replace(",", "")) for cell in re.findall(r"<td[^>]*>([\d,]+)</td>", table)]
    everything, *parts = cells
    assert everything == sum(parts) == 12
