"""Markdown into headings and blocks. Blocks keep their markup: it is what a model reads best."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.knowledge import html_blocks
from pipeline.knowledge.blocks import Block, Heading

_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n.*?\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_WHOLE = {"fence", "code_block", "table_open"}

# Text inside blocks is kept as it is written, so only headings are parsed further.
_blocks = MarkdownIt("commonmark").enable("table")
_blocks.core.ruler.disable(["inline", "text_join"])
_inline = MarkdownIt("commonmark")


def read(content: str) -> Iterator[Block | Heading]:
    text = _FRONT_MATTER.sub("", content.replace("\r\n", "\n").replace("\r", "\n"), count=1)
    lines = text.split("\n")
    tokens = _blocks.parse(text)
    for i, token in enumerate(tokens):
        if token.level or token.nesting < 0 or token.map is None:
            continue
        if token.type == "heading_open":
            if title := _plain(tokens[i + 1].content):
                yield Heading(int(token.tag[1]), title)
        elif token.type == "html_block":
            yield from html_blocks.read(token.content)
        elif token.type != "hr":
            yield from _block(token, lines)


def _block(token: Token, lines: list[str]) -> Iterator[Block]:
    first, after = token.map or (0, 0)
    if text := "\n".join(lines[first:after]).strip("\n").rstrip():
        yield Block(text, whole=token.type in _WHOLE)


def _plain(markup: str) -> str:
    """A heading's text without its markup."""
    tokens = _inline.parseInline(markup)
    parts = [child.content or " " for token in tokens for child in token.children or [] if _shows(child)]
    return " ".join("".join(parts).split())


def _shows(token: Token) -> bool:
    return token.type in {"text", "code_inline", "softbreak", "hardbreak", "text_special", "image"}
