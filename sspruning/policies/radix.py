"""Choosing by counting: the border that parts the first samples of an order from the others, without sorting them.

A policy that looks at score, cluster and tie alone keeps what lies within a few borders. They are found by passes over
samples that come a shard at a time: each pass counts the next bits of what the order goes by, in every group that still
looks for its border, until so few samples are left beside the borders that they are gathered and sorted. So memory does
not grow with the number of samples, and the border is exact, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sspruning.records import F32, I32, I64, U32, U64, BoolArray

__all__ = [
    "Borders",
    "ByCluster",
    "ByScore",
    "ByTie",
    "Grouping",
    "Order",
    "Piece",
    "Rule",
    "Stream",
    "Whole",
    "Within",
    "find_borders",
    "score_codes",
]

COUNTERS = 1 << 22  # of one pass: 32 MB
DIGIT_BITS = 16  # that one pass settles, if there are counters enough
GATHERED = 1 << 21  # samples that are sorted at last: 60 MB
NOWHERE, EVERYWHERE = -1, np.iinfo(np.int64).max
LARGEST_CODE, LARGEST_TIE = np.iinfo(np.uint32).max, np.iinfo(np.uint64).max


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive samples of a store; columns that nobody asked for are empty."""

    at: int
    """Position of the first of them among all samples."""
    size: int
    """How many: m."""
    score: F32
    """(m,) larger = harder."""
    cluster: I32
    """(m,) prototype of each."""
    tie: U64
    """(m,) seeded hash of the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """All samples that a policy chooses from, a piece at a time, as often as it takes."""

    read: Callable[[frozenset[str]], Iterator[Piece]]
    """Pieces in store order, with the columns named: score, cluster, tie."""
    n: int
    sizes: I64
    """(k,) samples of each cluster."""
    low: float
    high: float
    """Smallest and largest score."""
    count: int
    """Samples that will be kept."""
    balance: float = 0.0
    floor: Literal["proportional", "uniform"] = "proportional"


class Rule(Protocol):
    """What a policy comes to: which samples of a piece are kept."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns that it looks at."""
        ...

    def __call__(self, piece: Piece) -> BoolArray:
        """(m,) True: kept."""
        ...


class Order(Protocol):
    """An order of all samples by (code, tie, position)."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns that it looks at."""
        ...

    @property
    def width(self) -> int:
        """Bits of the largest code."""
        ...

    def __call__(self, piece: Piece) -> U32:
        """(m,) uint32 code of each sample: smaller comes first."""
        ...


class Grouping(Protocol):
    """Parts the samples into groups."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns that it looks at."""
        ...

    def __call__(self, piece: Piece) -> I64 | I32:
        """(m,) group of each sample, from 0; negative for those that are in none."""
        ...


def score_codes(values: F32) -> U32:
    """(n,) uint32 in the same order as the finite float32 ``values``; 0 and -0 are equal."""
    bits = (values + np.float32(0)).astype("<f4", copy=False).view("<u4")
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


class ByScore:
    """From the easiest sample to the hardest, or the other way round."""

    needs = frozenset({"score"})

    def __init__(self, stream: Stream, *, hardest_first: bool) -> None:
        """Codes count from the score that comes first."""
        first, last = score_codes(np.array([stream.low, stream.high], np.float32)).tolist()
        self._start = np.uint32(last if hardest_first else first)
        self._hardest_first = hardest_first
        self.width = (last - first).bit_length()

    def __call__(self, piece: Piece) -> U32:
        """(m,) uint32 distance from the first score, in representable numbers."""
        codes = score_codes(piece.score)
        return self._start - codes if self._hardest_first else codes - self._start


class ByTie:
    """In an order drawn from the seed and the keys: the upper half of the tie, before the tie settles the rest."""

    needs = frozenset({"tie"})
    width = 32

    def __call__(self, piece: Piece) -> U32:
        """(m,) uint32."""
        return (piece.tie >> np.uint64(32)).astype(np.uint32)


class Whole:
    """All samples as one group."""

    needs = frozenset[str]()

    def __call__(self, piece: Piece) -> I64:
        """(m,) 0."""
        return np.zeros(piece.size, np.int64)


class ByCluster:
    """Each cluster as a group."""

    needs = frozenset({"cluster"})

    def __call__(self, piece: Piece) -> I32:
        """(m,) prototype of each."""
        return piece.cluster


@dataclass(frozen=True, slots=True)
class Borders:
    """Of each group, the last sample that is in: those in lie not behind it in the order of (code, tie, position)."""

    code: U32
    tie: U64
    at: I64

    def hold(self, group: I64 | I32, code: U32, piece: Piece) -> BoolArray:
        """(m,) True: in; samples of no group are not. The piece's ties are looked at where its codes are a border's."""
        there = group >= 0
        own = np.where(there, group, 0)
        border = self.code[own]
        inside = (code < border) & there
        same = np.flatnonzero((code == border) & there)
        if len(same):
            own, tie = own[same], piece.tie[same]
            first = tie < self.tie[own]
            inside[same] = first | ((tie == self.tie[own]) & (piece.at + same <= self.at[own]))
        return inside


