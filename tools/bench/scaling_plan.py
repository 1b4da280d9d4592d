"""What a billion samples would take, from measured rates and named assumptions; kept apart so that both can be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.scaling_model import Replay

__all__ = ["Assumptions", "plan_table"]

# Measured on 2 cores, see results.csv.
DECODE_PER_CORE = 798.8 / 2  # photographs a second, decoded and prepared for 224 pixels
CLUSTER_FLOP = 2 * 384 * 1000 * (512_000 * 20 + 1_000_000)  # k-means on 512 points a centroid, then one assignment
CLUSTER_FLOPS_PER_CORE = CLUSTER_FLOP / 56.17 / 2  # 1,000,000 x 384, k = 1000, with score and select
WRITE_PER_CORE, WRITE_BYTES = 34_041, 2_570  # samples a second, digests verified; bytes of one in its shard
# Sourced: results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv of timm, vit_small_patch16_224, batch 1024.
RTX4090_PER_S = 7693
# By FORMAT.md; the last from a selection of 9,000 samples.
EMBEDDING_BYTES, ASSIGNMENT_BYTES, SCORE_BYTES, SELECTION_BYTES = 2 * 384, 20, 4, 21
PART_ROW_BYTES = 100  # keys, ranges, digests of one sample, measured on CIFAR-10
N = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no machine here can show."""

    samples_per_shard: int = 10_000
    image_bytes: int = 25_000
    gpu_per_s: float = 2 * RTX4090_PER_S
    """Forward passes of one H100."""
    decode_threads: int = 8
    """Of a worker with a GPU; the package's own number, not an assumption."""
    latency_s: float = 0.0005
    """Of one call to the shared file system."""
    server_calls_per_s: float = 20_000
    """What its metadata server answers, all tasks together."""
    calls_per_shard: float = 5.0
    """Of a task that looks at all shards, for each of them; counted with strace: `open_corpus`."""
    calls_per_own_shard: float = 26.0
    """For each of its own; counted: a look at it and four reads of its commit record."""
    calls_of_the_last: float = 19.0
    """Of the last task, for each shard; counted: a look at it and three reads of its commit record."""
    cores: int = 64
    """Of the machine for the steps after embedding."""
    keep_fraction: float = 0.5

    @property
    def per_s(self) -> float:
        """Samples a second of one task with a GPU."""
        return min(self.gpu_per_s, self.decode_threads * DECODE_PER_CORE)

    @property
    def shard_s(self) -> float:
        """Seconds of one shard."""
        return self.samples_per_shard / self.per_s

    @property
    def shards_each(self) -> int:
        """Shards of each of 512 tasks that embed a billion samples."""
        return round(N / self.samples_per_shard / 512)

    def in_words(self) -> list[str]:
        """All of them, for people."""
        return [
            f"Assumed: shards of {self.samples_per_shard:,} photographs; an H100 for each task, ViT-S/16 at 224 px, "
            f"{self.gpu_per_s:,.0f} forward passes a second (twice the {RTX4090_PER_S:,} that timm's results list for "
            "an RTX 4090, PyTorch 2.4, amp). "
            f"Measured: one core of ours decodes {DECODE_PER_CORE:,.0f} photographs a second. A worker with a GPU "
            f"decodes with {self.decode_threads} threads, so a task does {self.per_s:,.0f} a second, "
            f"{self.per_s / self.gpu_per_s:.0%} of what its GPU could. Shards vary as the recorded ones do.",
            "",
            f"Assumed of the file system: {self.latency_s * 1e3:g} ms a call, {self.server_calls_per_s:,.0f} calls a "
            f"second for all tasks. Counted with strace: {self.calls_per_own_shard:g} calls of a task for each "
            f"of its own shards, {self.calls_per_shard:g} for each shard of the corpus if it has to look at all, and "
            f"{self.calls_of_the_last:g} for each by the task that comes last.",
        ]


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def plan_table(assumed: Assumptions, array: Replay) -> list[str]:
    """A plan for a billion samples, line by line."""
    k = round(np.sqrt(N))
    flop = 2 * 384 * k
    kmeans_h = flop * 512 * k * 20 / CLUSTER_FLOPS_PER_CORE / 3600
    assign_h = flop * N / CLUSTER_FLOPS_PER_CORE / 3600
    gpu_h = N / assumed.per_s / 3600
    read = N * assumed.image_bytes
    per_task = assumed.per_s * assumed.image_bytes
    write_h = read * assumed.keep_fraction / (WRITE_PER_CORE * WRITE_BYTES) / 3600
    rows = [
        ("embed, 512 tasks", f"{array.total_s / 3600:.2f} h", f"{_size(read)} read, {_size(512 * per_task)}/s by all",
         f"{gpu_h:,.0f} GPU-hours of forward passes and decoding; decoding is the bound: "
         f"{assumed.gpu_per_s / DECODE_PER_CORE:.0f} cores would keep one GPU busy"),
        ("embed, 64 tasks", f"{gpu_h / 64:.1f} h", f"{_size(64 * per_task)}/s by all", "the same GPU-hours"),
        ("store", "", _size(N * (EMBEDDING_BYTES + PART_ROW_BYTES)),
         f"{EMBEDDING_BYTES} bytes of embedding and about {PART_ROW_BYTES} of keys, places and digests a sample"),
        (f"k-means, k = {k:,}", f"{kmeans_h / assumed.cores:.1f} h on {assumed.cores} cores",
         f"{_size(512 * k * 384 * 4)} of memory", f"{kmeans_h:,.0f} core-hours: 512 points a centroid, 20 iterations"),
        ("assign and score", f"{assign_h / assumed.cores:.1f} h on {assumed.cores} cores",
         f"{_size(N * (ASSIGNMENT_BYTES + SCORE_BYTES))} written", f"{assign_h:,.0f} core-hours; grows as n times k"),
        ("select", "not measured at this size", f"about {_size(N * SELECTION_BYTES)} written", "see below"),
        ("write, keep half", f"{write_h:,.0f} core-hours",
         f"{_size(2 * read * assumed.keep_fraction)} read and written",
         f"bytes: {WRITE_PER_CORE * WRITE_BYTES / 1e6:,.0f} MB/s a core were measured, on small samples"),
    ]  # fmt: skip
    return [
        f"## A plan for {N:,} samples",
        "",
        f"100,000 shards of {_size(assumed.samples_per_shard * assumed.image_bytes)}; everything above is assumed or "
        f"measured as said there. K-means and assignment: {CLUSTER_FLOPS_PER_CORE / 1e9:,.0f} GFLOP/s a core, measured "
        "at a million samples and k = 1000 with all that surrounds it; that cores add up is an assumption.",
        "",
        "| step | time | bytes | what it costs, and why |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "Not measured, so not in the plan: memory and time of `cluster`, `score` and `select` far beyond a million "
        "samples, k-means on GPUs or several machines, and a real shared file system.",
    ]
