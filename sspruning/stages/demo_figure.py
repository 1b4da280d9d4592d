"""The picture of the demo: what is typical, what is unusual, and what a classifier made of each subset."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sspruning.records import U8
from sspruning.storage.atomic import write_bytes

if TYPE_CHECKING:
    from sspruning.stages.demo import Probe

__all__ = ["COLUMNS", "draw"]

COLUMNS = 12
ACCENT, GREY = "#c2410c", "#a8a29e"


def draw(path: Path, typical: Sequence[U8], unusual: Sequence[U8], probes: Sequence[Probe], title: str) -> None:
    """Write a PNG: rows of the most typical and the most unusual images, bars of test accuracy with their spread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, COLUMNS + 6, left=0.02, right=0.985, top=0.8, bottom=0.14, wspace=0.15, hspace=0.5)
    figure.text(0.02, 0.93, title, fontsize=12, weight="bold", va="center")
    rows = (("most typical: easy, dropped first", typical), ("most unusual: hard, kept first", unusual))
    for row, (label, images) in enumerate(rows):
        for column, image in enumerate(images[:COLUMNS]):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image, cmap="gray", interpolation="nearest")
            axes.set_axis_off()
            if column == 0:
                axes.set_title(label, loc="left", fontsize=9)
    bars = figure.add_subplot(grid[:, COLUMNS + 1 :])
    names = [f"{probe.name}\n{probe.n_train:,}" for probe in probes]
    colours = [ACCENT if probe.name == "kept" else GREY for probe in probes]
    means, spreads = [100 * probe.mean for probe in probes], [100 * probe.spread for probe in probes]
    bars.bar(names, means, yerr=spreads, color=colours, capsize=4, width=0.6)
    for at, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        bars.text(at, mean + spread + 0.3, f"{mean:.1f}", ha="center", fontsize=9)
    low = min(mean - spread for mean, spread in zip(means, spreads, strict=True))
    bars.set_ylim(max(0.0, low - 4), min(102.0, max(means) + 4))
    bars.set_title("test accuracy in % (axis cut), mean and sd of seeds", fontsize=9, loc="left")
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
