"""The workflow API's part of the description."""

from typing import Any

import msgspec

from pipeline.edge.openapi_parts import JSON, SECURITY, UNAUTHORIZED, Object, body, errors, header_refs, json_text, ref
from pipeline.edge.workflows_calls import IDEMPOTENCY_KEY, KEY_MAX, LAST_EVENT_ID
from pipeline.edge.workflows_events import NUMBER_MAX
from pipeline.workflow import journal, views
from pipeline.workflow.states import RunState

_RUN_EVENTS: tuple[type[msgspec.Struct], ...] = (journal.StateChanged, journal.Signalled, journal.Rewound)
_STEP_EVENTS: tuple[type[msgspec.Struct], ...] = (
    journal.StepStarted,
    journal.StepWaiting,
    journal.StepRetrying,
    journal.StepCompleted,
    journal.StepSkipped,
    journal.StepFailedFinally,
)

SCHEMAS: tuple[type[msgspec.Struct], ...] = (
    views.StartRun,
    views.CancelRun,
    views.RetryRun,
    views.SignalRun,
    views.ValidationReport,
    views.WorkflowList,
    views.WorkflowView,
    views.RunList,
    views.RunView,
    views.StepView,
    views.WorkflowError,
    *_RUN_EVENTS,
    *_STEP_EVENTS,
    views.Token,
)

_YAML = "application/yaml"
_NUMBER = {"type": "integer", "minimum": 0, "maximum": NUMBER_MAX}
_DEFINITION = "The definition, as YAML or JSON: see the reference of workflows."
_ANYWHERE = {
    "400": "The request is not valid.",
    "401": UNAUTHORIZED,
    "431": "The head is too large.",
    "500": "The server failed on this request.",
    "429": "As much as is allowed is being done already. Come back after `Retry-After`.",
    "503": "There is no room, the journal cannot be used now, or the server stops. Come back after `Retry-After`.",
}
_WITH_BODY = {
    "408": "The head or the body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is compressed, a form, or of another kind than is read here.",
    "417": "An `Expect` other than `100-continue`.",
}
_NO_WORKFLOW = "There is no such workflow, or workflows are not enabled."
_NO_RUN = "There is no such run, or it is another key's, or workflows are not enabled."
_PATH = "The step's path, as `each[3]/draft`; its slashes may be sent as they are."
_NOT_ENABLED = "Workflows are not enabled."
_NOT_NOW = "The run's state does not allow it."


def paths() -> Object:
    run = [_parameter("RunId")]
    return {
        "/v1/workflows": {"get": _workflows(), "post": _register()},
        "/v1/workflows/validate": {"post": _validate()},
        "/v1/workflows/{name}": {"get": _workflow("getWorkflow", "A workflow's newest version.", "WorkflowName")},
        "/v1/workflows/{name}/{version}": {
            "get": _workflow("getWorkflowVersion", "A version of a workflow.", "WorkflowName", "WorkflowVersion")
        },
        "/v1/runs": {"get": _runs(), "post": _start()},
        "/v1/runs/{id}": {"get": _operation("getRun", "A run with its steps.", "RunView", run, {"404": _NO_RUN})},
        "/v1/runs/{id}/steps/{path}": {"get": _step()},
        "/v1/runs/{id}/events": {"get": _events()},
        "/v1/runs/{id}/pause": {"post": _change("pauseRun", "Steps under way end, no more are started.")},
        "/v1/runs/{id}/resume": {"post": _change("resumeRun", "A paused run goes on.")},
        "/v1/runs/{id}/cancel": {
            "post": _change("cancelRun", "Ends a run; what is under way is stopped.", "CancelRun")
        },
        "/v1/runs/{id}/retry": {"post": _change("retryRun", "Lets a run that has ended run again.", "RetryRun")},
        "/v1/runs/{id}/signal": {"post": _change("signalRun", "Ends a wait.", "SignalRun", required=True)},
    }


def amend(schemas: Object) -> None:
    """What the types alone do not say."""
    given, absent = {"workflow": {"type": "string"}, "definition": {"type": "object"}}, {"type": "null"}
    schemas["StartRun"]["oneOf"] = [
        {"required": [name], "properties": {name: schema, other: absent}}
        for (name, schema), other in zip(given.items(), reversed(given), strict=True)
    ]


def parameters() -> Object:
    """Those that several operations have."""
    name = {"type": "string", "minLength": 1, "maxLength": 128}
    return {
        "WorkflowName": _in("path", "name", "The workflow's name.", name),
        "WorkflowVersion": _in("path", "version", "Its version.", name),
        "RunId": _in("path", "id", "The run's id.", name),
    }


def _workflows() -> Object:
    return _operation("listWorkflows", "All versions of all workflows.", "WorkflowList", [], {"404": _NOT_ENABLED})


def _register() -> Object:
    operation = _operation(
        "registerWorkflow",
        "Registers a version of a workflow.",
        "WorkflowView",
        [],
        {
            "404": _NOT_ENABLED,
            **_WITH_BODY,
            "409": "The version is registered with other content: it never changes.",
            "422": "The definition is not valid; `errors` has all that is wrong with it.",
        },
    )
    operation["responses"]["200"]["description"] = "It was registered already."
    operation["responses"]["201"] = {**operation["responses"]["200"], "description": "It is registered."}
    return operation | {"requestBody": _definition({"type": "object"})}


