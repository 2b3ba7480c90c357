"""Documents into chunks: by structure first, by size where a section is longer, with overlap between its parts."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

from pipeline.knowledge import html_blocks, markdown_blocks
from pipeline.knowledge.blocks import Block, Heading

MAX_TITLE_CHARS = 300
VERSION = 1  # part of a document's digest: raise it when the same text would be cut otherwise

_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
# Where a text may be cut, best first; each is looked for from the back of the window.
_BORDERS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]\s*"),
    re.compile(r"\s+"),
)
_LINE, _SENTENCE_OR_WORD = _BORDERS[1:2], _BORDERS[2:]
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


class Text(NamedTuple):
    """A chunk's `title` is its heading path, "A > B"; the text is never empty."""

    title: str
    text: str


def chunk(suffix: str, content: str, size: int, overlap: int) -> list[Text]:
    """Cuts a document into chunks of at most `size` characters, deterministically.

    `suffix` is '.md', '.html' or '.txt'. Chunks of one section overlap by at most `overlap` characters (and by no more
    than half a chunk); code blocks and tables stay whole where they fit.
    """
    reader: Callable[[str], Iterable[Block | Heading]] = _READERS[suffix]
    chunks: list[Text] = []
    for title, blocks in _sections(reader(content)):
        chunks += [Text(title, text) for text in _pack(blocks, size, min(overlap, size // 2))]
    return chunks


def _plain_blocks(content: str) -> Iterator[Block | Heading]:
    for paragraph in _PARAGRAPHS.split(content):
        if text := paragraph.strip():
            yield Block(text)


_READERS: dict[str, Callable[[str], Iterable[Block | Heading]]] = {
    ".md": markdown_blocks.read,
    ".html": html_blocks.read,
    ".txt": _plain_blocks,
}


def _sections(items: Iterable[Block | Heading]) -> Iterator[tuple[str, list[Block]]]:
    """Heading path and blocks of each section. A heading with nothing under it counts as its own text."""
    path: list[Heading] = []
    blocks: list[Block] = []
    for item in items:
        if isinstance(item, Block):
            blocks.append(item)
            continue
        if blocks or (path and item.level <= path[-1].level):
            yield _section(path, blocks)
            blocks = []
        while path and path[-1].level >= item.level:
            path.pop()
        path.append(item)
    if blocks or path:
        yield _section(path, blocks)


def _section(path: list[Heading], blocks: list[Block]) -> tuple[str, list[Block]]:
    title = " > ".join(heading.text for heading in path)
    return title[:MAX_TITLE_CHARS], blocks or [Block(path[-1].text)]


class _Section(NamedTuple):
    """A section's text, and the spans in it that should stay whole."""

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, blocks: list[Block]) -> "_Section":
        spans: list[tuple[int, int]] = []
        at = 0
        for block in blocks:
            if block.whole:
                spans.append((at, at + len(block.text)))
            at += len(block.text) + 2
        return cls("\n\n".join(block.text for block in blocks), spans)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The spans that share a character with text[start:end]."""
        for i in range(bisect_right(self.spans, start, key=itemgetter(1)), len(self.spans)):
            if self.spans[i][0] >= end:
                return
            yield self.spans[i]


def _pack(blocks: list[Block], size: int, overlap: int) -> Iterator[str]:
    """The section in windows of at most `size`, each ending at the best border in its second half."""
    section = _Section.of(blocks)
    start = 0
    while len(section.text) - start > size:
        end = _cut(section, start, size)
        if part := _trimmed(section.text[start:end]):
            yield part
        start = _resume(section, start, end, size, overlap)
    if part := _trimmed(section.text[start:]):
        yield part


def _trimmed(text: str) -> str:
    """Without blank lines around it; the first line keeps its indentation, which means something in code."""
    return _BLANK_LINES.sub("", text).rstrip()


def _cut(section: _Section, start: int, size: int) -> int:
    """Where the window that begins at `start` ends: start < end ≤ start + size."""
    end = start + size
    for first, after in section.within(start, end):
        if start < first and end < after and after - first <= size:
            return first
    half = start + size // 2
    for border in _BORDERS:
        if found := max((match.end() for match in border.finditer(section.text, half, end)), default=0):
            return found
    return end


def _resume(section: _Section, start: int, end: int, size: int, overlap: int) -> int:
    """Where the next window begins: at a sentence or word within the overlap, at a line in a block that should have
    stayed whole, and never inside one that did."""
    earliest = max(end - overlap, start + 1)
    borders: tuple[re.Pattern[str], ...] = _SENTENCE_OR_WORD
    for first, after in section.within(earliest, end):
        if end <= after:
            if after - first <= size:
                return end
            earliest, borders = max(earliest, first), _LINE
        else:
            earliest = after
    for border in borders:
        match = border.search(section.text, earliest, end)
        if match and match.end() < end:
            return match.end()
    return end
