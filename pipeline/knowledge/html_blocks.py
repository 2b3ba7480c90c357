"""HTML into headings and blocks of plain text."""

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup
from bs4.element import CData, NavigableString, PreformattedString, Tag

from pipeline.knowledge.blocks import Block, Heading

# Not the document's own text.
_DROPPED = ["script", "style", "noscript", "template", "svg", "nav", "head", "iframe", "form", "button", "select"]
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
# Elements that flow within a line; every other element begins and ends a block.
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q rp rt ruby s samp small "
    "span strike strong sub sup time tt u var wbr".split()
)
_CELLS = frozenset(["td", "th"])
_GROUPS = frozenset(["ul", "ol", "dl", "table"])  # one block, with lines in it
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")
_LONELY_BULLET = re.compile(r"^-\n(?!-( |$))", re.MULTILINE)
_PROLOG = re.compile(r"\A\s*<\?xml[^>]*>")


def read(content: str) -> Iterator[Block | Heading]:
    """The page's title is the first heading where it has no h1."""
    # The prolog and the newline keep the parser from warning that this may be XML, or the name of a file.
    soup = BeautifulSoup(_PROLOG.sub("", content) + "\n", "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    if title and soup.find("h1") is None:
        yield Heading(1, title)
    for tag in soup(_DROPPED):
        tag.decompose()
    yield from _Reader().read(soup)


class _Reader:
    """Walks the tree without recursion: a page can be nested deeper than the interpreter's stack."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._pre = 0
        self._group = 0
        self._cell = 0

    def read(self, root: Tag) -> Iterator[Block | Heading]:
        stack: list[tuple[Tag, Iterator[object]]] = [(root, iter(root.children))]
        while stack:
            tag, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                yield from self._leave(tag)
            elif isinstance(child, Tag):
                yield from self._enter(child)
                stack.append((child, iter(child.children)))
            elif isinstance(child, NavigableString) and _is_text(child):
                self._text.append(str(child) if self._pre else str(child).replace("\n", " "))

    def _enter(self, tag: Tag) -> Iterator[Block | Heading]:
        if tag.name in _CELLS:
            self._text.append(" | ")
        elif tag.name == "li":
            self._text.append("\n- ")
        elif tag.name == "br":
            self._text.append("\n")
        elif tag.name not in _INLINE:
            yield from self._border()
        self._pre += tag.name == "pre"
        self._group += tag.name in _GROUPS
        self._cell += tag.name in _CELLS

    def _leave(self, tag: Tag) -> Iterator[Block | Heading]:
        self._pre -= tag.name == "pre"
        self._group -= tag.name in _GROUPS
        self._cell -= tag.name in _CELLS
        if tag.name in _HEADINGS and not self._within:
            if text := " ".join("".join(self._text).split()):
                yield Heading(_HEADINGS[tag.name], text)
            self._text.clear()
        elif tag.name not in _INLINE and tag.name not in _CELLS and tag.name not in {"li", "br"}:
            yield from self._border(pre=tag.name == "pre", whole=tag.name == "table")

    @property
    def _within(self) -> bool:
        """Whether blocks that begin or end here are parts of a larger one."""
        return bool(self._group or self._pre or self._cell)

    def _border(self, *, pre: bool = False, whole: bool = False) -> Iterator[Block]:
        """Between two blocks: hands out what was gathered, or begins a line where they are parts of a larger one."""
        if self._within:
            self._text.append(" " if self._cell else "\n")
            return
        text = "".join(self._text)
        self._text.clear()
        if pre:
            text = text.strip("\n").rstrip()
        else:
            text = _LONELY_BULLET.sub("- ", _LINES.sub("\n", _SPACE.sub(" ", text)).strip())
        if text.strip():
            yield Block(text, whole=pre or whole)


def _is_text(node: NavigableString) -> bool:
    """Not a comment, declaration or processing instruction."""
    return not isinstance(node, PreformattedString) or isinstance(node, CData)
