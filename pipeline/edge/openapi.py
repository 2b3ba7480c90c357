"""The API's description (OpenAPI 3.1), generated from the types that requests are decoded into and answers made of."""

from importlib.metadata import version
from typing import Any

import msgspec

from pipeline.edge import (
    completions_types,
    embeddings_types,
    head,
    messages_types,
    native_types,
    openai_types,
    openapi_workflows,
)
from pipeline.edge.errors import ErrorBody
from pipeline.edge.gate import ROUTE
from pipeline.edge.messages_errors import MessageError
from pipeline.edge.openapi_parts import (
    JSON,
    SECURITY,
    UNAUTHORIZED,
    Object,
    body,
    errors,
    get,
    header_refs,
    json_text,
    named_event,
    ref,
)
from pipeline.edge.operations import METRICS_TYPE, Healthy, ReadinessBody
from pipeline.policy.access import CLASSES

_SCHEMAS: tuple[type[msgspec.Struct], ...] = (
    openai_types.ChatCompletionRequest,
    openai_types.ChatCompletion,
    openai_types.ChatCompletionChunk,
    completions_types.CompletionRequest,
    completions_types.TextCompletion,
    embeddings_types.EmbeddingsRequest,
    embeddings_types.EmbeddingList,
    openai_types.Model,
    openai_types.ModelList,
    messages_types.MessageRequest,
    messages_types.AnsweredMessage,
    *messages_types.EVENTS.values(),
    messages_types.TokenCountRequest,
    messages_types.TokenCount,
    MessageError,
    native_types.PromptSubmission,
    *native_types.EVENTS.values(),
    ErrorBody,
    Healthy,
    ReadinessBody,
    *openapi_workflows.SCHEMAS,
)

_PROMPT_ERRORS = {
    "400": "The request is not valid, or too long for the model's window.",
    "401": UNAUTHORIZED,
    "403": "The API key may not use this model.",
    "404": "There is no such model.",
    "408": "The head or the body did not arrive in time.",
    "413": "The body is too large, or the request counts more tokens than its key may use in a minute.",
    "415": "The body is compressed, or a form.",
    "417": "An `Expect` other than `100-continue`.",
    "429": "The API key's own limit is reached. Come back after `Retry-After`.",
    "431": "The head is too large.",
    "500": "The server failed on this request.",
    "502": "The backend or the retrieval failed before the answer began, and nothing is left to try.",
    "503": "Shed: no place is left, or the server is shutting down. Come back after `Retry-After`.",
    "504": "The deadline passed before the answer began.",
}


_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "As OpenAI's clients send an API key."},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": str(head.API_KEY),
        "description": "As Anthropic's clients send an API key.",
    },
}
_PROMPT_HEADERS = (
    "X-Request-Id",
    "X-Headgate-Shard",
    "X-Headgate-Degraded",
    *(f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)


def describe() -> bytes:
    """The document as JSON."""
    _, components = msgspec.json.schema_components(_SCHEMAS, ref_template="#/components/schemas/{name}")
    components["PromptSubmission"]["oneOf"] = [{"required": ["prompt"]}, {"required": ["messages"]}]
    openapi_workflows.amend(components)
    for schema in components.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
    document: Object = {
        "openapi": "3.1.0",
        "info": {
            "title": "Headgate",
            "version": version("headgate"),
            "description": "Prompts in, streamed and cited answers out; workflows of them. Errors are OpenAI-style "
            "objects, under /v1/messages Anthropic-style ones.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _chat()},
            "/v1/completions": {"post": _completions()},
            "/v1/embeddings": {"post": _embeddings()},
            "/v1/messages": {"post": _messages()},
            "/v1/messages/count_tokens": {"post": _count_tokens()},
            "/v1/prompts": {"post": _prompts()},
            **openapi_workflows.paths(),
            "/v1/models": {"get": _models()},
            "/v1/models/{id}": {"get": _model()},
            "/healthz": {"get": get("health", "Whether the process runs.", ref("Healthy"))},
            "/readyz": {"get": _ready()},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": get("describe", "This description.", {"type": "object"})},
        },
        "components": {
            "schemas": components,
            "headers": _headers(),
            "parameters": {**_parameters(), **openapi_workflows.parameters()},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }
    return msgspec.json.encode(document)


def _chat() -> Object:
    return {
        "operationId": "createChatCompletion",
        "summary": "Answers a conversation, in OpenAI's dialect.",
        "description": (
            "With `stream`, the answer is a stream of `data:` events, each a ChatCompletionChunk, ended by `[DONE]`. "
            "A failure after the first event is an event with an ErrorBody, after which the stream ends."
        ),
        "security": SECURITY,
        "parameters": _prompt_parameters(),
        "requestBody": body("ChatCompletionRequest"),
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": header_refs(*_PROMPT_HEADERS, "X-Headgate-Cut", "Server-Timing"),
                "content": {
                    JSON: {"schema": ref("ChatCompletion")},
                    "text/event-stream": {"schema": _chunk_event("ChatCompletionChunk")},
                },
            },
            **errors(_PROMPT_ERRORS, *_PROMPT_HEADERS),
        },
    }


