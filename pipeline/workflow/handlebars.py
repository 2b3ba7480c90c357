"""Handlebars forms as jinja2.

`{{#each x}}…{{else}}…{{/each}}` (in it `this`, the item's own fields by their bare names, `@index @first @last @key`,
and `../name` for what is meant further out), `{{#if x}}…{{else if y}}…{{else}}…{{/if}}`, `{{#unless x}}…{{/unless}}`,
`{{! comments }}`, `{{{ x }}}`, and `~` for space. As in Handlebars, a line that holds one block tag and nothing else
leaves no line. Names are resolved when the syntax tree is read (`pipeline.workflow.template_references`): here only
what jinja2 cannot read is put into names that it can, `_this1`, `_key1` and `_up1_name`, numbered by depth.
"""

import re
from typing import NamedTuple

_OPENS = re.compile(r"\{\{\{?[~-]?\s*(?:[#/^]\s*(?:each|if|unless)\b|!)")
_TAG = re.compile(r"\{\{\{?((?:[^\"'{}]++|\"[^\"]*+\"|'[^']*+'|\{(?!\{)|\}(?!\}))*+)\}\}\}?")
_COMMENT = re.compile(r"\{\{[~-]?!(?:--.*?--[~-]?|[^}]*)\}\}", re.DOTALL)
_BLOCK = re.compile(r"([#/^]|else\b)\s*(.*)", re.DOTALL)
_EACH_AS = re.compile(r"(.*\S)\s+as\s+\|\s*([A-Za-z]\w*)(?:\s+([A-Za-z]\w*))?\s*\|", re.DOTALL)
_WORDS = re.compile(r"\"[^\"]*\"|'[^']*'|(@)?((?:\.\./)*)(@)?([A-Za-z_]\w*)")
_PATH = re.compile(r"(?:@|\.\./)*[A-Za-z_][\w.]*")
_OF_LOOP = {"index": "loop.index0", "first": "loop.first", "last": "loop.last"}
_BEFORE = re.compile(r"(?:^|(?<=\n))[ \t]*\Z")
_AFTER = re.compile(r"[ \t]*(?:\n|\Z)")


