"""What a run would do, before it does it: counts, bytes, and what is done already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sspruning.config import Config, CorpusConfig
from sspruning.errors import UsageError
from sspruning.progress import Progress
from sspruning.stages.fill import pending_shards
from sspruning.stages.inspect import (
    Inspection,
    inspect_corpus,
    refuse_bad_prefixes,
    refuse_repeated_keys,
    refuse_repeated_starts,
)
from sspruning.stages.output_plan import shard_count
from sspruning.stages.select import kept_count
from sspruning.storage.corpus import Corpus
from sspruning.storage.store import Store
from sspruning.storage.urls import is_url

__all__ = ["Plan", "make_plan"]

ROW_OVERHEAD_BYTES = 100  # keys, ranges, digests, assignment and score of one sample; measured on CIFAR-10


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, before it does it."""

    inspection: Inspection | None
    pending_shards: int
    n_shards: int
    pending_bytes: int
    size_bytes: int
    n_samples: int | None
    """Samples with an image; None without a preflight."""
    n_kept: int | None
    bytes_per_row: int
    """Of the store; for 384 dimensions until an encoder is known."""
    output_bytes: int
    n_output_shards: int | None
    """Of a whole run whose samples are known."""

    @property
    def n_in_shards(self) -> int | None:
        """All samples, with or without an image; None without a preflight."""
        return None if self.inspection is None else self.inspection.n_samples


def make_plan(
    corpus: Corpus,
    store: Path,
    config: Config,
    progress: Progress,
    *,
    whole_run: bool = True,
    whole_corpus: bool = True,
) -> Plan:
    """`Plan` of a run: counts, bytes, and what is done already.

    Reads all tar headers, unless `corpus.preflight` is off or shards are remote: then the first ones of some shards.

    Args:
        corpus: the input.
        store: where embeddings are or will be.
        config: the whole configuration.
        progress: told while headers are read.
        whole_run: False checks only what an embedding needs, not clusters and fractions.
        whole_corpus: False if ``corpus`` is the share of one task, which may hold no image at all.

    Raises:
        UsageError: repeated keys, more prototypes than samples, a fraction that keeps nothing, or more output shards
            than samples.
    """
    pending, opened = pending_shards(store, corpus), Store.at(store)
    if config.corpus.repeated_keys == "prefix":
        refuse_bad_prefixes(corpus)
    inspection, n = None, None
    if not pending:
        done = None if opened is None else opened.records_of(shard.shard_id for shard in corpus.shards)
        n = None if done is None else sum(record.n_rows for record in done)
    elif config.corpus.preflight:
        inspection = _preflight(corpus, config.corpus, progress)
        n = None if inspection is None else _with_image(inspection)
    if n == 0 and whole_corpus and inspection is not None and not inspection.problems:
        raise UsageError(
            f"no sample has a member with one of the suffixes {config.corpus.image_key!r}; "
            f"the corpus has {', '.join(inspection.suffixes) or 'none'}; set --image-key"
        )
    wanted = config.cluster.n_clusters if whole_run else None
    if n is not None and wanted is not None and wanted > n:
        raise UsageError(f"cluster.n_clusters is {wanted} but there are {n} samples; ask for fewer")
    n_kept = kept_count(n, config.select.keep_fraction) if n and whole_run else None
    return Plan(
        inspection=inspection,
        pending_shards=len(pending),
        n_shards=len(corpus.shards),
        pending_bytes=sum(shard.size for shard in pending),
        size_bytes=corpus.size_bytes,
        n_samples=n,
        n_kept=n_kept,
        bytes_per_row=2 * (384 if opened is None else opened.dim) + ROW_OVERHEAD_BYTES,
        output_bytes=round(corpus.size_bytes * config.select.keep_fraction),
        n_output_shards=None if n_kept is None else shard_count(n_kept, config.write),
    )


def _preflight(corpus: Corpus, config: CorpusConfig, progress: Progress) -> Inspection | None:
    """What is in the corpus; None if shards are remote, of which only the first keys are compared."""
    refuse, lenient = config.repeated_keys == "refuse", config.allow_missing_end
    if any(is_url(shard.path) for shard in corpus.shards):
        progress.note(
            "the headers of remote shards are read while they are embedded, not before: damaged shards and keys that "
            "shards share are found then; `sspruning inspect` reads them all"
        )
        if refuse:
            refuse_repeated_starts(corpus, allow_missing_end=lenient)
        return None
    inspection = inspect_corpus(corpus, config.suffixes, progress, allow_missing_end=lenient)
    if refuse:
        refuse_repeated_keys(inspection)
    return inspection


def _with_image(inspection: Inspection) -> int:
    return inspection.n_samples - inspection.without_image - sum(inspection.skipped.values())
