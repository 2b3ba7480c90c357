"""Loaded by schemathesis (`SCHEMATHESIS_HOOKS`): what its data must be told about this server."""

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """Names a route that there is where any valid name stands, so that requests get further than the door; and asks for
    one choice where several would be valid, but not to the `echo` worker."""
    if isinstance(body, dict):
        for field in ("model", "route"):
            name = body.get(field)
            if isinstance(name, str) and 1 <= len(name) <= 256:
                body[field] = "echo"
        if type(body.get("n")) is int and 1 <= body["n"] <= 128:
            body["n"] = 1
    return body


@schemathesis.hook
def filter_body(_: Any, body: Any) -> bool:
    """To JSON Schema 5.0 is an integer; to OpenAI, and so to us, it is not."""
    return not _has_integral_float(body)


def _has_integral_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_integral_float(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_has_integral_float(inner) for inner in value)
    return isinstance(value, float) and value.is_integer()
