"""Text from shards becomes visible, numbers become words, and what a selection keeps becomes a sentence."""

import pytest

from sspruning.policies import POLICIES, PRUNED_REASON
from sspruning.reporting.contents import Choice, Ledger
from sspruning.reporting.words import REASONS, cut, fixed, lede, number_of, percent, reason_words, size, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ordinary/key-0001", "ordinary/key-0001"),
        ("नमस्ते 日本語 é", "नमस्ते 日本語 é"),
        ("cod\u202egpj", "cod\\u202egpj"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("bell\x07 esc\x1b[31m", "bell\\x07 esc\\x1b[31m"),
        ("two\nlines\ttab", "two\\x0alines\\x09tab"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("line\u2028end", "line\\u2028end"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("half\udc80", "half\\udc80"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_its_code(text, shown):
    assert visible(text) == shown


def test_joiners_stay_in_captions_and_show_in_keys():
    text = "नमस\u200dते"
    assert visible(text, joiners=True) == text
    assert visible(text) == "नमस\\u200dते"


def test_a_tower_of_marks_is_cut_down():
    shown = visible("z" + "\u0301" * 50)
    assert shown.startswith("z\u0301\u0301\u0301\u0301\\u0301")
    assert "\u0301" * 5 not in shown


def test_long_text_keeps_its_beginning_and_its_end():
    assert cut("short", 10) == "short"
    assert cut("a" * 50 + "end", 16) == "a" * 11 + "\u2026" + "aend"
    assert len(cut("x" * 1000, 96)) == 96


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.7, "70 %"), (1 / 3, "33.3 %"), (1e-6, "< 0.1 %"), (1 - 1e-6, "> 99.9 %")],
)
def test_shares_say_nothing_and_everything_only_where_it_is_so(share, shown):
    assert percent(share) == shown


def test_numbers_are_short_and_nouns_agree():
    assert [fixed(value) for value in (0, 0.5, -0.1234567, 123.456, 1e-7, 1e9)] == [
        "0",
        "0.500",
        "-0.123",
        "123.5",
        "1e-07",
        "1e+09",
    ]
    assert [number_of(1, "image"), number_of(2000, "image")] == ["1 image", "2,000 images"]
    assert [size(512), size(20_300_000)] == ["512 B", "20.3 MB"]


def test_every_reason_of_every_policy_has_words():
    assert set(PRUNED_REASON.values()) <= set(REASONS)
    assert reason_words("truncated") == "the image file ends early"
    assert reason_words("something\x07new") == "something\\x07new"


def choice(**more):
    given = {"keep": "hard", "metric": "prototype_distance", "fraction": 0.7, "balance": 0.5, "floor": "proportional"}
    return Choice(**{**given, "nested": True, "n_survivors": 9, "settings": {}, **more})


def ledger(**dropped):
    return Ledger(n_shards=1, n_samples=10, n_embedded=10, skipped={}, quarantined={}, n_kept=7, dropped=dropped)


@pytest.mark.parametrize("keep", sorted(POLICIES))
def test_the_sentence_says_what_every_policy_keeps(keep):
    said = lede(choice(keep=keep), ledger(pruned=3))
    assert said.startswith("of the images stay: ")
    assert "policy" not in said
    assert ("Every cluster keeps at least 50 %" in said) == (keep in {"hard", "easy"})


def test_the_sentence_names_what_steps_took():
    said = lede(choice(), ledger(outlier=1, pruned_easy=2))
    assert "Before that, these went: 1 outliers" in said
    only_copies = lede(choice(nested=False), ledger(duplicate_of=3, pruned_easy=0))
    assert only_copies.startswith("of the images stay: all that are left after these went: 3 copies")


def test_labels_are_mentioned_only_where_it_is_known_that_none_was_used():
    assert "No labels" in lede(choice(), ledger(pruned_easy=3))
    assert "No labels" not in lede(choice(metric="imported"), ledger(pruned_easy=3))
    assert "policy a\\u202eb" in lede(choice(keep="a\u202eb"), ledger(pruned=3))
