"""Tables that map a name to an implementation, imported on demand."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

from sspruning.errors import UsageError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, str], Generic[T]):
    """A family's table: name -> ``"module:attribute"``.

    Targets are strings, so listing the names imports nothing; `resolve` imports the one that is asked for.
    """

    def __init__(self, family: str, table: Mapping[str, str]) -> None:
        """Keep ``table`` under the family's name, which appears in messages."""
        self.family = family
        self._table = dict(table)

    def __getitem__(self, name: str) -> str:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def resolve(self, name: str) -> T:
        """Implementation registered under ``name``.

        Raises:
            UsageError: no such name; the message lists the known ones and the nearest match.
        """
        self.check(name)
        module, _, attribute = self._table[name].partition(":")
        return cast("T", getattr(importlib.import_module(module), attribute))

    def check(self, name: str, also: Iterable[str] = ()) -> None:
        """Raise if ``name`` is neither registered nor in ``also``; imports nothing.

        Args:
            name: what was asked for.
            also: names that mean something to the caller without being an entry.

        Raises:
            UsageError: no such name; the message lists the known ones and the nearest match.
        """
        known = sorted({*self._table, *also})
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"unknown {self.family} {name!r}.{hint} Known: {', '.join(known)}.")

    def options(self, name: str) -> dict[str, object]:
        """Options of the implementation ``name``, with their defaults: its keyword arguments that have one.

        Raises:
            UsageError: no such name.
        """
        parameters = inspect.signature(cast("Callable[..., object]", self.resolve(name))).parameters.values()
        return {entry.name: entry.default for entry in parameters if entry.default is not entry.empty}

    def check_options(self, name: str, given: Mapping[str, object]) -> None:
        """Raise unless every given option exists and has the type of its default.

        Args:
            name: a registered name.
            given: options by name; a whole number passes for a fraction, None where None is the default.

        Raises:
            UsageError: says which options there are, with their defaults, or which type is wanted.
        """
        known = self.options(name)
        for option, value in given.items():
            if option not in known:
                close = difflib.get_close_matches(option, list(known), n=1, cutoff=0.5)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                listed = ", ".join(f"{key}={default}" for key, default in known.items()) or "none"
                raise UsageError(
                    f"{self.family} {name!r} has no option {option!r}.{hint} Known, with defaults: {listed}."
                )
            wanted = known[option]
            fits = wanted is None or type(value) is type(wanted)
            if not fits and not (type(wanted) is float and type(value) is int):
                kind = type(wanted).__name__
                raise UsageError(
                    f"{self.family} {name!r}: option {option!r} is a {kind} such as {wanted!r}; got {value!r}"
                )
