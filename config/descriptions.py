"""What each key is for, in one line, as the JSON schema, the reference and pipeline.toml say it."""

from msgspec import Struct

from config import schema

DESCRIPTIONS: dict[type[Struct], dict[str, str]] = {
    schema.Config: {
        "server": "the public listener and the life of a request outside the stages",
        "stages": "the queue in front of each stage, and how much each does at once",
        "knowledge": "the process that owns the embedded store and the embedder",
        "logging": "what is logged, and how",
        "workers": "the model backends",
        "routes": "the virtual models that clients name in `model`",
        "collections": "the documents that routes answer from",
    },
    schema.ServerSection: {
        "host": "address to listen on; 0.0.0.0 or :: for all",
        "port": "TCP port; 0: a free one, printed at start",
        "data_dir": "collections, converted models, sockets; relative to the working directory",
        "backlog": "connections that wait to be accepted",
        "max_connections": "open connections at once",
        "max_head_bytes": "of a request's line and headers",
        "max_body_bytes": "of a request's body; larger: 413",
        "head_timeout_ms": "for a request's head to arrive; else 408",
        "body_timeout_ms": "for a request's body to arrive; else 408",
        "idle_timeout_ms": "how long a kept-alive connection may be idle",
        "deadline_ms": "of requests whose route and headers set none",
        "max_deadline_ms": "the longest deadline that a request may ask for",
        "hold_max_ms": "how long a stream's status line waits for the first delta",
        "keepalive_comment_ms": "between comment lines while a stream waits on after that",
        "drain_timeout_ms": "for open requests to finish at shutdown; then they are cancelled",
        "start_timeout_ms": "for the processes to become ready",
    },
    schema.StagesSection: {
        "rag": "retrieves passages",
        "assemble": "builds the prompt",
        "inference": "calls the worker",
        "post": "filters the answer",
        "stream": "writes the answer",
    },
    schema.StageSection: {
        "capacity": "places in the queue in front of the stage",
        "concurrency": "retrievals at once",
    },
    schema.AssembleStage: {"concurrency": "threads for prompts too large for the event loop"},
    schema.InferenceStage: {"concurrency": "backend calls at once"},
    schema.PostStage: {"concurrency": "answers being filtered at once"},
    schema.StreamStage: {"concurrency": "answers being written at once"},
    schema.WorkerSection: {
        "name": "what routes call it",
        "context_tokens": "the model's window: prompt and answer together",
        "answer_tokens": "of it kept free for the answer when a request sets no max_tokens",
        "first_delta_timeout_ms": "for the first delta; longer: the call fails as stalled",
        "gap_timeout_ms": "between two deltas; longer: the call fails as stalled",
        "total_timeout_ms": "for the whole answer",
        "high_water_deltas": "a client this far behind stops the reading of its backend call",
    },
    schema.EchoWorker: {
        "first_token_ms": "before the first token",
        "tokens_per_s": "0: all at once",
        "tokens": "length of every answer; 0: as long as the message",
        "tokens_per_batch": "tokens that arrive together",
        "failure_rate": "share of calls that fail",
        "capacity": "answers at once, others wait; 0: no limit",
        "seed": "of the choice which calls fail",
    },
    schema.ExtractiveWorker: {
        "max_sentences": "quoted at most",
        "min_match": "share of the question's weight that a sentence must cover",
    },
    schema.OpenAIWorker: {
        "base_url": "with the version, as clients write it: http://127.0.0.1:8000/v1",
        "model": "the backend's name for the model; not set: the one that the client asked for",
        "api_key": "where the key is: env:NAME or file:PATH (relative to this file)",
        "headers": "sent with every call",
        "connect_timeout_ms": "for a connection to the backend",
        "max_connections": "open connections to the backend at once",
        "idle_connection_ms": "how long an unused connection is kept",
        "stream_usage": "ask for usage at the end of streams; false where stream_options is refused",
    },
    schema.StopFilter: {"sequences": "the answer ends before the first of them"},
    schema.RedactFilter: {
        "pattern": "a regular expression (of the regex package)",
        "replacement": "what stands in place of a match",
        "max_match_chars": "text held back for a match that may still grow",
    },
    schema.MaxLengthFilter: {"chars": "the answer ends after so many, with finish_reason `length`"},
    schema.RouteSection: {
        "name": "what clients send as `model`",
        "worker": "the name of a worker",
        "collection": "the name of a collection to answer from; not set: none",
        "passages": "retrieved for each request",
        "on_retrieval_failure": "fail the request, or answer without passages",
        "retrieval_timeout_ms": "for the retrieval; longer is a failure",
        "system": "a system message before the client's",
        "template": "jinja2 text of the system message; not set: the built-in one with a collection, else none",
        "template_file": "the same in a file, relative to this one",
        "template_max_chars": "length of what the template renders",
        "template_timeout_ms": "for rendering it",
        "filters": "applied to the answer in this order",
        "deadline_ms": "of requests whose headers set none; not set: the server's",
        "rename_model": "answers name the route as their model, not the backend's own name",
        "description": "a line about the route for people",
    },
    schema.CollectionSection: {
        "name": "what routes and `headgate ingest` call it",
        "store": "embedded: on this machine; qdrant: a server; memory: gone with the process",
        "embedder": "auto: minilm where it is installed, else lexical",
        "url": 'of the server, for store = "qdrant"',
        "api_key": "where its key is: env:NAME or file:PATH (relative to this file)",
        "timeout_ms": "for an answer of the store",
        "chunk_chars": "length of the pieces that documents are cut into",
        "overlap_chars": "that neighbouring pieces share",
    },
    schema.KnowledgeSection: {
        "capacity": "queries that wait; more are refused",
        "batch": "queries embedded together",
        "threads": "of the embedder",
    },
    schema.LoggingSection: {
        "level": "the least serious that is logged",
        "format": "auto: console at a terminal, else json",
        "prompts": "log the text of prompts at debug level; false: never",
    },
}


def description(section: type[Struct], key: str) -> str:
    """Of the class itself or the nearest one that it inherits the key from."""
    return next(known[key] for base in section.__mro__ if key in (known := DESCRIPTIONS.get(base, {})))
