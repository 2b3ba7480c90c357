"""Texts into sentences, and sentences into the terms by which they are compared. Plain text or Markdown, any script."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

LONGEST = 400  # characters of a sentence; what is longer is cut into pieces

_FENCES = ("```", "~~~")
_ITEM = re.compile(r"(?:[-*+•]|\d{1,9}[.)])\s+")
_IMAGE_OR_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\([^()\s]*\)")
_MARKER = re.compile(r"\[\d{1,4}\]")  # would be mistaken for one of our citations
_CLOSING = r"\"'\u201d\u2019)\]"  # quotes and brackets that a sentence may end with
# Where a sentence ends: before a space and no small letter, or anywhere in scripts whose full stop needs no space.
_END = re.compile(
    rf"(?<![.!?…])[.!?…]+[{_CLOSING}*_`]* (?=[^a-z])"
    rf"|[\u3002\uff01\uff1f\uff61\u0964\u061f]+[{_CLOSING}\u300d\u300f\uff09]* ?"
)
_ABBREVIATIONS = frozenset("e.g. i.e. vs. cf. approx. no. fig. mr. mrs. ms. dr. prof. st. incl. resp. etc.".split())

# Scripts written without spaces: Thai to Myanmar, Khmer, kana and Han.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# A word is what stands between spaces and punctuation: marks that \w leaves out (vowel signs) are parts of words.
_BETWEEN = r"\s\x00-\x2f:-@\[-`{-\xbf\u0964\u0965\u060c\u061b\u061f\u2000-\u206f\u3000-\u303f\uff00-\uff65"
_WORD = re.compile(rf"[{_UNSPACED}]+|[^{_BETWEEN}{_UNSPACED}]+")
_UNSPACED_WORD = re.compile(rf"[{_UNSPACED}]{{2,}}")
_STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being both but by can cannot could did do
    does doing don down during each few for from further had has have having he her here him his how i if in into is it
    its itself just let ll me more most my no nor not now of off on once only or other our out over own please re s same
    shall she should so some such t tell than that the their them then there these they this those through to too under
    until up us ve very was we were what when where whether which while who whom whose why will with would you
    your""".split()
)
_VOWEL = re.compile("[aeiouy]")
_SUFFIXES = (
    ("ations", ""), ("ation", ""), ("ators", ""), ("ator", ""), ("ating", ""), ("ated", ""), ("ates", ""), ("ate", ""),
    ("ions", ""), ("ion", ""), ("ings", ""), ("ing", ""), ("ies", "y"), ("ied", "y"), ("sses", "ss"), ("eed", "eed"),
    ("ed", ""), ("ly", ""), ("ss", "ss"), ("us", "us"), ("es", ""), ("s", ""), ("e", ""),
)  # fmt: skip


class Sentence(NamedTuple):
    """`heading` is the nearest heading above it within the text, empty when there is none."""

    text: str
    heading: str


def sentences(text: str) -> Iterator[Sentence]:
    """The sentences of a text in order, white space collapsed, links reduced to their words.

    A list item stands for itself; headings, tables and fenced code are no sentences. Time is linear in the text.
    """
    heading = ""
    lines: list[str] = []
    fence = ""
    for line in map(str.strip, text.splitlines()):
        if fence:
            fence = "" if line.startswith(fence) else fence
            continue
        item = _ITEM.match(line)
        borders = not line or line[0] in "#|" or line.startswith(_FENCES)
        if (borders or item) and lines:
            yield from _split(lines, heading)
            lines = []
        if line.startswith(_FENCES):
            fence = line[:3]
        elif line.startswith("#"):
            heading = line.strip("# ")
        elif not borders:
            lines.append(line[item.end() :] if item else line.lstrip("> "))
    yield from _split(lines, heading)


def _split(lines: list[str], heading: str) -> Iterator[Sentence]:
    text = _IMAGE_OR_LINK.sub(lambda match: "" if match[1] else match[2], " ".join(lines))
    text = " ".join(_MARKER.sub("", text).split())
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if not _abbreviated(text[max(start, end - 16) : end].rstrip()):
            yield from _pieces(text[start:end].rstrip(), heading)
            start = end
    yield from _pieces(text[start:], heading)


def _abbreviated(ending: str) -> bool:
    """Whether the last word only looks like an end: an abbreviation, or someone's initial."""
    word = ending.rpartition(" ")[2].lstrip("(\"'*_`")
    return word.lower() in _ABBREVIATIONS or (len(word) == 2 and word[0].isupper())


def _pieces(sentence: str, heading: str) -> Iterator[Sentence]:
    start = 0
    while len(sentence) - start > LONGEST:
        cut = sentence.rfind(" ", start + LONGEST // 2, start + LONGEST)
        cut = start + LONGEST if cut < 0 else cut
        yield Sentence(f"{'… ' if start else ''}{sentence[start:cut].strip()} …", heading)
        start = cut
    if rest := sentence[start:].strip():
        yield Sentence(f"… {rest}" if start else rest, heading)


def terms(text: str) -> list[str]:
    """What the words of a text are about, in order: stems in English, words in other languages, pairs of characters
    where a script does not part words. English stop words are left out."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if word.isascii():
            if word not in _STOP_WORDS:
                found.append(_stem(word))
        elif _UNSPACED_WORD.match(word):
            found += [word[at : at + 2] for at in range(len(word) - 1)]
        else:
            found.append(word)
    return found


@functools.lru_cache(maxsize=8192)
def _stem(word: str) -> str:
    """The word without its English endings, so that "configured" and "configuration" meet. Rough: it only has to be
    the same on both sides of a comparison."""
    while (shorter := _shortened(word)) != word:
        word = shorter
    return word


def _shortened(word: str) -> str:
    for suffix, instead in _SUFFIXES:
        stem = word.removesuffix(suffix)
        if len(stem) < len(word) and len(stem + instead) > 1 and _VOWEL.search(stem + instead):
            word = stem + instead
            break
    doubled = len(word) > 2 and word[-1] == word[-2] != "s"
    return word[:-1] if doubled else word
