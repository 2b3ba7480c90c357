"""The names that read definitions, for those who look for them here: see `pipeline.workflow.source`."""

from pipeline.workflow.source import Source, read, read_tree

__all__ = ["Source", "read", "read_tree"]
