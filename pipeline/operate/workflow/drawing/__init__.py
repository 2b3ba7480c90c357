"""Workflows as pictures: `sketch` says what is to be seen, `mermaid` and `svg` draw it."""

from pipeline.operate.workflow.drawing.mermaid import mermaid
from pipeline.operate.workflow.drawing.sketch import Sketch, sketch
from pipeline.operate.workflow.drawing.svg import svg

__all__ = ["Sketch", "mermaid", "sketch", "svg"]
