"""What each key of a definition is for, in one line, as its JSON schema and the reference say it."""

from msgspec import Struct

from pipeline.workflow import definition as parts

DESCRIPTIONS: dict[type[Struct], dict[str, str]] = {
    parts.Definition: {
        "name": "what it is registered and called by",
        "steps": "what is done; their order means nothing",
        "version": "a registered version never changes",
        "description": "for people",
        "inputs": "what a run is given: a JSON schema of an object, or name -> schema (needed where it has no default)",
        "outputs": "what a run gives: name -> value, or names; empty: the values of steps that nothing depends on",
        "timeout_seconds": "of a run; not set: `workflows.run_timeout_ms`",
        "on_failure": "`continue`: a step that fails stops only those that depend on it",
        "metadata": "kept, not looked at",
    },
    parts.Step: {
        "id": "names the step in its list, and its value in expressions",
        "description": "for people",
        "depends_on": "steps that must have ended, besides those that it refers to",
        "condition": "an expression; where it is false the step is skipped",
        "timeout_seconds": "of each attempt; not set: `workflows.step_timeout_ms`",
        "retry": "try again after a failure that may pass; not set: one attempt",
        "on_failure": "after the last attempt; not set: the workflow's",
        "fallback": "its value after a failure, with `on_failure: fallback`",
        "output": "a flat name for its value, or names for its fields in order",
        "metadata": "kept, not looked at",
    },
    parts.Retry: {
        "max_attempts": "the first one counted",
        "backoff": "how the delay grows: doubled, by as much again, or not",
        "initial_delay_ms": "after the first attempt",
        "max_delay_ms": "no delay is longer",
        "jitter": "up to this share of a delay is taken away at random; true: 0.5, false: 0",
    },
    parts.Message: {
        "role": "who says it",
        "content": "what is said",
    },
    parts.LlmStep: {
        "route": "the virtual model that is asked",
        "provider": "instead of a route: the kind or name of a worker",
        "model": "with `provider`: the model",
        "prompt": "what the user says",
        "messages": "instead of a prompt: a conversation",
        "system": "what the system says before",
        "temperature": "0 to 2",
        "max_tokens": "of the answer, at most",
        "top_p": "0 to 1",
        "seed": "a whole number",
        "stop": "texts that end the answer",
        "output_schema": "a JSON schema that the answer, as JSON, must fit",
        "output_attempts": "how often it is asked for an answer that fits",
    },
    parts.EmbedStep: {
        "input": "a text or a list of texts",
        "route": "whose worker makes the vectors",
        "collection": "or whose embedder does",
    },
    parts.VectorSearchStep: {
        "collection": "where to search",
        "query": "the text to search for",
        "limit": "passages at most",
        "min_score": "passages that score lower are left out",
    },
    parts.VectorUpsertStep: {
        "collection": "where to store",
        "documents": "a text, an object with `text`, `source`, `title`, or a list of those",
    },
    parts.TransformStep: {
        "operation": "what is done to the input",
        "input": "all operations but template: what they work on",
        "separator": "concat, join: between the parts; split: where to cut",
        "where": "filter: an expression over `item` and `index`",
        "value": "map: a value over `item` and `index`",
        "fields": "pick: names (dotted paths), or new name -> path",
        "path": "json_path: what to look for (RFC 9535)",
        "first": "json_path, regex: the first match instead of all",
        "pattern": "regex: what to look for",
        "replacement": "regex: stands for each match in the text",
        "group": "regex: number or name of the group that is taken",
        "template": "template: the value that is filled in",
        "size": "chunk: of a piece, in units",
        "overlap": "chunk: so many units of a piece stand in the next one too",
        "unit": "chunk: what is counted",
    },
    parts.Case: {
        "when": "an expression",
        "then": "what is done: the id of a step, or a list of ids and of steps written out",
    },
    parts.BranchStep: {
        "cases": "looked at in order",
        "default": "as `then`, where no case is taken",
    },
    parts.ParallelStep: {
        "steps": "the steps inside",
        "max_concurrency": "steps at once; not set: as many as the run may have",
    },
    parts.MapStep: {
        "items": "a list",
        "steps": "what is done for each item",
        "as": "what an item is called inside",
        "result": "what an item comes to; not set: the last step's value",
        "max_concurrency": "items at once",
    },
    parts.ReduceStep: {
        "items": "a list",
        "initial": "what `accumulator` is at first",
        "as": "what an item is called inside",
        "accumulator": "what the result so far is called inside",
        "value": "what a turn comes to; not set: the last step's value",
        "steps": "what is done in each turn",
    },
    parts.LoopStep: {
        "steps": "what is done in each iteration",
        "until": "an expression, looked at after each iteration; true ends the loop",
        "max_iterations": "iterations at most",
        "variables": "name -> value before the first iteration; then what the step of that output name came to",
        "on_limit": "`fail`: it fails where `until` was not true in time",
    },
    parts.ActionStep: {
        "action": "what is done",
        "message": "log: what is logged",
        "level": "log: how loudly",
        "url": "http_request, webhook: the address; its host must be allowed",
        "method": "http_request, webhook: not set: GET, and POST",
        "headers": "http_request, webhook: name -> value",
        "body": "http_request, webhook: a text as it is, anything else as JSON",
        "expect_status": "http_request, webhook: what counts as success; not set: 200 to 299",
        "path": "file_write: under `workflows.files_dir`",
        "content": "file_write: a text as it is, anything else as JSON",
        "append": "file_write: add to the file instead of replacing it",
    },
    parts.WorkflowStep: {
        "workflow": "`name`, `name@version`, or in a file that is run without a daemon the path of another",
        "inputs": "what it is given: name -> value",
    },
    parts.WaitStep: {
        "seconds": "how long",
        "until": "a moment (RFC 3339)",
        "event": "the name of a signal, whose payload is the step's value",
    },
    parts.CustomStep: {
        "type": "the name of its entry point in the group `headgate.steps`",
        "options": "what it takes: name -> value",
    },
}


def description(part: type[Struct], key: str) -> str:
    """Of the class itself or the nearest one that it inherits the key from; `key` as it is written."""
    return next(known[key] for base in part.__mro__ if key in (known := DESCRIPTIONS.get(base, {})))
