"""Loaded by schemathesis (`SCHEMATHESIS_HOOKS`): what its data must be told about this server.

Valid data may still be refused for what it asks of a backend, or come too late: valid names become that of a route,
valid limits ones that can be kept. What is not valid stays as it is.
"""

from typing import Any

import schemathesis

MOST = {
    "n": (128, 1),
    "dimensions": (65_536, 100),
    "max_tokens": (2**31 - 1, 100),
    "max_completion_tokens": (2**31 - 1, 100),
}
NATIVE = {
    "best_of": lambda value: _within(value, 128),
    "echo": lambda value: value is True,
    "logprobs": lambda value: type(value) is int and 0 <= value <= 100,
    "suffix": lambda value: isinstance(value, str),
}
TIMEOUT_MAX, TIMEOUT = 86_400_000, 60_000
DEFINITION = {
    "name": "made",
    "steps": [{"id": "a", "type": "transform", "operation": "template", "template": "x"}],
}
RUN = "run_known"  # of the workflow `made`; the test starts it


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    for field in ("model", "route"):
        if isinstance(body.get(field), str) and 1 <= len(body[field]) <= 256:
            body[field] = "echo"
    for fields in (body, body.get("parameters")):
        for field, (most, instead) in MOST.items():
            if isinstance(fields, dict) and _within(fields.get(field), most):
                fields[field] = instead
    if isinstance(body.get("prompt"), list) and all(isinstance(text, str) for text in body["prompt"]):
        del body["prompt"][1:]  # several, and what follows, need a backend that has completions of its own
    for field, is_asked_for in NATIVE.items():
        if is_asked_for(body.get(field)):
            del body[field]
    if type(body.get("max_tokens")) is int and body["max_tokens"] == 0 and "prompt" in body:
        body["max_tokens"] = 1
    if _within(body.get("timeout_ms"), TIMEOUT_MAX):
        body["timeout_ms"] = TIMEOUT
    return body


@schemathesis.hook
def map_headers(_: Any, headers: Any) -> Any:
    for name, value in (headers or {}).items():
        if name.lower() == "x-request-timeout-ms" and str(value).isdecimal() and _within(int(value), TIMEOUT_MAX):
            headers[name] = str(TIMEOUT)
    return headers


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: Any) -> None:
    """Definitions, which no schema says all of, become one that is valid; every second run or workflow asked for is one
    that is there; a place in a list is the beginning, as none can be guessed."""
    path = case.operation.path
    if path == "/v1/workflows" and isinstance(case.body, dict):
        case.body = DEFINITION
    if path == "/v1/runs" and isinstance(case.body, dict):
        case.body = _run(case.body)
    if path == "/v1/runs" and case.query:
        case.query = {name: value for name, value in case.query.items() if name != "after"}
    known = {"name": DEFINITION["name"], "version": "1", "id": RUN, "path": DEFINITION["steps"][0]["id"]}
    given = case.path_parameters or {}
    if path.startswith(("/v1/workflows", "/v1/runs")) and any(len(str(value)) % 2 for value in given.values()):
        case.path_parameters = {name: known[name] for name in given}


@schemathesis.hook
def filter_body(_: Any, body: Any) -> bool:
    """To JSON Schema 5.0 is an integer; to OpenAI, and so to us, it is not."""
    return not _has_integral_float(body)


def _run(body: dict[str, Any]) -> dict[str, Any]:
    """Names and definitions that are valid become ones that are there, and inputs what these take."""
    body = dict(body)
    if isinstance(body.get("workflow"), str) and 1 <= len(body["workflow"]) <= 256:
        body["workflow"] = DEFINITION["name"]
    if isinstance(body.get("definition"), dict):
        body["definition"] = DEFINITION
    if isinstance(body.get("inputs"), dict):
        body["inputs"] = {}
    return body


def _within(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _has_integral_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_integral_float(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_has_integral_float(inner) for inner in value)
    return isinstance(value, float) and value.is_integer()
