"""What comparisons and exports say on the terminal: rows of numbers, and one line on how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from sspruning.terminal import line, size

if TYPE_CHECKING:
    from sspruning.stages.choose_k import KSweep
    from sspruning.stages.decontaminate import Contamination
    from sspruning.stages.export import ExportReport
    from sspruning.stages.export_embeddings import EmbeddingsReport
    from sspruning.stages.sweep import SweepRow

__all__ = ["contamination", "exported", "swept", "swept_k"]


def swept(rows: list[SweepRow]) -> None:
    """Say what each fraction costs, as a table."""
    line("  keep     samples  balance  empty  fewest  mean score  hardest 1 %  duplicates  shared (by chance)")
    for row in rows:
        line(
            f"  {row.keep_fraction:<6g} {row.n_kept:>9,}  {row.balance:7.3f}  {row.empty_clusters:5,}  "
            f"{row.fewest:6,}  {row.mean_score:10.4f}  {row.tail_kept:10.1%}  {row.duplicates:10,}  "
            f"{row.shared:6.1%} ({row.by_chance:.1%})"
        )
    line("  balance: of clusters, 1 = all keep the same number; empty: clusters that keep none; fewest: of a cluster;")
    line("  hardest 1 %: how much of it is kept; shared: how much of a row the next larger one keeps too")


def swept_k(found: KSweep) -> None:
    """Say how numbers of prototypes compare, and which one is recommended."""
    line(f"judged on {found.n_evaluated:,} of {found.n_embedded:,} samples, two clusterings for each k")
    line("       k  distance  stability  ranks, seed  ranks, next k   gini  largest/mean  small  samples each")
    for one in found.tried:
        following = "            -" if one.next_agreement is None else f"{one.next_agreement:13.3f}"
        line(
            f"{one.k:>8,}  {one.mean_distance:8.4f}  {one.stability:9.3f}  {one.seed_agreement:11.3f}  {following}  "
            f"{one.size_gini:5.2f}  {one.size_ratio:12.1f}  {one.small_share:5.1%}  {one.rows_each:12,.0f}"
        )
    line(
        "  stability: adjusted Rand index of two seeds; ranks: correlation of the scores with another seed's, next k's;"
    )
    line("  gini: inequality of cluster sizes; small: clusters with fewer than 32 samples")
    line(f"recommended: --n-clusters {found.recommended}: {found.reason}")
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def contamination(found: Contamination, *, dropped: bool) -> None:
    """Say what is too near to the evaluation set, and what happens to it."""
    line(
        f"{found.n_contaminated:,} of {found.n_store:,} samples lie above a cosine of {found.threshold} to one of "
        f"{found.n_eval:,} evaluation samples ({found.n_eval_matched:,} of these are hit)"
    )
    for reason, count in found.eval_skipped.items():
        line(f"  evaluation samples that were not compared, {reason}: {count:,}")
    for title, pairs in (("most alike", found.highest), ("least alike above the threshold", found.borderline)):
        for pair in pairs[:5]:
            line(
                f"  {title}: {pair.similarity:.4f}  {pair.key} ({pair.shard}) and {pair.nearest} ({pair.nearest_shard})"
            )
    line(f"  all of them: {found.path}")
    if dropped:
        line("  later selections leave them out (a step `exclude` in the settings of this store)")
    else:
        line("  leave them out of selections with --drop, or with select --step 'exclude table=...'")


def exported(report: ExportReport | EmbeddingsReport, to: str) -> None:
    """Say what was written, and where."""
    line(f"{report.n_rows:,} rows, {size(report.size)}, as {to}: {report.path}")