class NotHandlebars(Exception):
    """A block that is not closed, or closed by another, or something of Handlebars that is not offered. `line` counts
    from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class _Open(NamedTuple):
    kind: str
    line: int
    rest: str  # what opened it, for messages


def is_handlebars(text: str) -> bool:
    return _OPENS.search(text) is not None


def translate(text: str) -> str:
    """The text as jinja2, with as many lines. Raises `NotHandlebars`."""
    return _Translation(text).whole()


class _Translation:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._out: list[str] = []
        self._open: list[_Open] = []
        self._over: set[int] = set()  # indices of blocks whose last `else` has come
        self._level = 0  # of `each`

    def whole(self) -> str:
        opening = re.compile(r"\{[{%#]")
        while (found := opening.search(self._text, self._at)) is not None:
            self._out.append(self._text[self._at : found.start()])
            self._at = found.start()
            if found[0] == "{{":
                self._tag()
            else:
                self._skip("%}" if found[0] == "{%" else "#}")
        if self._open:
            opened = self._open[-1]
            raise NotHandlebars(f"{{{{#{opened.kind}}}}} is not closed", opened.line)
        return "".join(self._out) + self._text[self._at :]

    def _skip(self, end: str) -> None:
        """What is jinja2 already stays."""
        if (raw := re.compile(r"\{%[-+]?\s*raw\b").match(self._text, self._at)) is not None:
            close = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}").search(self._text, raw.end())
            stop = close.end() if close is not None else len(self._text)
        else:
            closed = self._text.find(end, self._at + 2)
            stop = closed + 2 if closed >= 0 else len(self._text)
        self._out.append(self._text[self._at : stop])
        self._at = stop

    def _tag(self) -> None:
        line = self._line_here()
        comment = _COMMENT.match(self._text, self._at)
        if comment is not None:
            self._emit("{#" + "\n" * comment[0].count("\n") + "#}", comment.end(), alone=True)
            return
        found = _TAG.match(self._text, self._at)
        if found is None:
            raise NotHandlebars("a {{ that is not closed", line)
        inner = found[1]
        left, inner = ("-", inner[1:]) if inner[:1] in ("~", "-") else ("", inner)
        right, inner = ("-", inner[:-1]) if inner[-1:] in ("~", "-") else ("", inner)
        block = _BLOCK.fullmatch(inner.strip())
        if block is None:
            if "=" in inner and _PATH.match(inner.strip()) is None:
                self._out.append(found[0])
            else:
                self._out.append("{{" + left + " " + self._expression(inner, line) + " " + right + "}}")
            self._at = found.end()
            return
        made = self._block(block[1], block[2].strip(), line)
        breaks = "\n" * inner.count("\n")
        tags = made.split("\0")
        tags[0] = "{%" + left + tags[0]
        tags[-1] += breaks + right + "%}"
        self._emit("%}{%".join(tags), found.end(), alone=True)

    def _emit(self, tag: str, end: int, *, alone: bool) -> None:
        """A tag alone on its line takes the line with it; its newline goes into the tag, so that lines still count."""
        begin = self._text.rfind("\n", 0, self._at) + 1
        after = _AFTER.match(self._text, end)
        if alone and after is not None and not self._text[begin : self._at].strip(" \t"):
            if self._out:
                self._out[-1] = self._out[-1].rstrip(" \t")
            if after[0].endswith("\n"):
                tag = tag[:-2].rstrip("-") + "\n" + tag[-2:] if tag[-3:] != "-%}" else tag[:-3] + "\n-%}"
            end = after.end()
        self._out.append(tag)
        self._at = end

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    # Blocks.

    def _block(self, sign: str, rest: str, line: int) -> str:
        """Tags without their brackets, a NUL between two."""
        if sign == "else" or (sign == "^" and not rest):
            return self._else(rest, line)
        kind, _, argument = rest.partition(" ")
        kind = kind.strip()
        if kind not in ("each", "if", "unless"):
            raise NotHandlebars(f"{{{{{sign}{kind}}}}} is not offered: there are each, if and unless", line)
        if sign == "/":
            return self._close(kind, line)
        if sign == "^":
            raise NotHandlebars("{{^…}} is not offered: write {{#unless …}}", line)
        if not argument.strip():
            raise NotHandlebars(f"{{{{#{kind}}}}} of what?", line)
        self._open.append(_Open(kind, line, argument))
        return self._each(argument, line) if kind == "each" else self._if(kind, argument, line)

    def _each(self, argument: str, line: int) -> str:
        named = _EACH_AS.fullmatch(argument.strip())
        over = self._expression(named[1] if named is not None else argument, line)
        self._level += 1
        made = f" for _key{self._level}, _this{self._level} in ({over}) | _each "
        if named is not None:
            made += f"\0 set {named[2]} = _this{self._level} "
            if named[3] is not None:
                made += f"\0 set {named[3]} = _key{self._level} "
        return made

    def _if(self, kind: str, argument: str, line: int) -> str:
        test = self._expression(argument, line)
        if self._level and _PATH.fullmatch(argument.strip()) is not None:
            test = f"({test}) | default(none)"  # a field that this item does not have
        return f" if not ({test}) " if kind == "unless" else f" if {test} "

    def _else(self, rest: str, line: int) -> str:
        if not self._open:
            raise NotHandlebars("{{else}} stands outside of a block", line)
        if len(self._open) in self._over:
            raise NotHandlebars("a second {{else}}", line)
        kind = self._open[-1].kind
        if rest:
            word, _, argument = rest.partition(" ")
            if word != "if" or not argument.strip() or kind != "if":
                raise NotHandlebars("{{else …}} can only be {{else if …}}, inside of {{#if}}", line)
            return self._if("if", argument, line).replace(" if", " elif", 1)
        self._over.add(len(self._open))
        if kind == "each":
            self._level -= 1
        return " else "

    def _close(self, kind: str, line: int) -> str:
        if not self._open:
            raise NotHandlebars(f"{{{{/{kind}}}}} closes nothing", line)
        opened = self._open[-1]
        if opened.kind != kind:
            told = f"{{{{/{kind}}}}} closes {{{{#{opened.kind}}}}} of line {opened.line}"
            raise NotHandlebars(told, line)
        if kind == "each" and len(self._open) not in self._over:
            self._level -= 1
        self._over.discard(len(self._open))
        self._open.pop()
        return " endfor " if kind == "each" else " endif "

    # Expressions.

    def _expression(self, text: str, line: int) -> str:
        """`@index` and `../name` as names that jinja2 can read; texts in quotes stay."""

        def word(found: re.Match[str]) -> str:
            at, ups, at_after, name = found.groups()
            if name is None or not (at or ups or at_after or name == "this"):
                return found[0]
            level = self._level - ups.count("/")
            if level < 0 or (level == 0 and (at or at_after or name == "this")):
                raise NotHandlebars(f"{found[0]} leads out of every {{{{#each}}}}", line)
            if at or at_after:
                return self._of_loop(name, level, found[0], line)
            return f"_this{level}" if name == "this" else f"_up{level}_{name}"

        return _WORDS.sub(word, text)

    def _of_loop(self, name: str, level: int, said: str, line: int) -> str:
        if name == "key" or (name == "index" and level < self._level):
            return f"_key{level}"
        if level < self._level or name not in _OF_LOOP:
            raise NotHandlebars(f"{said} is not offered", line)
        return _OF_LOOP[name]
