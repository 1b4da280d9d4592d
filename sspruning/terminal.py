"""What the command line says: summaries, plans, errors. One place for words, so that verbs stay thin."""

from __future__ import annotations

import errno
import inspect
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sspruning.errors import InterruptedRunError, MachineError, QuarantineError, SSPruningError
from sspruning.progress import escaped
from sspruning.stopping import STOPPED, asked_to_stop, stoppable
from sspruning.terminal_json import as_line

if TYPE_CHECKING:
    from sspruning.config import Config
    from sspruning.progress import ConsoleProgress
    from sspruning.records import EmbedReport, Manifest, Prototypes, Scores, Selection
    from sspruning.stages.advise import Advice
    from sspruning.stages.inspect import Inspection
    from sspruning.stages.report import ReportFile
    from sspruning.stages.share import Share
    from sspruning.stages.status import Status
    from sspruning.stages.verify import VerifyReport

__all__ = [
    "advised",
    "clustered",
    "console",
    "embedded",
    "exit_if_quarantined",
    "inspection",
    "line",
    "print_plan",
    "reported",
    "scores",
    "selected",
    "settings",
    "size",
    "status",
    "tells",
    "verb",
    "verified",
    "written",
]


@dataclass(slots=True)
class _Settings:
    """How much to say; set once, before a verb runs."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    last: bool = False
    """The process ends after the verb."""


settings = _Settings()
Json = Annotated[bool, typer.Option("--json", help="Print what was found as JSON, an object a line.")]


def line(text: str = "") -> None:
    """One line for people on standard output."""
    if not settings.quiet and not settings.as_json:
        typer.echo(escaped(text))


def tells(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a function that tells people of its first argument tell programs instead, if JSON is asked for."""

    def telling(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def told(found: object, *args: Any, **kwargs: Any) -> None:
            if settings.as_json:
                typer.echo(as_line(kind, found))
            function(found, *args, **kwargs)

        return told

    return telling


def console(events: Path | None = None) -> ConsoleProgress:
    """Progress for people on standard error, and ``events.jsonl`` if a path is given."""
    from sspruning.progress import ConsoleProgress

    return ConsoleProgress(events, quiet=settings.quiet)


SHOWN_SUFFIXES = 50


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one message and an exit code, a signal into exit 4; and add the flag --json."""

    @wraps(function)
    def guarded(*args: Any, as_json: bool = False, **kwargs: Any) -> None:
        settings.as_json = as_json
        with stoppable(last=settings.last):
            try:
                function(*args, **kwargs)
            except typer.Exit:
                raise
            except (Exception, KeyboardInterrupt) as error:
                told = _in_words(error)
                if told is None:
                    raise
                fail(told)

    own = inspect.signature(function, eval_str=True)  # typer takes a signature that it is given as it is
    flag = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    signed = cast("Any", guarded)
    signed.__signature__ = own.replace(parameters=[*own.parameters.values(), flag])
    signed.__annotations__ = {**function.__annotations__, "as_json": Json}
    return guarded


def _in_words(error: BaseException) -> SSPruningError | None:
    """The error to tell a person of; None for one that nobody foresaw, and for a pipe that was closed."""
    if isinstance(error, KeyboardInterrupt) or asked_to_stop():  # some libraries make another error of the stop
        told: SSPruningError = InterruptedRunError(STOPPED)
    elif isinstance(error, SSPruningError):
        return error
    elif isinstance(error, MemoryError):
        told = MachineError("out of memory; use fewer --workers or a smaller encoder.batch_size")
    elif isinstance(error, OSError) and error.errno != errno.EPIPE:  # whoever read what is printed has had enough
        place = error.filename
        where = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes | os.PathLike) else ""
        told = MachineError(
            f"{where}{error.strerror or error}; check disk and permissions, then run the same command again, it goes "
            "on from here"
        )
    else:
        return None
    told.__cause__ = error
    return told


def fail(error: SSPruningError) -> None:
    """Print the error and leave with its exit code."""
    if settings.verbose:
        import traceback

        typer.echo(escaped("".join(traceback.format_exception(error))), err=True)
    typer.echo(escaped(f"sspruning: {error}"), err=True)
    raise typer.Exit(error.exit_code)


def size(number: float) -> str:
    """Bytes for people: 512 B, 20.3 MB."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return ""


@tells("embedded")
def embedded(report: EmbedReport, store: Path) -> None:
    """Say what an embedding job did."""
    for note in report.notes:
        line(f"  {note}")
    line(f"{report.n_embedded:,} of {report.n_samples:,} samples of {report.n_shards:,} shards are embedded in {store}")
    if report.done_now == 0:
        line("  nothing to do: every shard was up to date")
    for reason, count in report.skipped.items():
        line(f"  skipped, {reason}: {count:,}")


def exit_if_quarantined(report: EmbedReport) -> None:
    """Leave with exit code 3 if shards were put aside."""
    if report.quarantined:
        lines = "\n".join(f"  {shard}: {problem}" for shard, problem in list(report.quarantined.items())[:20])
        raise QuarantineError(f"{len(report.quarantined)} shards were put aside, all others are done:\n{lines}")


@tells("selected")
def selected(selection: Selection) -> None:
    """Say what a selection keeps."""
    settings = selection.settings
    share = selection.n_kept / selection.n_embedded
    asked = f" (asked for: {settings['asked']})" if "asked" in settings else ""
    recipe = f"recipe {settings['recipe']}: " if settings.get("recipe") else ""
    policy = f"{recipe}{settings['keep']}{asked} by {settings['metric']}"
    line(
        f"kept {selection.n_kept:,} of {selection.n_embedded:,} samples ({share:.1%}): {policy}, "
        f"{settings['n_clusters']} prototypes, cluster floor {settings['balance']}"
    )
    for step, gone in cast("dict[str, int]", settings["dropped"]).items():
        line(f"  step {step} took {gone:,}")
    line(f"  selection: {selection.path}")


@tells("report")
def reported(found: ReportFile) -> None:
    """Say where a report stands, with its histogram."""
    for text in (*found.bars, *found.notes):
        line(f"  {text}")
    line(f"report: {found.path} ({size(found.size)}, {found.n_pictures:,} pictures); open it in a browser")


@tells("written")
def written(manifest: Manifest) -> None:
    """Say what was written, and how to prove it."""
    total = sum(int(str(shard["size"])) for shard in manifest.shards)
    line(f"{manifest.n_kept:,} samples in {len(manifest.shards):,} shards, {size(total)}, in {manifest.path}")
    line(f"  prove it with: sspruning verify {manifest.path}")


def print_plan(config: Config, store: Path, *, whole_run: bool, share: Share | None = None) -> None:
    """Say what a run, or a task that has a share of the shards, would do: counts, bytes, time."""
    from sspruning.progress import duration
    from sspruning.stages.embed import estimated_seconds
    from sspruning.stages.plan import make_plan
    from sspruning.storage.corpus import open_corpus

    corpus = open_corpus(config.corpus.input)
    if share is not None and share.task is not None:
        line(share.describe(corpus))
        corpus = share.of(corpus)
        if not corpus.shards:
            return
    found = make_plan(corpus, store, config, console(), whole_run=whole_run)
    samples = "unknown" if found.n_samples is None else f"{found.n_samples:,}"
    line(f"input: {found.n_shards:,} shards, {size(found.size_bytes)}, samples with an image: {samples}")
    line(f"to embed: {found.pending_shards:,} shards, {size(found.pending_bytes)}")
    if found.n_samples is not None:
        pending = found.pending_bytes / max(found.size_bytes, 1)
        seconds, source = estimated_seconds(store, round(found.n_samples * pending), config)
        line(f"  time: about {duration(seconds)} ({source})")
        line(f"  store: about {size(found.n_samples * found.bytes_per_row)} in {store}")
    if whole_run and found.n_kept is not None:
        line(f"to keep: {found.n_kept:,} samples ({config.select.keep_fraction:.1%}), {config.select.keep}")
        shards = f" in {found.n_output_shards:,} shards" if found.n_output_shards else ""
        line(f"  output: about {size(found.output_bytes)}{shards} in {config.paths.output or 'pruned'}")
    for path, problem in (found.inspection.problems if found.inspection else {}).items():
        line(f"  DAMAGED {path}: {problem}")
    line("nothing was done (--dry-run)")


@tells("inspection")
def inspection(found: Inspection, image_key: str) -> None:
    """Say what is in a corpus; leave with exit code 3 if something is wrong."""
    line(f"{found.n_samples:,} samples in {found.n_shards:,} shards, {size(found.size_bytes)}")
    for suffix, count in found.suffixes.most_common(SHOWN_SUFFIXES):
        line(f"  .{suffix:<12} {count:>12,} members {size(found.suffix_bytes[suffix]):>10}")
    if len(found.suffixes) > SHOWN_SUFFIXES:
        line(f"  and {len(found.suffixes) - SHOWN_SUFFIXES:,} other suffixes")
    for kind, count in found.sample_kinds.most_common(10):
        line(f"  samples with {kind}: {count:,}")
    if found.without_image:
        line(f"  without an image ({image_key}): {found.without_image:,}")
    for reason, count in (found.skipped + found.ignored).most_common():
        line(f"  {reason}: {count:,}")
    for repeated in found.repeated_keys:
        line(f"  repeated key {repeated}")
    if found.repeated_keys:
        line("  shards that share keys are told apart with: sspruning embed ... --repeated-keys prefix")
    for path, problem in found.problems.items():
        line(f"  DAMAGED {path}: {problem}")
    if found.problems or found.repeated_keys:
        raise QuarantineError(f"{len(found.problems)} damaged shards, {len(found.repeated_keys)} repeated keys")
    line("no problems found")


@tells("advice")
def advised(found: Advice, store: Path) -> None:
    """Say what to run, why, and what to look at first."""
    line(f"sspruning select {shlex.quote(str(store))} {found.options}")
    for reason in found.numbered:
        line(reason)
    for warning in found.warnings:
        typer.echo(escaped(f"warning: {warning}"), err=True)


@tells("scores")
def scores(found: Scores) -> None:
    """Say how scores and clusters are spread."""
    facts = found.summary
    line(f"{found.n_rows:,} samples scored by {found.metric}; larger = harder")
    line(f"  min {facts['min']:.4f}   mean {facts['mean']:.4f}   max {facts['max']:.4f}")
    sizes = found.cluster_sizes
    line(
        f"  clusters: {len(sizes):,}, members {sizes.min():,} to {sizes.max():,}, "
        f"{int((sizes == 0).sum())} empty, {int(((sizes > 0) & (sizes < 3)).sum())} with one or two"
    )


@tells("status")
def status(found: Status) -> None:
    """Say what is done; leave with 4 if shards are missing, with 3 if some are in quarantine."""
    line(f"{found.store}: {found.n_committed:,} of {found.n_shards:,} shards embedded ({found.encoder})")
    line(f"  samples: {found.n_samples:,}, embedded: {found.n_embedded:,}")
    for reason, count in found.skipped.items():
        line(f"  skipped, {reason}: {count:,}")
    line(f"  prototypes: {found.prototypes}")
    line(f"  selection: {found.selection}")
    for text in found.bars:
        line(f"    {text}")
    for text in found.at_work:
        line(f"  {text}")
    if found.pending:
        raise InterruptedRunError(f"{len(found.pending)} shards are not embedded yet: {', '.join(found.pending[:5])}")
    if found.quarantined:
        lines = "\n".join(f"  {shard}: {problem}" for shard, problem in list(found.quarantined.items())[:20])
        raise QuarantineError(f"{len(found.quarantined)} shards are in quarantine:\n{lines}")


@tells("verified")
def verified(report: VerifyReport, folder: str | Path) -> None:
    """Say what was proved; leave with 3 if something is wrong."""
    for what, count in report.checked.items():
        line(f"{count:,} {what}")
    for note in report.notes:
        line(f"  note: {note}")
    if not report.ok:
        raise QuarantineError(
            f"{report.n_problems} problems in {folder}:\n" + "\n".join(f"  {p}" for p in report.problems)
        )
    line(f"{folder}: verified")


@tells("prototypes")
def clustered(found: Prototypes) -> None:
    """Say how the clustering went."""
    line(f"{found.k:,} prototypes from {found.sample_size:,} samples ({found.info.get('k_reason')})")
    if len(found.objective) > 1:
        line(
            f"  objective {found.objective[0]:.6g} after the first, {found.objective[-1]:.6g} after the last iteration"
        )
    told = cast("dict[str, Any] | None", found.info.get("full_rounds"))
    if told is not None:
        line(
            f"  {told['rounds']} of {told['asked']} rounds over all {found.info['n_embedded']:,} samples: objective "
            f"{told['objective'][0]:.6g} before, {told['objective'][-1]:.6g} after; "
            f"{told['moved'][-1]:,} prototypes moved in the last"
        )
        if any(told["refilled"]):
            line(f"  {sum(told['refilled']):,} times a prototype without samples was given the farthest one")
    if found.info.get("note"):
        line(f"  {found.info['note']}")
