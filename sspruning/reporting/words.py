"""Words and numbers for people: what a policy keeps, what a reason means, text from elsewhere made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from sspruning.reporting.contents import Choice, Ledger

__all__ = [
    "REASONS",
    "SKIPPED",
    "cut",
    "fixed",
    "lede",
    "number_of",
    "percent",
    "reason_words",
    "score_words",
    "size",
    "visible",
]

_JOINERS = "\u200c\u200d"  # several scripts need them between letters
_SHOWN_AS_CODE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MOST_MARKS = 4  # combining marks in a row; more than any script stacks

REASONS: Mapping[str, str] = {
    "duplicate_of": "copies or near copies of another image",
    "outlier": "outliers, unlike anything else",
    "defect": "blank, tiny or damaged images",
    "excluded": "on a list of samples to leave out",
    "contaminated": "too much like an image of the evaluation set",
    "pruned_easy": "the most typical; what they show is shown by others",
    "pruned_hard": "the least typical",
    "pruned_random": "left out by chance",
    "pruned_far_from_median": "far from the middle of the scores",
    "pruned_stratum_full": "enough others of the same hardness stay",
    "pruned_over_budget": "enough others of the same region stay",
    "pruned_covered": "a neighbour that stays stands for them",
    "pruned": "left out by the policy",
}
"""What each reason in a selection says of samples that are not kept."""

SKIPPED: Mapping[str, str] = {
    "no_image": "no image among its members",
    "image_too_large": "the image file is larger than allowed",
    "too_many_pixels": "the image has more pixels than allowed",
    "empty": "the image file is empty",
    "not_an_image": "the file is not an image",
    "truncated": "the image file ends early",
    "decode_error": "the image cannot be decoded",
    "zero_embedding": "the embedding has no direction",
    "nonfinite_embedding": "the embedding is not a number",
    "no_embedding": "not in the table of imported embeddings",
    "bad_name": "no key can be made of its name",
    "key_too_long": "its key is too long",
    "reserved_suffix": "its name is one that loaders use themselves",
}
"""What each reason says of samples that were not embedded."""

_HARD = {
    "prototype_distance": "the least typical ones, which lie farthest from the centre of their cluster",
    "prototype_margin": "the most undecided ones, which lie between two clusters",
    "random": "the ones that drew the largest random numbers",
    "imported": "the ones with the largest imported scores",
}
_EASY = {
    "prototype_distance": "the most typical ones, which lie nearest to the centre of their cluster",
    "prototype_margin": "the most clear-cut ones, which lie deep inside one cluster",
    "random": "the ones that drew the smallest random numbers",
    "imported": "the ones with the smallest imported scores",
}
_UNLABELLED = {"prototype_distance", "prototype_margin", "random"}
_KEEPS = {
    "random": "a random sample",
    "stratified-random": "a random sample of every cluster, in proportion to its size",
    "moderate": "the ones in the middle of the scores",
    "ccs": "a sample of every level of hardness, without the very hardest",
    "density": "the least typical of each cluster, more of clusters that are wide and apart from others",
    "coverage": "one representative for each of as many regions",
    "hierarchical": "as even a sample of all regions as the data allow",
    "d2": "unusual ones that lie apart from those kept before them",
}
_SCORES = {
    "prototype_distance": (
        "The score of an image is its distance to the centre of its cluster. A small score means typical, with many "
        "images like it; a large one means unusual."
    ),
    "prototype_margin": (
        "The score says how undecided an image is between its two nearest clusters. A small score means clearly one "
        "of a kind; 0 means on the border between two."
    ),
    "random": "The scores are random numbers: they say nothing about an image, and serve as a baseline.",
    "imported": "The scores were imported from a table. A larger score means harder.",
}

_ENDS = {
    "prototype_distance": "typical to the left, unusual to the right",
    "prototype_margin": "clear-cut to the left, undecided to the right",
    "random": "random",
}


def _keeps(choice: Choice) -> str:
    """What a policy keeps, as the end of a sentence."""
    phrases = {"hard": _HARD, "easy": _EASY}.get(choice.keep)
    if phrases is not None:
        return phrases.get(
            choice.metric, f"the ones with the {'largest' if choice.keep == 'hard' else 'smallest'} scores"
        )
    return _KEEPS.get(choice.keep, f"those that the policy {visible(choice.keep)} ranks first")


def lede(choice: Choice, ledger: Ledger) -> str:
    """What stays and why, in a few sentences that hold for every fraction."""
    *steps, (_, by_policy) = list(ledger.dropped.items()) or [("", 0)]
    gone = [f"{count:,} {REASONS.get(reason, visible(reason))}" for reason, count in steps]
    if gone and not by_policy and not choice.nested:
        return f"of the images stay: all that are left after these went: {', '.join(gone)}."
    found = [f"of the images stay: {_keeps(choice)}."]
    if gone:
        found.append(f"Before that, these went: {', '.join(gone)}.")
    if choice.balance > 0 and choice.keep in {"hard", "easy"}:
        found.append(f"Every cluster keeps at least {percent(choice.balance)} of what equal pruning would leave it.")
    if choice.metric in _UNLABELLED:
        found.append("No labels were used.")
    return " ".join(found)


def score_words(metric: str) -> str:
    """What a score means, in a sentence or two."""
    return _SCORES.get(metric, f"Scores are those of the metric {visible(metric)}. A larger score means harder.")


def score_axis(metric: str) -> str:
    """Name of the axis of scores."""
    return f"score: {_ENDS.get(metric, 'easy to the left, hard to the right')}"


def reason_words(reason: str) -> str:
    """What a reason means; the reason itself where nothing is known of it."""
    return REASONS.get(reason) or SKIPPED.get(reason) or visible(reason)


def visible(text: str, *, joiners: bool = False) -> str:
    """``text`` with every character that is invisible, reorders text or controls something shown as its code.

    Args:
        text: from a shard, so anything.
        joiners: leave the zero-width joiners that some scripts need; for captions, not for keys.
    """
    found: list[str] = []
    marks = 0
    for character in text:
        kind = unicodedata.category(character)
        marks = marks + 1 if kind in {"Mn", "Me"} else 0
        hidden = kind in _SHOWN_AS_CODE and not (joiners and character in _JOINERS)
        found.append(_code(character) if hidden or marks > _MOST_MARKS else character)
    return "".join(found)


def _code(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def cut(text: str, length: int) -> str:
    """``text`` if it has at most ``length`` characters, else its beginning and end with an ellipsis between."""
    if len(text) <= length:
        return text
    tail = length // 4
    return f"{text[: length - tail - 1]}\u2026{text[-tail:] if tail else ''}"


def number_of(count: int, what: str) -> str:
    """A count with its noun: 1 image, 2,000 images."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def percent(share: float, digits: int = 1) -> str:
    """A share as per cent without needless zeros: 70 %, 33.3 %; nothing and everything only where it is so."""
    value = 100 * share
    smallest = 10.0**-digits
    if 0 < value < smallest:
        return f"< {smallest:g} %"
    if 100 - smallest < value < 100:
        return f"> {100 - smallest:g} %"
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") + " %" if digits else f"{value:.0f} %"


def fixed(value: float) -> str:
    """A number with three to four significant digits, in plain notation where that is short."""
    if value == 0:
        return "0"
    return f"{value:.3g}" if not 1e-4 <= abs(value) < 1e5 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3f}"


def size(number: float) -> str:
    """Bytes for people: 512 B, 20.3 MB."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return ""
