"""The facts around a selection: the ledger, what it depends on, the command that makes it, what its stages took."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np

from sspruning.config import SelectConfig
from sspruning.errors import SSPruningError, StoreError
from sspruning.fingerprint import short
from sspruning.records import JSONValue, Prototypes, Selection
from sspruning.reporting.contents import Choice, Ledger, OutputFacts, SkippedSample, StageTime
from sspruning.reporting.words import number_of
from sspruning.stages.exclude import EXCLUDE
from sspruning.stages.sidecars import output_of, read_manifest
from sspruning.stages.workspace import Workspace
from sspruning.storage.output_place import OutputPlace, place_of
from sspruning.storage.store import Store

__all__ = [
    "find_output",
    "make_command",
    "make_facts",
    "make_ledger",
    "read_config",
    "read_stages",
    "some_skipped",
    "whole_command",
]

SKIPPED_SHOWN = 60
EVENTS_BYTES = 16 << 20  # of the end of an events file: the last run of each stage is there
CONFIG_BYTES = 1 << 16


def make_ledger(store: Store, reasons: dict[str, int], n_kept: int, output: OutputFacts | None) -> Ledger:
    """`Ledger` of a store and its selection; without one, ``reasons`` is empty and nothing is kept."""
    records, quarantined = store.records(), store.quarantined()
    skipped: Counter[str] = Counter()
    for record in records:
        skipped.update(record.skipped)
    done = {record.shard_id for record in records}
    return Ledger(
        n_shards=len(records),
        n_samples=sum(record.n_samples for record in records),
        n_embedded=store.n_rows,
        skipped=dict(sorted(skipped.items())),
        quarantined={shard: problem for shard, problem in quarantined.items() if shard not in done},
        n_kept=n_kept,
        dropped=reasons,
        output=output,
    )


def not_embedded(store: Store) -> list[str]:
    """A note on shards that have neither a part nor a reason; none if there are none."""
    known = {record.shard_id for record in store.records()} | set(store.quarantined())
    pending = len(set(store.shards()) - known)
    return [f"{number_of(pending, 'shard')} not embedded yet, so not in this report."] if pending else []


def some_skipped(store: Store) -> list[SkippedSample]:
    """Skipped samples, at most so many that each reason has its share of the list; in store order by reason."""
    records = [record for record in store.records() if record.skipped]
    reasons = {reason for record in records for reason in record.skipped}
    most = max(1, SKIPPED_SHOWN // max(len(reasons), 1))
    found: dict[str, list[SkippedSample]] = {reason: [] for reason in sorted(reasons)}
    for record in records:
        if all(len(found[reason]) >= most for reason in record.skipped):
            continue
        with store.open_part(record) as part:
            for _, key, reason in part.skipped():
                if len(listed := found.setdefault(reason, [])) < most:
                    listed.append(SkippedSample(key=key, shard=record.shard_id, reason=reason))
    return [one for listed in found.values() for one in listed]


def find_output(pruned: str | Path | None, workspace: Workspace, selection: Selection) -> OutputFacts | None:
    """The pruned shards of a selection; None if there are none of it.

    Args:
        pruned: folder or URL that was named; None looks where the settings say, silent if other shards stand there.
        workspace: whose settings.
        selection: that the shards must be of.

    Raises:
        StoreError: the folder that was named holds no finished shards, or those of another selection.
    """
    if pruned is not None:
        return _output(place_of(pruned, workspace.root), selection)
    try:
        return _output(place_of(workspace.load_config().paths.output or "pruned", workspace.root), selection)
    except SSPruningError:
        return None


def _output(place: OutputPlace, selection: Selection) -> OutputFacts:
    """By the manifest; for a URL, by its copy here."""
    content, output = read_manifest(place.folder), output_of(place.folder)
    if content.get("selection") != selection.fingerprint or output.n_samples != selection.n_kept:
        raise StoreError(f"{place}: holds the shards of another selection; write them again, or name another folder")
    size = sum(shard.size for shard in output.shards)
    return OutputFacts(folder=str(place), n_shards=len(output.shards), n_samples=output.n_samples, size=size)


def make_command(path: Path, choice: Choice, workspace: Workspace) -> list[str]:
    """Words of the `sspruning select` that makes this selection; the fraction stands behind --keep-fraction."""
    settings = choice.settings
    recipe = str(settings.get("recipe") or "")
    base = SelectConfig.model_validate({"recipe": recipe or None})
    words = ["sspruning", "select", shlex.quote(str(path))]
    if recipe:
        words += ["--recipe", shlex.quote(recipe)]
    if not recipe or choice.keep != base.keep:
        words += ["--keep", shlex.quote(choice.keep)]
    words += ["--keep-fraction", repr(choice.fraction)]
    steps = _steps(settings, workspace)
    for step in steps if steps != base.steps else []:
        words += [word for name, options in step.items() for word in ("--step", _step_word(name, options))]
    for name, value in cast("dict[str, JSONValue]", settings.get("options") or {}).items():
        if base.options.get(name, object()) != value:
            words += ["--option", shlex.quote(f"{name}={_yaml(value)}")]
    flags = (
        ("--balance", choice.balance, base.balance),
        ("--floor", choice.floor, base.floor),
        ("--seed", settings.get("seed", base.seed), base.seed),
        ("--metric", choice.metric, "prototype_distance"),
    )
    words += [word for flag, value, usual in flags if value != usual for word in (flag, shlex.quote(str(value)))]
    return words


def whole_command(workspace: Workspace) -> str:
    """The command that does a run again from its shards; empty where the settings lead elsewhere."""
    try:
        config = workspace.load_config()
    except SSPruningError:
        return ""
    root = Path(config.paths.run_dir or f"runs/{config.name}")
    leads_here = root.resolve() == workspace.root.resolve() and bool(config.corpus.input)
    return f"sspruning run {shlex.quote(str(workspace.config))}" if leads_here else ""


def _steps(settings: Any, workspace: Workspace) -> list[dict[str, dict[str, Any]]]:
    """Steps of a selection; where they name tables by content, those that the settings name by path."""
    steps = cast("list[dict[str, dict[str, Any]]]", settings.get("steps") or [])
    if any(EXCLUDE in step for step in steps):
        try:
            return [dict(step) for step in workspace.load_config().select.steps]
        except SSPruningError:
            return steps
    return steps


def _step_word(name: str, options: dict[str, Any]) -> str:
    return shlex.quote(" ".join([name, *(f"{key}={_yaml(value)}" for key, value in options.items())]))


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


def make_facts(store: Store, prototypes: Prototypes | None, selection: Selection | None) -> list[tuple[str, str]]:
    """Name and value of what a selection depends on."""
    encoder = store.settings["encoder"]
    identity = encoder if isinstance(encoder, dict) else {}
    name = identity.get("model") or identity.get("encoder") or identity.get("name") or "unknown"
    found = [("Encoder", f"{name}, {store.dim} dimensions")]
    if isinstance(weights := identity.get("weights_sha256"), str):
        found.append(("Weights, sha256", short(weights)))
    preprocess = identity.get("preprocess")
    size = preprocess.get("input_size") if isinstance(preprocess, dict) else None
    if isinstance(size, list) and len(size) == 3:
        found.append(("Input of the encoder", f"{size[1]} x {size[2]} pixels"))
    if prototypes is not None:
        found.append(("Prototypes", str(prototypes.info.get("k_reason") or f"k = {prototypes.k}")))
    if selection is not None:
        settings = selection.settings
        asked = f" (asked for: {settings['asked']})" if "asked" in settings else ""
        recipe = f"recipe {settings['recipe']}: " if settings.get("recipe") else ""
        found.append(("Policy", f"{recipe}{settings.get('keep')}{asked}"))
        found.append(("Score", f"{settings.get('metric')}, {settings.get('distance')}"))
        found.append(("Cluster floor", f"{settings.get('balance')}, {settings.get('floor')}"))
        found.append(("Fingerprint of the selection", short(selection.fingerprint)))
        found.append(("Fingerprint of the embeddings", short(str(settings.get("content", "")))))
    found.append(("Report made by", f"sspruning {_version()}, numpy {np.__version__}"))
    return found


def _version() -> str:
    try:
        return importlib.metadata.version("sspruning")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read_config(workspace: Workspace) -> str:
    """The settings last used, as YAML text; empty where there are none that can be shown."""
    try:
        if workspace.config.stat().st_size > CONFIG_BYTES:
            return ""
        return workspace.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def read_stages(workspace: Workspace) -> list[StageTime]:
    """What each stage took when it last ran to its end, in the order in which stages came first."""
    found: dict[str, StageTime] = {}
    units: dict[str, str] = {}
    for path in dict.fromkeys((workspace.store / "logs" / "events.jsonl", workspace.events)):
        for event in _events(path):
            if event.get("event") == "start":
                units[str(event.get("stage"))] = str(event.get("unit") or "")
            if (one := _stage_time(event, units)) is not None:
                found[one.stage] = one
    return list(found.values())


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - EVENTS_BYTES))
            lines = stream.read(EVENTS_BYTES).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [event] if isinstance(event, dict) else []
    return found


def _stage_time(event: dict[str, Any], units: dict[str, str]) -> StageTime | None:
    """The time that an event tells of; None for other events."""
    if event.get("event") != "end":
        return None
    done, seconds, memory = event.get("done"), event.get("seconds"), event.get("peak_bytes")
    if not isinstance(done, int) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e12:
        return None
    return StageTime(
        stage=str(event.get("stage")),
        done=done,
        unit=units.get(str(event.get("stage")), ""),
        seconds=float(seconds),
        memory=memory if isinstance(memory, int) else None,
    )
