"""The passages behind an answer, as clients see them."""

from collections.abc import Sequence

import msgspec

from workers.base import Passage


class Citation(msgspec.Struct, frozen=True):
    """A passage that the model was given. `[index]` in the answer's text refers to it; `source` names the document,
    `position` the passage's place in it counted from 0, `title` the headings above it."""

    index: int
    source: str
    position: int
    title: str
    score: float
    text: str


def citations(passages: Sequence[Passage]) -> list[Citation]:
    return [
        Citation(index, passage.source, passage.position, passage.title, passage.score, passage.text)
        for index, passage in enumerate(passages, 1)
    ]
