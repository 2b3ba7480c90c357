"""What a document is read into, before it is cut into chunks."""

from typing import NamedTuple


class Heading(NamedTuple):
    """`level` 1 is the highest; the text is plain."""

    level: int
    text: str


class Block(NamedTuple):
    """A paragraph, list, table or code block; `whole` asks not to be cut."""

    text: str
    whole: bool = False
