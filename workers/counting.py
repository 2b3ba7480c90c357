"""How long a prompt is in the tokens of the model that will read it: by its own tokenizer, by its server, or by an
estimate that learns from what the server reports."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import Any

from config.errors import Unreadable
from config.files import MAX_TOKENIZER_BYTES, read_bytes
from config.schema import WorkerSection
from workers.base import CountingWorker, GenerationRequest
from workers.errors import WorkerError, WorkerUnavailable
from workers.tokens import estimate

LOWEST, HIGHEST = 0.5, 4.0  # tokens of the model for one of ours
INSTALL_HINT = "pip install 'headgate[tokenizers]'"

_LEAST = 256  # tokens: of a shorter prompt, what the chat template adds is too large a part
_INCREDIBLE = 2 * HIGHEST  # no text has so many tokens more than we think: there was more than text
_UP, _DOWN = 0.25, 0.01  # how far the factor goes towards a higher ratio, and towards a lower one
_ESTIMATED_INLINE = 64 * 1024  # characters that may be counted on the event loop: well below a millisecond
_TOKENIZED_INLINE = 2 * 1024
_REMEMBERED, _SHORT = 256, 4096  # texts, and the characters that one may have: system messages and templates
_PIECE = 32 * 1024  # characters tokenized together; bounds memory
_MOST = 1024 * 1024  # characters of one text, which take a second
_RETRY_AFTER = 30.0  # seconds in which a server that could not tell is not asked

Ask = Callable[[GenerationRequest], Awaitable[int | None]]


def calibrated(factor: float, counted: int, reported: int) -> float:
    """The factor after a backend has reported `reported` tokens for a prompt of which we had counted `counted`.

    A moving value that errs on the high side: it follows a higher ratio in a few calls and a lower one in some
    hundred, so that it stays near the longest that prompts are, not at their mean. What cannot come from the text alone
    is not learnt from: short prompts, of which the chat template is a large part; ratios far above any tokenizer's
    (images); and those below any (a server that leaves out what it had cached).
    """
    if counted < _LEAST:
        return factor
    ratio = reported / counted
    if not LOWEST <= ratio <= _INCREDIBLE:
        return factor
    rate = _UP if ratio > factor else _DOWN
    return min(max(factor + rate * (ratio - factor), LOWEST), HIGHEST)


class Counter:
    """Counts for one worker. To be used from one event loop; `count` also from threads.

    `count` gives the tokens of one text, of which `factor` make one of the model's; where they are the model's own that
    is 1. Texts of up to `inline_chars` are counted within a millisecond. `clock` is in seconds, monotonic.
    """

    def __init__(
        self,
        *,
        tokenizer: Callable[[str], int] | None = None,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count: Callable[[str], int] = tokenizer or estimate
        self.factor = 1.0
        self.inline_chars = _TOKENIZED_INLINE if tokenizer else _ESTIMATED_INLINE
        self._exact = tokenizer is not None
        self._ask = None if tokenizer else ask
        self._clock = clock
        self.can_ask = self._ask is not None
        self._silent_until = -inf

    @property
    def asks(self) -> bool:
        """Whether the model's server can be asked now."""
        return self.can_ask and self._clock() >= self._silent_until

    async def ask(self, request: GenerationRequest, within: float) -> int | None:
        """The tokens of a whole prompt, by the model's server. None where it does not tell within so many seconds; then
        it is not asked again for a while, unless it was the request's fault."""
        tokens: int | None = None
        if self._ask is not None:
            try:
                async with asyncio.timeout(within):
                    tokens = await self._ask(request)
            except WorkerError as error:
                if error.kind.of_request:  # others may be counted
                    return None
            except TimeoutError:
                pass
        if not tokens or tokens < 0:
            self._silent_until = self._clock() + _RETRY_AFTER
            return None
        return tokens

    def learn(self, counted: int, reported: int) -> None:
        """A backend has counted `reported` tokens for a prompt of which `count` made `counted`; text, and nothing
        else."""
        if not self._exact:
            self.factor = calibrated(self.factor, counted, reported)


def counter_of(section: WorkerSection, replicas: Sequence[object], before: Counter | None = None) -> Counter:
    """The counter for a worker and its replicas, which are asked in turn where they can tell.

    What `before`, of the same model, has learnt is kept. Raises `WorkerUnavailable` for a tokenizer that cannot be
    used.
    """
    if section.tokenizer is not None:
        return Counter(tokenizer=load_tokenizer(Path(section.tokenizer)))
    counting = [replica for replica in replicas if isinstance(replica, CountingWorker)]
    counter = Counter(ask=_InTurn(counting) if counting else None)
    if before is not None and not before._exact:  # noqa: SLF001 - of the same class
        counter.factor = before.factor
    return counter


class _InTurn:
    """Asks one replica after another, each for one prompt."""

    def __init__(self, workers: Sequence[CountingWorker]) -> None:
        self._workers = workers
        self._next = 0

    async def __call__(self, request: GenerationRequest) -> int | None:
        worker = self._workers[self._next % len(self._workers)]
        self._next += 1
        return await worker.count_tokens(request)


def load_tokenizer(file: Path) -> Callable[[str], int]:
    """Counts a text's tokens by a file `tokenizer.json`, as Hugging Face's `tokenizers` writes it. Leaves other threads
    running meanwhile. Raises `WorkerUnavailable`."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise WorkerUnavailable("tokenizer", "a file, but the package tokenizers is missing", INSTALL_HINT) from error
    try:
        tokenizer = Tokenizer.from_buffer(read_bytes(file, MAX_TOKENIZER_BYTES))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except Unreadable as error:
        raise WorkerUnavailable("tokenizer", f"{file}: {error.found}", error.expected) from error
    except Exception as error:  # the package raises nothing narrower
        reason = " ".join(str(error).split())[:200]
        raise WorkerUnavailable("tokenizer", f"{file}: {reason}", "a tokenizer.json of tokenizers") from error
    return partial(_tokens, tokenizer, lru_cache(_REMEMBERED)(partial(_length, tokenizer)))


def _tokens(tokenizer: Any, remembered: Callable[[str], int], text: str) -> int:
    """Of a text longer than `_MOST`, what follows is taken to be like what comes before."""
    length = len(text)
    if length <= _SHORT:
        return remembered(text)
    looked_at = min(length, _MOST)
    tokens = sum(_length(tokenizer, text[at : at + _PIECE]) for at in range(0, looked_at, _PIECE))
    return tokens * length // looked_at


def _length(tokenizer: Any, text: str) -> int:
    """Only the call for several texts lets other threads run. Lone surrogates are no Unicode text."""
    clean = text.encode("utf-8", "replace").decode()
    (encoding,) = tokenizer.encode_batch_fast([clean], add_special_tokens=False)
    return len(encoding.ids)