def _completions() -> Object:
    return {
        "operationId": "createCompletion",
        "summary": "Goes on with a text, in OpenAI's older dialect.",
        "description": (
            "With `stream`, the answer is a stream of `data:` events, each a TextCompletion, ended by `[DONE]`. "
            "A failure after the first event is an event with an ErrorBody, after which the stream ends."
        ),
        "security": SECURITY,
        "parameters": _prompt_parameters(),
        "requestBody": body("CompletionRequest"),
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": header_refs(*_PROMPT_HEADERS, "X-Headgate-Cut", "Server-Timing"),
                "content": {
                    JSON: {"schema": ref("TextCompletion")},
                    "text/event-stream": {"schema": _chunk_event("TextCompletion")},
                },
            },
            **errors(_PROMPT_ERRORS, *_PROMPT_HEADERS),
        },
    }


def _embeddings() -> Object:
    return {
        "operationId": "createEmbedding",
        "summary": "Turns texts into vectors, in OpenAI's dialect.",
        "security": SECURITY,
        "parameters": _prompt_parameters(),
        "requestBody": body("EmbeddingsRequest"),
        "responses": {
            "200": {
                "description": "The vectors.",
                "headers": header_refs(*_PROMPT_HEADERS, "Server-Timing"),
                "content": {JSON: {"schema": ref("EmbeddingList")}},
            },
            **errors(_PROMPT_ERRORS, *_PROMPT_HEADERS),
        },
    }


def _messages() -> Object:
    events: dict[str, type[msgspec.Struct]] = {**messages_types.EVENTS, "error": MessageError}
    return {
        "operationId": "createMessage",
        "summary": "Answers a conversation, in Anthropic's dialect.",
        "description": (
            "With `stream`, the answer is a stream of events: `message_start`, for each block of its content "
            "`content_block_start`, any number of `content_block_delta` and `content_block_stop`, then `message_delta` "
            "and `message_stop`. A failure after the first event is an `error` event, after which the stream ends."
        ),
        "security": SECURITY,
        "parameters": _prompt_parameters(),
        "requestBody": body("MessageRequest"),
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": header_refs(*_PROMPT_HEADERS, "X-Headgate-Cut", "Server-Timing"),
                "content": {
                    JSON: {"schema": ref("AnsweredMessage")},
                    "text/event-stream": {
                        "schema": {"oneOf": [named_event(name, kind.__name__) for name, kind in events.items()]}
                    },
                },
            },
            **errors(_PROMPT_ERRORS, *_PROMPT_HEADERS, schema="MessageError"),
        },
    }


def _count_tokens() -> Object:
    refused = ("400", "401", "403", "404", "408", "413", "415", "417", "431", "500")
    return {
        "operationId": "countTokens",
        "summary": "Counts the tokens of a prompt in Anthropic's dialect, or estimates them.",
        "security": SECURITY,
        "requestBody": body("TokenCountRequest"),
        "responses": {
            "200": {"description": "How many there are.", "content": {JSON: {"schema": ref("TokenCount")}}},
            **errors({status: _PROMPT_ERRORS[status] for status in refused}, schema="MessageError"),
        },
    }


def _prompts() -> Object:
    events = [named_event(name, kind.__name__) for name, kind in native_types.EVENTS.items()]
    return {
        "operationId": "submitPrompt",
        "summary": "Answers a prompt as a stream of events.",
        "description": (
            "Events come in the order `accepted`, `retrieved` (on routes with a collection), any number of `delta`, "
            "`usage` (where the backend counts), `done`; `error` may come at any point and is the last."
        ),
        "security": SECURITY,
        "parameters": _prompt_parameters(),
        "requestBody": body("PromptSubmission"),
        "responses": {
            "200": {
                "description": "The events; each event's data is JSON of the schema with the event's name.",
                "headers": header_refs(*_PROMPT_HEADERS, "X-Headgate-Cut"),
                "content": {"text/event-stream": {"schema": {"oneOf": events}}},
            },
            **errors(_PROMPT_ERRORS, *_PROMPT_HEADERS),
        },
    }


