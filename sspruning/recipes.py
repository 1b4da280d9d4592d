"""Published ways to choose samples, by name: what `select.recipe` stands for in the section `select`.

Plain data: an addition is one entry here and one commented file in ``configs/``, which a test holds against it. Values
are the papers' defaults where a paper has them; `note` says where one was chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["RECIPES", "Recipe", "filled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One recipe."""

    keeps: str
    """What stays, in a few words."""
    use: str
    """When to take it."""
    source: str
    """Paper, arXiv number."""
    select: dict[str, Any] = field(default_factory=dict)
    """Values of the section `select`."""
    note: str = ""
    """What differs from the paper, or was chosen here."""


RECIPES: dict[str, Recipe] = {
    "sorscher2022": Recipe(
        keeps="the samples farthest from their prototype, every cluster at least half its share",
        use="much clean data, 0.7 and more kept",
        source="Sorscher et al. 2022, 2206.14486",
        select={"keep": "hard", "balance": 0.5},
        note="the paper balances classes; here clusters stand for them",
    ),
    "semdedup": Recipe(
        keeps="one of each group of near copies, as few copies as the fraction allows",
        use="web data with many near copies",
        source="Abbas et al. 2023, 2303.09540",
        select={"steps": [{"dedup": {"share": 0.0, "survivor": "hard"}}], "keep": "hard", "balance": 0.0},
        note="compared with kept samples only and across cluster borders; the threshold follows from the fraction",
    ),
    "d4": Recipe(
        keeps="three quarters after near copies, clustered anew, then the farthest from their prototype",
        use="web data, when near copies and typical samples shall both go",
        source="Tirumala et al. 2023, 2308.12284",
        select={
            "steps": [{"dedup": {"share": 0.75, "survivor": "hard"}}, {"recluster": {}}],
            "keep": "hard",
            "balance": 0.0,
        },
    ),
    "dbp": Recipe(
        keeps="the farthest of each cluster, more of clusters that are wide and apart from others",
        use="web data after removal of near copies, with clusters of very unequal density",
        source="Abbas et al. 2024, 2401.04578",
        select={
            "steps": [{"dedup": {"share": 0.8, "survivor": "hard"}}, {"recluster": {}}],
            "keep": "density",
            "options": {"temperature": 0.1},
            "balance": 0.0,
        },
        note="the share left by the removal of near copies is ours; the paper tunes the temperature",
    ),
    "ccs": Recipe(
        keeps="a random sample of every stratum of hardness, without the hardest tenth",
        use="less than half kept, or a noisy hard end",
        source="Zheng et al. 2023, 2210.15809",
        select={"keep": "ccs", "options": {"beta": 0.1, "strata": 50}},
        note="the paper tunes beta by fraction (0 to 0.3) and stratifies a supervised score",
    ),
    "moderate": Recipe(
        keeps="a window around the median hardness",
        use="noisy or broken data at both ends",
        source="Xia et al. 2023, Moderate Coreset, ICLR",
        select={"keep": "moderate"},
        note="distance to the own prototype in place of the median of the class",
    ),
    "vo2024": Recipe(
        keeps="as even a sample of all regions as a tree of clusters gives",
        use="raw web data with a long tail, to be evened out",
        source="Vo et al. 2024, 2405.15613",
        select={"keep": "hierarchical", "options": {"levels": 2, "resamples": 10, "leaf": "random"}},
    ),
    "d2": Recipe(
        keeps="hard samples that lie apart from those kept before them",
        use="medium fractions, hardness and diversity at once",
        source="Maharana et al. 2024, 2310.07931",
        select={"keep": "d2", "options": {"neighbors": 5, "gamma": 0.1, "beta": 0.0}},
        note="the hardness is the label-free score",
    ),
    "stratified-random": Recipe(
        keeps="a random sample of every cluster in proportion",
        use="a baseline with less chance in it than plain random",
        source="classical stratified sampling",
        select={"keep": "stratified-random"},
    ),
    "coverage": Recipe(
        keeps="one representative of each of as many regions as samples are kept",
        use="less than half kept",
        source="k-means cover; measured in tools/prove/README.md",
        select={"keep": "coverage"},
        note="regions are made within clusters, so that the cost stays near linear",
    ),
    "guarded-hard": Recipe(
        keeps="what sorscher2022 keeps, after copies, defects and the farthest hundredth are gone",
        use="raw data, 0.7 and more kept, where hard must not mean broken",
        source="Sorscher et al. 2022, with the cuts that 2210.15809 and 2401.04578 ask for",
        select={
            "steps": [{"defects": {}}, {"dedup": {}}, {"outliers": {"quantile": 0.99, "by": "distance"}}],
            "keep": "hard",
            "balance": 0.5,
        },
    ),
}


def filled(select: dict[str, Any]) -> dict[str, Any]:
    """The section `select` with what its recipe says, if it names one, under what it says itself.

    Raises:
        ValueError: no such recipe.
    """
    name = select.get("recipe") or None
    if name is None:
        return {**select, "recipe": None}
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(sorted(RECIPES))}")
    said = {"options": {}, **RECIPES[name].select}
    if select.get("keep", said["keep"]) == said["keep"]:
        return {**said, **select, "options": {**said["options"], **(select.get("options") or {})}}
    return {**said, "options": {}, **select}
