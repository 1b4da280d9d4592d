"""YAML as configurations need it: the safe loader, without repeated keys and references."""

from __future__ import annotations

from typing import Any

import yaml

from sspruning.errors import ConfigError

__all__ = ["parse_yaml"]


VALUE_CAP = 1 << 14  # characters of one value; YAML 1.1 reads 1:1:1:... as one number, in quadratic time


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, references and endless values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError(f"{_place(self.peek_event().start_mark)}: references (*name) are not read")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if len(value) > VALUE_CAP:
            raise ConfigError(f"{_place(node.start_mark)}: a value of {len(value)} characters; at most {VALUE_CAP}")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise ConfigError(f"{_place(key_node.start_mark)}: the key {key!r} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _place(mark: yaml.Mark | None) -> str:
    return f"{mark.name}: line {mark.line + 1}" if mark is not None else "YAML"


def parse_yaml(text: str, where: str) -> object:
    """What a YAML text says; ``where`` it stands is named in messages.

    Raises:
        ConfigError: no YAML, a key that occurs twice, a reference, a value or nesting without end.
    """
    try:
        loader = _StrictLoader(text)
        loader.name = where
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        raise ConfigError(f"{where}: not readable as YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error
