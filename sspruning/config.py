"""Configuration: one frozen model a stage, strict YAML, ``section.key=value`` overrides.

Sections up to `write` decide what comes out; `execution` and `paths` decide where, and enter no fingerprint.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, Field, ValidationError

from sspruning.errors import ConfigError
from sspruning.execution.devices import visible_gpus
from sspruning.records import JSONValue
from sspruning.sections import (
    ClusterConfig,
    CorpusConfig,
    EncoderConfig,
    ExecutionConfig,
    PathsConfig,
    ScoreConfig,
    Section,
    SelectConfig,
    WriteConfig,
)
from sspruning.strict_yaml import parse_yaml

__all__ = [
    "ClusterConfig",
    "Config",
    "CorpusConfig",
    "EncoderConfig",
    "ExecutionConfig",
    "PathsConfig",
    "ScoreConfig",
    "SelectConfig",
    "WriteConfig",
    "load_config",
    "override",
]

CONFIG_CAP_BYTES = 1 << 20
SHOWN_CHARS = 200
SHOWN_PROBLEMS = 20


class Config(Section):
    """A whole run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, and of its folder."""
    corpus: CorpusConfig = CorpusConfig()
    encoder: EncoderConfig = EncoderConfig()
    cluster: ClusterConfig = ClusterConfig()
    score: ScoreConfig = ScoreConfig()
    select: SelectConfig = SelectConfig()
    write: WriteConfig = WriteConfig()
    execution: ExecutionConfig = ExecutionConfig()
    paths: PathsConfig = PathsConfig()

    def recipe(self) -> dict[str, JSONValue]:
        """The part of the configuration that decides the result, as plain JSON."""
        return cast("dict[str, JSONValue]", self.model_dump(mode="json", exclude={"name", "execution", "paths"}))

    def to_yaml(self, *, recipe_only: bool = False) -> str:
        """The configuration as YAML text that `load_config` reads back."""
        return yaml.safe_dump(self.recipe() if recipe_only else self.as_json(), sort_keys=False, allow_unicode=True)


def load_config(path: Path | None, overrides: list[str] | None = None, *, base: Config | None = None) -> Config:
    """The configuration of a YAML file, with ``section.key=value`` overrides on top.

    Args:
        path: YAML file; None starts from ``base`` or the defaults.
        overrides: such as ``select.keep_fraction=0.7``; values are read as YAML.
        base: what to start from without a file.

    Raises:
        ConfigError: unreadable file, unknown or repeated key, value outside its range; names the key and the cure.
    """
    content: object = {}
    where = "configuration"
    if path is not None:
        where = str(path)
        try:
            if path.stat().st_size > CONFIG_CAP_BYTES:
                raise ConfigError(f"{path}: larger than {CONFIG_CAP_BYTES} bytes; not a configuration")
            content = parse_yaml(path.read_text(encoding="utf-8"), where) or {}
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text") from error
    elif base is not None:
        content = base.as_json()
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected sections such as 'corpus:' and 'select:', got {type(content).__name__}")
    content = {key: value for key, value in content.items() if value is not None}  # an empty section is the default
    for text in overrides or []:
        _apply(content, text)
    return _validated(content, where)


def override(config: Config, section: str, **values: object) -> Config:
    """``config`` with the given values of one section; None values are left as they are.

    Raises:
        ConfigError: a value is outside its range.
    """
    content = cast("dict[str, Any]", config.as_json())
    if section == "select" and values.get("recipe") is not None:
        _make_room(content)
    if section == "write" and values.get("samples_per_shard") is not None:
        content["write"]["num_shards"] = None  # else it would be asked for in vain
    content[section].update({key: value for key, value in values.items() if value is not None})
    return _validated(content, "command line")


def _make_room(content: dict[str, Any]) -> None:
    """Forget what was chosen before a recipe: what the recipe says of it counts."""
    for key in ("recipe", "steps", "keep", "options", "balance"):
        content.get("select", {}).pop(key, None)


def _apply(content: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text!r}: expected section.key=value, for example select.keep_fraction=0.7")
    if key.strip() == "select.recipe":
        _make_room(content)
    if key.strip() == "write.samples_per_shard" and isinstance(content.get("write"), dict):
        content["write"].pop("num_shards", None)
    *sections, last = key.strip().split(".")
    for name in sections:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {text!r}: {name!r} is a value, not a section")
    content[last] = parse_yaml(value, f"--set {text!r}") if value.strip() else None


def _validated(content: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        lines = [_problem(where, entry) for entry in found[:SHOWN_PROBLEMS]]
        if len(found) > SHOWN_PROBLEMS:
            lines.append(f"{where}: and {len(found) - SHOWN_PROBLEMS:,} problems more")
        raise ConfigError("\n".join(lines)) from None


def _shown(value: object) -> str:
    """``value`` as far as a message has room for it."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def _problem(where: str, entry: Any) -> str:
    """One line for one problem: where, what, got, and the nearest known key."""
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] != "extra_forbidden":
        return f"{where}: {key}: {entry['msg']}; got {_shown(entry['input'])}"
    known = list(Config.model_fields)
    if len(entry["loc"]) == 2 and (field := Config.model_fields.get(str(entry["loc"][0]))) is not None:
        known = list(cast("type[BaseModel]", field.annotation).model_fields)
    close = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{where}: unknown key {key!r}.{hint} Known here: {', '.join(known)}."


def default_workers(device: str) -> int:
    """Worker processes to use when none are asked for: one for each usable core, or one for each GPU in sight."""
    gpus = visible_gpus() if device in {"auto", "cuda"} else ()
    if gpus:
        return len(gpus)
    if device not in {"auto", "cpu"}:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
