"""The worker that needs no model: it answers by quoting what was retrieved."""

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple

from config.schema import ExtractiveWorker
from workers.base import Delta, DeltaBatch, GenerationRequest, Health, Passage, Usage
from workers.local import limited, newest_user_text, refuse_several, tokens_of
from workers.sentences import sentences, terms
from workers.tokens import estimate

NOTHING = "I found nothing in the documents that answers this."

_TOKENS_PER_BATCH = 8
_MAX_QUESTION = 4_000  # characters; of a longer message the end, where the question usually is
_MAX_TERMS = 64
_MAX_PASSAGE = 20_000  # characters of one passage that are looked at
_MAX_TEXT = 200_000  # characters of all passages together
_MAX_SENTENCES = 4_000
_UNSEEN = 20  # sentences without any of the terms that are counted in: what was retrieved is no fair sample
_CONTEXT = 0.5  # what a term counts that stands in the heading above a sentence
_NO_STATEMENT = (
    "?",
    ":",
    "\u061f",
    "\uff1f",
)  # questions, also Arabic and full-width, and what only leads to something
_SAME = 0.7  # share of common terms from which on two sentences say the same
_BESIDE_BEST = 0.6  # share of the best score that the others must reach


class Extractive:
    """Quotes the sentences that best match the newest user message, each with the number of its passage: `… [1]`.

    Uses `request.passages` alone and is deterministic. Usage: the prompt by estimate, the answer in words.
    """

    def __init__(self, section: ExtractiveWorker) -> None:
        self._section = section

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        refuse_several(request, self._section.name)
        answer = compose(
            newest_user_text(request),
            request.passages,
            max_sentences=self._section.max_sentences,
            min_match=self._section.min_match,
        )
        tokens, finish_reason = limited(tokens_of(answer), request.parameters)
        usage = Usage(sum([estimate(message.text) for message in request.messages]), len(tokens))
        if not request.stream:
            yield DeltaBatch((Delta("".join(tokens), 0, finish_reason),), usage)
            return
        *head, last = tokens
        for at in range(0, len(head), _TOKENS_PER_BATCH):
            yield DeltaBatch(tuple([Delta(token) for token in head[at : at + _TOKENS_PER_BATCH]]))
            await asyncio.sleep(0)
        yield DeltaBatch((Delta(last, 0, finish_reason),), usage)

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass


class _Candidate(NamedTuple):
    """A sentence of passage number `number` (from 1); `order` is its place among all sentences."""

    text: str
    number: int
    order: int
    terms: frozenset[str]
    context: frozenset[str]


def compose(question: str, passages: Sequence[Passage], *, max_sentences: int, min_match: float) -> str:
    """The best sentences for the question, grouped by passage (the one with the best sentence first), in the order
    in which they stand there; `NOTHING` when none covers `min_match` of the question's weight."""
    asked = list(dict.fromkeys(terms(question[-_MAX_QUESTION:])))[:_MAX_TERMS]
    candidates = list(itertools.islice(_candidates(passages, frozenset(asked)), _MAX_SENTENCES))
    chosen = _chosen(_scores(asked, candidates, min_match), max_sentences)
    if not chosen:
        return NOTHING
    first = {candidate.number: place for place, candidate in reversed(list(enumerate(chosen)))}
    chosen.sort(key=lambda candidate: (first[candidate.number], candidate.order))
    return " ".join([f"{candidate.text} [{candidate.number}]" for candidate in chosen])


def _candidates(passages: Sequence[Passage], asked: frozenset[str]) -> Iterator[_Candidate]:
    left = _MAX_TEXT
    order = itertools.count()
    for number, passage in enumerate(passages, 1):
        text = passage.text[: min(_MAX_PASSAGE, left)]
        left -= len(text)
        title = passage.title[:_MAX_QUESTION]
        headings: dict[str, frozenset[str]] = {}
        for sentence in sentences(text):
            heading = sentence.heading
            if heading not in headings:
                headings[heading] = asked.intersection(terms(f"{title} {heading[:_MAX_QUESTION]}"))
            yield _Candidate(sentence.text, number, next(order), frozenset(terms(sentence.text)), headings[heading])


def _scores(asked: Sequence[str], candidates: Sequence[_Candidate], min_match: float) -> list[tuple[float, _Candidate]]:
    """The candidates that cover enough of the question, best first."""
    weights = _weights(asked, candidates)
    total = sum(weights.values())
    scored = []
    for candidate in candidates:
        own = sum([weight for term, weight in weights.items() if term in candidate.terms])
        if not own:
            continue
        around = sum([weights[term] for term in candidate.context - candidate.terms])
        covered = (own + _CONTEXT * around) / total
        if covered >= min_match:
            scored.append((covered * _merit(candidate), candidate))
    scored.sort(key=lambda pair: (-pair[0], pair[1].order))
    return scored


def _weights(asked: Sequence[str], candidates: Sequence[_Candidate]) -> dict[str, float]:
    """Inverse document frequency (BM25's) over the sentences. A term that stands nowhere weighs as much as one that
    stands once: a question mostly about something else must not match by its common words."""
    count = len(candidates) + _UNSEEN
    weights = {}
    for term in asked:
        holding = sum([term in candidate.terms for candidate in candidates])
        weights[term] = math.log(1 + (count - holding + 0.5) / (max(holding, 1) + 0.5))
    return weights


def _merit(candidate: _Candidate) -> float:
    """What speaks for a sentence besides its match: its passage's rank, that it is short, that it states something."""
    merit = 0.85 + 0.15 / candidate.number
    merit /= 1 + max(0, len(candidate.terms) - 25) / 50
    return merit * 0.5 if candidate.text.endswith(_NO_STATEMENT) else merit


def _chosen(scored: Sequence[tuple[float, _Candidate]], limit: int) -> list[_Candidate]:
    """The best `limit` that differ from each other, best first."""
    chosen: list[_Candidate] = []
    for score, candidate in scored:
        if len(chosen) == limit or score < _BESIDE_BEST * scored[0][0]:
            break
        if not any(_alike(candidate.terms, other.terms) for other in chosen):
            chosen.append(candidate)
    return chosen


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= _SAME * len(one | other)