@dataclass(frozen=True, slots=True)
class Within:
    """`Rule` that keeps what lies within borders."""

    borders: Borders
    order: Order
    group: Grouping

    @property
    def needs(self) -> frozenset[str]:
        """All columns that the order, the grouping and ties take."""
        return self.order.needs | self.group.needs | {"tie"}

    def __call__(self, piece: Piece) -> BoolArray:
        """(m,) True: in."""
        return self.borders.hold(self.group(piece), self.order(piece), piece)


def find_borders(
    stream: Stream, order: Order, group: Grouping, sizes: I64, wanted: I64, *, by_name: bool = False
) -> Borders:
    """`Borders` within which each group has its first ``wanted`` samples.

    Args:
        stream: all samples.
        order: by which a group's samples come.
        group: which samples belong together.
        sizes: (g,) samples of each group.
        wanted: (g,) how many lie within, at most all of them.
        by_name: also look for the border of groups that have all samples within it; else it lies behind everything.

    Cost:
        two or three passes over all samples for a group of any size or a thousand groups of like size; one more where
        groups are many or a score is shared by millions of samples. No pass if every group keeps all or nothing.
    """
    everything = (wanted == sizes) & (wanted > 0) & (not by_name)
    found = Borders(
        np.where(everything, np.uint32(LARGEST_CODE), np.uint32(0)),
        np.where(everything, np.uint64(LARGEST_TIE), np.uint64(0)),
        np.where(everything, EVERYWHERE, NOWHERE),
    )
    looking = np.flatnonzero((wanted > 0) & ~everything)
    if len(looking):
        search = _Search(stream, order, group, looking, len(sizes))
        for place, values in zip((found.code, found.tie, found.at), search.run(sizes, wanted), strict=True):
            place[looking] = values
    return found


class _Search:
    """Groups that look for their border: bit by bit of the code, then of the tie, until few samples are left."""

    def __init__(self, stream: Stream, order: Order, group: Grouping, looking: I64, n_groups: int) -> None:
        self._stream, self._order, self._group = stream, order, group
        self._slot = np.full(n_groups, -1)
        self._slot[looking] = np.arange(len(looking))
        self._bits = max(1, min(DIGIT_BITS, (COUNTERS // len(looking)).bit_length() - 1))
        self._prefix = {"code": np.zeros(len(looking), np.uint64), "tie": np.zeros(len(looking), np.uint64)}
        self._width = {"code": order.width, "tie": 64}
        """Lower bits of each that are not settled yet."""

    def run(self, sizes: I64, wanted: I64) -> tuple[U64, U64, I64]:
        """Code, tie and position of the border of each group that looks for one."""
        looking = self._slot >= 0
        held, left = sizes[looking], wanted[looking].copy()
        for word in ("code", "tie"):
            while self._width[word] and held.sum() > GATHERED:
                held, left = self._narrow(word, left)
        return self._picked(left)

    def _narrow(self, word: str, left: I64) -> tuple[I64, I64]:
        """Samples of each group beside its border, and how many of these are wanted, after more bits are settled."""
        bits = min(self._bits, self._width[word])
        rest = np.uint64(self._width[word] - bits)
        counts = np.zeros(len(left) << bits, np.int64)
        mask = np.uint64((1 << bits) - 1)
        for slot, columns, _ in self._beside(word):
            digit = (columns[word] >> rest) & mask
            place = (slot << bits) | digit.astype(np.int64)
            if len(place) > len(counts):
                counts += np.bincount(place, minlength=len(counts))
            else:
                np.add.at(counts, place, 1)
        table = counts.reshape(len(left), -1)
        ends = table.cumsum(axis=1)
        found = (ends < left[:, None]).sum(axis=1)
        own = np.arange(len(left))
        held = table[own, found]
        self._prefix[word] = (self._prefix[word] << np.uint64(bits)) | found.astype(np.uint64)
        self._width[word] = int(rest)
        return held, left - (ends[own, found] - held)

    def _picked(self, left: I64) -> tuple[U64, U64, I64]:
        """The border of each group, from all samples that are still beside one."""
        slots, codes, ties, places = [], [], [], []
        for slot, columns, place in self._beside("tie"):
            slots.append(slot)
            codes.append(columns["code"])
            ties.append(columns["tie"])
            places.append(place)
        slot, code, tie, place = (np.concatenate(parts) for parts in (slots, codes, ties, places))
        order = np.lexsort((place, tie, code, slot))
        pick = order[np.searchsorted(slot[order], np.arange(len(left))) + left - 1]
        return code[pick], tie[pick], place[pick]

    def _beside(self, word: str) -> Iterator[tuple[I64, dict[str, U64], I64]]:
        """Slot, code and tie, and position of the samples that agree with their group's border as far as it is known.

        The tie is among them if it is the ``word`` that is asked for.
        """
        with_tie: frozenset[str] = frozenset({"tie"} if word == "tie" else ())
        for piece in self._stream.read(self._order.needs | self._group.needs | with_tie):
            group = self._group(piece)
            slot = np.where(group >= 0, self._slot[group], -1)
            columns: dict[str, U64] = {"code": self._order(piece).astype(np.uint64)}
            if with_tie:
                columns["tie"] = piece.tie
            beside = slot >= 0
            for name, values in columns.items():
                if self._width[name] < (self._order.width if name == "code" else 64):
                    beside &= (values >> np.uint64(self._width[name])) == self._prefix[name][slot]
            rows = np.flatnonzero(beside)
            yield slot[rows], {name: values[rows] for name, values in columns.items()}, piece.at + rows
