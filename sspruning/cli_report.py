"""The verbs that show what happened: report, show, plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sspruning import terminal as say

if TYPE_CHECKING:
    from sspruning.stages.show import SampleFacts

__all__ = ["plot_command", "report_command", "show_command"]

Selected = Annotated[
    Path, typer.Argument(metavar="PATH", help="Run folder, store, or a selection.parquet beside its store.")
]


@say.verb
def report_command(
    path: Selected,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write. Default: report.html beside the selection."),
    ] = None,
    pruned: Annotated[
        str | None,
        typer.Option("--pruned", help="Folder or URL of its pruned shards. Default: where the settings say."),
    ] = None,
) -> None:
    """Write one HTML file that shows what was kept and what was dropped, with a slider for other fractions."""
    from sspruning.stages.report import report

    say.reported(report(path, output, pruned=pruned, progress=say.console()))


@say.verb
def show_command(
    path: Selected,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key of the sample, as in the selection.")],
    neighbours: Annotated[int, typer.Option(min=0, help="How many of the samples that it is most like.")] = 8,
) -> None:
    """Show one sample: score, rank, cluster, why it stays or goes, and the samples that it is most like."""
    from sspruning.stages.show import show

    found = show(path, key, neighbours=neighbours)
    _shown(found)


@say.verb
def plot_command(
    path: Selected,
    kind: Annotated[str, typer.Argument(metavar="FIGURE", help="hist, clusters, map or sweep.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .svg, .pdf or .png.")],
) -> None:
    """Draw one figure of a selection for a paper or a slide."""
    from sspruning.stages.plot import plot

    say.line(f"figure: {plot(path, kind, output, say.console())}")


@say.tells("sample")
def _shown(found: SampleFacts) -> None:
    """One sample as lines for people."""
    from sspruning.reporting.words import fixed, reason_words, visible

    say.line(f"{visible(found.key)}  (shard {visible(found.shard)}, sample {found.row:,})")
    if found.skipped:
        say.line(f"  not embedded: {reason_words(found.skipped)} ({visible(found.skipped)})")
    if found.defects:
        say.line(f"  image: {', '.join(found.defects)}")
    if (chosen := found.choosing) is not None:
        say.line("  kept" if chosen.kept else f"  dropped: {visible(chosen.reason)}{_meaning(chosen.meaning)}")
        if chosen.rank is not None:
            say.line(f"  rank {chosen.rank + 1:,} of {chosen.n_embedded:,}; the first {chosen.n_kept:,} are kept")
        say.line(
            f"  score {fixed(chosen.score)}, cluster {chosen.cluster}, "
            f"distance to its prototype {fixed(chosen.cosine_distance)}"
        )
    elif not found.skipped:
        say.line("  nothing is selected yet; `sspruning select` decides")
    if found.neighbours:
        say.line("  most like it:")
    for one in found.neighbours:
        state = "" if one.kept is None else "kept   " if one.kept else "dropped"
        say.line(f"    {one.cosine:.4f}  {state}  {visible(one.key)}  ({visible(one.shard)})")


def _meaning(words: str) -> str:
    return f": {words}" if words else ""
