"""The pictures of the report: one typeface, one accent colour, random in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

if TYPE_CHECKING:
    from cifar.grid import Row
    from cifar.report import Law, Summary

mpl.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["draw_accuracy", "draw_scaling"]

ACCENT, GREY, DARK, PALE = "#0b6e99", "#8a8a8a", "#2b2b2b", "#7fb8d1"
LOOKS = {
    ("ssl_prototypes", "hard", 0.5): ("hard, cluster floor 0.5", ACCENT, "-", "o"),
    ("ssl_prototypes", "hard", 0.0): ("hard, no floor", ACCENT, ":", "s"),
    ("ssl_prototypes", "easy", 0.5): ("easy, cluster floor 0.5", PALE, "-", "^"),
    ("ssl_prototypes", "coverage", 0.0): ("coverage", ACCENT, "--", "D"),
    ("el2n", "hard", 0.5): ("EL2N (uses labels)", DARK, "--", "v"),
    ("forgetting", "hard", 0.5): ("forgetting (uses labels)", DARK, ":", "D"),
    ("supervised_prototypes", "hard", 0.5): ("supervised prototypes (uses labels)", DARK, "-.", "P"),
}


def draw_accuracy(summaries: Sequence[Summary], path: Path) -> Path:
    """``path``, which now shows the difference to random against the fraction kept, a panel for each schedule."""
    schedules = [s for s in ("epochs", "iterations") if any(summary.choice[0] == s for summary in summaries)]
    figure, panels = plt.subplots(1, len(schedules), figsize=(5.6 * len(schedules), 4.2), sharey=True, squeeze=False)
    for panel, schedule in zip(panels[0], schedules, strict=True):
        for (metric, policy, balance), (label, colour, line, mark) in LOOKS.items():
            chosen = sorted(
                (s.keep, 100 * s.difference, 100 * s.half_width)
                for s in summaries
                if s.choice == (schedule, metric, policy, balance, 0) and np.isfinite(s.difference)
            )
            if chosen:
                keep, difference, width = np.array(chosen).T
                panel.errorbar(
                    keep, difference, width, label=label, color=colour, linestyle=line, marker=mark,
                    markersize=4, capsize=2, linewidth=1.4,
                )  # fmt: skip
        panel.axhline(0, color=GREY, linewidth=1)
        panel.set(xlabel="fraction kept", title=f"fixed {schedule}")
    panels[0][0].set_ylabel("accuracy minus random, points\n(95 % intervals over seeds; none for one seed)")
    panels[0][0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def draw_scaling(curves: Mapping[str, Sequence[Row]], laws: Mapping[str, Sequence[Law]], path: Path) -> Path:
    """``path``, which now shows test error against the number of training images, with the fitted laws."""
    figure, panel = plt.subplots(figsize=(5.6, 4.2))
    for (name, rows), colour, mark in zip(curves.items(), (GREY, ACCENT), ("o", "s"), strict=False):
        n = np.array([row.n_train for row in rows])
        panel.scatter(n, [1 - row.accuracy for row in rows], s=14, color=colour, marker=mark, label=name)
        for law in laws.get(name, ()):
            span = np.linspace(n.min(), n.max(), 100)
            power = law.name == "power"
            fitted = law.a * (span**-law.b if power else np.exp(-law.b * span / 50_000))
            panel.plot(span, fitted, color=colour, linestyle="-" if power else ":", linewidth=1.2)
    panel.set(xscale="log", yscale="log", xlabel="training images", ylabel="test error")
    panel.legend(frameon=False, fontsize=8, title="solid: power law, dotted: exponential", title_fontsize=8)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
    return path