def _models() -> Object:
    operation = get("listModels", "The routes that the client may use, as models.", ref("ModelList"))
    operation["security"] = SECURITY
    operation["responses"].update(errors({"401": UNAUTHORIZED}))
    return operation


def _model() -> Object:
    operation = get("getModel", "One route, as a model.", ref("Model"))
    operation["parameters"] = [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "description": "The model's name; slashes may be sent as they are or encoded.",
            "schema": {"type": "string", "minLength": 1},
        }
    ]
    operation["security"] = SECURITY
    operation["responses"].update(errors({"401": UNAUTHORIZED, "404": "There is no such model for the client."}))
    return operation


def _ready() -> Object:
    operation = get("readiness", "Whether new requests are welcome.", ref("ReadinessBody"))
    operation["responses"]["503"] = {
        "description": "New requests are not welcome.",
        "content": {JSON: {"schema": ref("ReadinessBody")}},
    }
    return operation


def _metrics() -> Object:
    text = {METRICS_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}
    return {
        "operationId": "metrics",
        "summary": "The whole daemon's metrics in Prometheus' text format.",
        "responses": {
            "200": {"description": "Metrics.", "content": text},
            **errors({"503": "The supervisor cannot be asked."}),
        },
    }


def _chunk_event(schema: str) -> Object:
    """One event of OpenAI's streams, in the form that OpenAPI 3.2 gave to server-sent events: its fields, and what is
    in its data."""
    data = {"anyOf": [{"const": "[DONE]"}, json_text(schema), json_text("ErrorBody")]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _prompt_parameters() -> list[Object]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in _parameters()]


def _parameters() -> Object:
    def parameter(name: str, description: str, schema: Object) -> Object:
        return {"name": str(name), "in": "header", "required": False, "description": description, "schema": schema}

    parameters = (
        parameter(
            head.REQUEST_ID,
            "The request's id, 1 to 128 visible ASCII characters; anything else is replaced by a new one.",
            {"type": "string"},
        ),
        parameter(
            head.SESSION_ID,
            "What keeps requests together; goes before `prompt_cache_key`.",
            {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
        ),
        parameter(
            head.TIMEOUT,
            "The request's deadline in milliseconds from its arrival, up to the server's own limit.",
            {"type": "integer", "minimum": 1, "maximum": head.TIMEOUT_MAX_MS},
        ),
        parameter(
            head.CLASS,
            "The request's class, where it is to be a lower one than its key's; a higher one is not given.",
            {"type": "string", "enum": list(CLASSES)},
        ),
        parameter(
            ROUTE,
            "The request's `model`, said in the head too: under load it may then be refused before its body is read.",
            {"type": "string"},
        ),
        parameter(head.TRACEPARENT, "W3C trace context, handed back with the answer.", {"type": "string"}),
    )
    return {parameter["name"]: parameter for parameter in parameters}


def _limit_headers() -> Object:
    headers: Object = {}
    for unit in ("requests", "tokens"):
        of_the_key = f"Where the API key has a limit on {unit} a minute: "
        headers[f"x-ratelimit-limit-{unit}"] = _header(f"{of_the_key}the limit.", type="integer", minimum=1)
        headers[f"x-ratelimit-remaining-{unit}"] = _header(
            f"{of_the_key}how many can be had at once.", type="integer", minimum=0
        )
        headers[f"x-ratelimit-reset-{unit}"] = _header(
            f"{of_the_key}until as many as ever can be had, such as `1s`, `6m0s` or `120ms`.", type="string"
        )
    return headers


def _header(description: str, **schema: Any) -> Object:
    return {"description": description, "schema": schema}


def _headers() -> Object:
    return {
        "X-Request-Id": _header("The request's id.", type="string"),
        "X-Headgate-Shard": _header("The shard that answered.", type="string"),
        "X-Headgate-Degraded": _header(
            "What the request got less of because of the load, such as `passages=2, max_tokens=256`.", type="string"
        ),
        **_limit_headers(),
        "WWW-Authenticate": _header("How a key is sent.", type="string"),
        "X-Headgate-Cut": _header("What did not fit the model's window, such as `passages=2, turns=1`.", type="string"),
        "Server-Timing": _header(
            "Milliseconds in each stage's queue (`rag_q`) and in the stage (`rag`).", type="string"
        ),
        "Retry-After": _header("Seconds until a retry may succeed.", type="integer", minimum=1),
        "retry-after-ms": _header("The same in milliseconds, for the official clients.", type="integer", minimum=1),
        "x-should-retry": _header("`false`: the official clients must not repeat the request.", type="string"),
        "X-Headgate-Shed-Stage": _header("Where no place was left.", type="string"),
        "X-Headgate-Shed-Reason": _header("Why the request was shed.", type="string"),
    }
