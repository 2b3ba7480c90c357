"""Names in templates, with constant keys after them: `steps.draft.items[0]`."""

import re

Key = str | int
Path = tuple[str, tuple[Key, ...]]  # a name, and the keys after it

# The name; its keys.
PATH = r"([A-Za-z][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*|\[-?[0-9]{1,9}\]|\[\"[^\"\\\n]*\"\]|\['[^'\\\n]*'\])*)"
WORDS = frozenset("and or not in is if else true false none True False None".split())
# What else means something to jinja2, or to the sandbox.
NOT_VARIABLES = WORDS | frozenset("elif self range loop recursive import".split())
_KEYS = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(-?[0-9]+)\]|\[\"([^\"]*)\"\]|\['([^']*)'\]")


def keys_of(text: str) -> tuple[Key, ...]:
    """Of the second group of `PATH`."""
    if not text:
        return ()
    if "[" not in text:
        return tuple(text[1:].split("."))
    return tuple(
        int(found[2]) if found[2] is not None else next(key for key in found.group(1, 3, 4) if key is not None)
        for found in _KEYS.finditer(text)
    )
