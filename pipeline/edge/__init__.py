"""The edge: HTTP in front of the pipeline.

`app` serves and dispatches, `protocol` holds a connection to its limits, `exchange` takes one prompt from its head to
its answer, `openai` and `native` are the two dialects, `sinks` and `sse` write answers, `operations` answers about the
process, `openapi` describes it all.
"""
