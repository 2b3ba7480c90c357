"""What descriptions of endpoints are put together from."""

from typing import Any

Object = dict[str, Any]

JSON = "application/json"
UNAUTHORIZED = "No API key, where one is needed, or one that is not known."

# Whether a key is needed is the configuration's to say, so that none is one of the ways.
SECURITY: list[Object] = [{}, {"bearer": []}, {"apiKey": []}]


def get(operation: str, summary: str, schema: Object) -> Object:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": {"description": "As asked for.", "content": {JSON: {"schema": schema}}}},
    }


def body(schema: str) -> Object:
    return {"required": True, "content": {JSON: {"schema": ref(schema)}}}


def ref(schema: str) -> Object:
    return {"$ref": f"#/components/schemas/{schema}"}


def named_event(name: str, schema: str) -> Object:
    properties = {"event": {"const": name}, "data": json_text(schema)}
    return {"type": "object", "properties": properties, "required": ["event", "data"]}


def json_text(schema: str) -> Object:
    return {"type": "string", "contentMediaType": JSON, "contentSchema": ref(schema)}


def header_refs(*names: str) -> Object:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def errors(statuses: dict[str, str], *headers: str, schema: str = "ErrorBody") -> Object:
    responses: Object = {}
    for status, description in statuses.items():
        names = list(headers or ("X-Request-Id", "X-Headgate-Shard"))
        if status == "401":
            names.append("WWW-Authenticate")
        if status in {"429", "502", "503"}:
            names += ["Retry-After", "retry-after-ms"]
        if status == "503":
            names += ["X-Headgate-Shed-Stage", "X-Headgate-Shed-Reason"]
        if status in {"408", "504"}:
            names.append("x-should-retry")
        responses[status] = {
            "description": description,
            "headers": header_refs(*names),
            "content": {JSON: {"schema": ref(schema)}},
        }
    return responses
