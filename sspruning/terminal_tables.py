"""What comparisons, exports and the demo say on the terminal: rows of numbers, and a line on how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from sspruning.progress import escaped
from sspruning.terminal import line, selected, size, tells, written

if TYPE_CHECKING:
    from pathlib import Path

    from sspruning.stages.choose_k import KSweep
    from sspruning.stages.decontaminate import Contamination
    from sspruning.stages.demo import DemoResult
    from sspruning.stages.export import ExportReport
    from sspruning.stages.export_embeddings import EmbeddingsReport
    from sspruning.stages.export_samples import SamplesReport
    from sspruning.stages.pack import PackReport
    from sspruning.stages.sweep import SweepRow

__all__ = ["contamination", "demo", "exported", "exported_samples", "packed", "swept", "swept_k"]


@tells("sweep")
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


@tells("k_sweep")
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
        typer.echo(escaped(f"warning: {warning}"), err=True)


@tells("contamination")
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
                f"  {title}: {pair.similarity:.4f}  {pair.key!r} ({pair.shard}) and {pair.nearest!r} "
                f"({pair.nearest_shard})"
            )
    line(f"  all of them: {found.path}")
    if dropped:
        line("  later selections leave them out (a step `exclude` in the settings of this store)")
    else:
        line("  leave them out of selections with --drop, or with select --step 'exclude table=...'")


@tells("exported")
def exported(report: ExportReport | EmbeddingsReport, to: str) -> None:
    """Say what was written, and where."""
    line(f"{report.n_rows:,} rows, {size(report.size)}, as {to}: {report.path}")


@tells("exported")
def exported_samples(report: SamplesReport, to: str) -> None:
    """Say what was made of pruned shards."""
    line(f"{report.n_rows:,} samples, {size(report.size)}, as {to}: {report.path}")
    line(f"  files: {report.n_files:,}, {report.n_written:,} of them written now")
    for note in report.notes:
        line(f"  {note}")


@tells("demo")
def demo(result: DemoResult) -> None:
    """Say what the demo kept, dropped and measured."""
    line()
    line(
        f"packed {result.packed.n_samples:,} images into {len(result.packed.shards)} shards: {result.folder / 'shards'}"
    )
    selected(result.run.selection)
    written(result.run.manifest)
    line(f"most typical: {', '.join(result.typical)}")
    line(f"most unusual: {', '.join(result.rare)}")
    line("a small classifier, trained on each and tested on images that none has seen (mean ± sd of 5 seeds):")
    for probe in result.probes:
        line(f"  {probe.name:<7} {probe.n_train:>7,} images  accuracy {probe.mean:6.1%} ± {probe.spread:.1%}")
    line(f"picture: {result.picture}")
    line("your own images: sspruning pack FOLDER -o shards/ && sspruning embed shards/ --store store/")
    line("then, as often as you like: sspruning select store/ --keep hard --keep-fraction 0.7 --output pruned/")


@tells("packed")
def packed(report: PackReport, output: Path) -> None:
    """Say what was packed."""
    line(f"{report.n_samples:,} samples ({report.n_files:,} files) in {len(report.shards)} shards in {output}")
    if report.renamed:
        line(f"  {report.renamed:,} keys differ from their path: dots and private names mean something else in a shard")
    if report.left_out:
        line(f"  {report.left_out:,} other files left out")