def _validate() -> Object:
    operation = _operation(
        "validateWorkflow",
        "Says all that is wrong with a definition.",
        "ValidationReport",
        [],
        {"404": _NOT_ENABLED, **_WITH_BODY},
    )
    return operation | {"requestBody": _definition({})}


def _workflow(operation: str, summary: str, *names: str) -> Object:
    return _operation(operation, summary, "WorkflowView", list(map(_parameter, names)), {"404": _NO_WORKFLOW})


def _runs() -> Object:
    states = {"type": "array", "items": {"type": "string", "enum": list(RunState)}}
    query = [
        _in("query", "workflow", "Only runs of this workflow.", {"type": "string"}),
        _in("query", "state", "Only runs in one of these states.", states),
        _in("query", "limit", "So many at most.", {"type": "integer", "minimum": 1, "maximum": views.PAGE_MAX}),
        _in("query", "after", "What the page before has as `next`.", {"type": "string"}),
    ]
    return _operation("listRuns", "The caller's runs, the newest first.", "RunList", query, {"404": _NOT_ENABLED})


def _start() -> Object:
    key = _in(
        "header",
        str(IDEMPOTENCY_KEY),
        "A request that is repeated with the same key starts one run.",
        {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[!-~]+$"},
    )
    operation = _operation(
        "startRun",
        "Starts a run.",
        "RunSummary",
        [key, {"$ref": "#/components/parameters/X-Headgate-Class"}],
        {
            "404": _NO_WORKFLOW,
            **_WITH_BODY,
            "409": "The Idempotency-Key came before with another request.",
            "422": "The definition or the inputs are not valid; `errors` has all that is wrong with them.",
        },
    )
    operation["responses"]["200"]["description"] = "A request with this Idempotency-Key has started this run before."
    operation["responses"]["201"] = {**operation["responses"]["200"], "description": "The run is started."}
    return operation | {"requestBody": body("StartRun")}


def _step() -> Object:
    given = [_parameter("RunId"), _in("path", "path", _PATH, {"type": "string", "minLength": 1})]
    return _operation(
        "getStep",
        "A step of a run with all that it came to.",
        "StepView",
        given,
        {"404": f"{_NO_RUN} Or no such step."},
    )


def _events() -> Object:
    after = _in("query", "after", "As `Last-Event-ID`, which goes before it.", _NUMBER)
    last = _in("header", str(LAST_EVENT_ID), "The number of the last event that was seen.", _NUMBER)
    operation = _operation("watchRun", "What happens in a run.", "RunView", [_parameter("RunId"), after, last], {})
    kinds: list[type[msgspec.Struct]] = [*_RUN_EVENTS, *_STEP_EVENTS, views.Token]
    operation["description"] = (
        "All events since the last one that was seen, in order and each once, until the run has ended. `run` and "
        "`step` events have their number as `id`; `token` events, the pieces of answers as they come, have none. A "
        "stream that ends before the run did is to be asked for again."
    )
    operation["responses"] = {
        "200": {
            "description": "The events; each one's data is JSON of one of the schemas.",
            "headers": header_refs("X-Request-Id", "X-Headgate-Shard"),
            "content": {"text/event-stream": {"schema": {"oneOf": [_event(kind) for kind in kinds]}}},
        },
        "204": {"description": "The run has ended, and all of its events have been seen."},
        **errors({**_ANYWHERE, "404": _NO_RUN}, schema="WorkflowError"),
    }
    return operation


def _event(kind: type[msgspec.Struct]) -> Object:
    name = "token" if kind is views.Token else "run" if kind in _RUN_EVENTS else "step"
    properties: Object = {"event": {"const": name}, "data": json_text(kind.__name__)}
    required = ["event", "data"]
    if name != "token":
        properties["id"] = {"type": "string", "pattern": "^[1-9][0-9]*$"}
        required.append("id")
    return {"type": "object", "properties": properties, "required": required}


def _change(operation: str, summary: str, schema: str | None = None, *, required: bool = False) -> Object:
    described = _operation(
        operation,
        summary,
        "RunSummary",
        [_parameter("RunId")],
        {"404": _NO_RUN, **_WITH_BODY, "409": _NOT_NOW},
    )
    if schema is not None:
        described["requestBody"] = {**body(schema), "required": required}
    return described


def _operation(
    operation: str, summary: str, schema: str, given: list[Object], statuses: dict[str, str]
) -> dict[str, Any]:
    answer = {
        "description": "As asked for.",
        "headers": header_refs("X-Request-Id", "X-Headgate-Shard"),
        "content": {JSON: {"schema": ref(schema)}},
    }
    refused = errors(dict(sorted({**_ANYWHERE, **statuses}.items())), schema="WorkflowError")
    described: Object = {
        "operationId": operation,
        "summary": summary,
        "security": SECURITY,
        "parameters": given,
        "responses": {"200": answer, **refused},
    }
    return described


def _definition(schema: Object) -> Object:
    content = {media: {"schema": schema} for media in (_YAML, JSON)}
    return {"required": True, "description": _DEFINITION, "content": content}


def _parameter(name: str) -> Object:
    return {"$ref": f"#/components/parameters/{name}"}


def _in(where: str, name: str, description: str, schema: Object) -> Object:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": description,
        "schema": schema,
    }
