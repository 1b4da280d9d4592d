"""What verbs found, as JSON for other programs: one object a line, on standard output."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["as_line"]


def as_line(kind: str, found: object) -> str:
    """One line of JSON: ``{"kind": kind, ...}`` with the fields of a record, or ``rows`` of several.

    Arrays are given by shape and type, not by their values; NaN and infinity become null.
    """
    value = _plain(found)
    fields = value if isinstance(value, dict) else {"rows": value}
    return json.dumps({"kind": kind, **fields}, ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    """``value`` in the types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return {"shape": list(value.shape), "dtype": str(value.dtype)} if value.shape else _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
