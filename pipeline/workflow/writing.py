"""Definitions as text: what `source` reads again as the same."""

from typing import Any

import msgspec
import yaml

from pipeline.workflow.definition import Definition
from pipeline.workflow.markup_yaml import plain

_WIDTH = 120
_BREAKS = ("\x85", "\u2028", "\u2029", "\r")  # end lines in YAML 1.1


def to_yaml(definition: Definition | dict[str, Any]) -> str:
    """YAML, keys in the order of the definition's fields; texts of several lines as blocks."""
    return yaml.dump(msgspec.to_builtins(definition), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


def to_json(definition: Definition | dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(definition))


class _Dumper(yaml.SafeDumper):
    """No anchors. Texts that would be read as something else stand in quotes: this library goes by YAML 1.1 alone."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002
        del indentless  # items of lists stand further in than their key
        super().increase_indent(flow, False)

    def text(self, text: str) -> yaml.ScalarNode:
        style = None
        if not _is_plain(text) or text == "<<" or any(mark in text for mark in _BREAKS):
            style = '"'
        elif "\n" in text:
            style = "|"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.text)


def _is_plain(text: str) -> bool:
    try:
        return bool(plain(text) == text)
    except ValueError:
        return False
