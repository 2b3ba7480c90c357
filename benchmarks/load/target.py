"""The first look at a target: which models it has, and whether it answers at all."""

import asyncio
from collections.abc import Mapping
from random import Random

import aiohttp
import msgspec

from benchmarks.load.answer import Answer, End
from benchmarks.load.fetch import bounded
from benchmarks.load.mix import Intent, body, headers
from benchmarks.load.scenario import Kind, Sizes
from benchmarks.load.wire import Wire

_LIMIT = aiohttp.ClientTimeout(total=10)
_MOST_BYTES = 4 << 20
PATIENCE = 30.0  # seconds for the first answer
_TRY_AGAIN = frozenset({408, 409, 425, 429})


class NoModel(Exception):
    """Raised when a target does not say which models it has; the message says what it said instead."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def first_model(base_url: str, api_key: str | None, extra: Mapping[str, str]) -> str:
    """The first model of `GET {base_url}/models`. Raises NoModel."""
    fields = dict(extra) | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    url = f"{base_url.rstrip('/')}/models"
    try:
        async with aiohttp.ClientSession(timeout=_LIMIT) as session, session.get(url, headers=fields) as response:
            data = await bounded(response, _MOST_BYTES)
            if response.status != 200:
                raise NoModel(f"{url} answered {response.status}; name a model with --model")
            models = msgspec.json.decode(data, type=_Models).data
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
        raise NoModel(
            f"{url}: {str(error) or type(error).__name__}; does the target run, and does its URL end as a client's "
            "base_url does (/v1, mostly)? For a target that lists no models, name a model with --model"
        ) from error
    if not models:
        raise NoModel(f"{url} names no model; name one with --model")
    return models[0].id


async def first_answer(wire: Wire, model: str, run: str, patience: float) -> str | None:
    """Ask once, and wait for `patience` seconds, at most PATIENCE. What is wrong with the target in a sentence, or None
    if a run can begin.

    A target that is overloaded, or fails, is fit to be measured; one that cannot be reached, does not know the model,
    wants another key or speaks another protocol is not.
    """
    kind = Kind(name="first", max_tokens=Sizes(mean=1))
    intent = Intent(number=0, at=0.0, kind=kind, session=None, words=3, max_tokens=1, leaves=False)
    patience = min(patience, PATIENCE)
    deadline = asyncio.get_running_loop().time() + patience
    answer = await wire.ask(
        body(intent, model, run),
        headers=headers(intent, patience),
        stream=False,
        deadline=deadline,
        leave=None,
        leave_at=None,
    )
    return _unfit(answer, model, patience)


def _unfit(answer: Answer, model: str, patience: float) -> str | None:
    said = f": {answer.detail}" if answer.detail else ""
    if answer.end is End.UNREACHABLE:
        return f"the target cannot be reached{said}"
    if answer.end is End.TIMED_OUT:
        return f"the target did not answer one request within {patience:g} s"
    if answer.end in (End.BROKEN, End.NONSENSE):
        return f"the target's answer is no use ({answer.end}){said}"
    if 300 <= answer.status < 500 and answer.status not in _TRY_AGAIN:
        code = f" {answer.code}" if answer.code else ""
        return f"the target answered {answer.status}{code} to a request for model {model!r}{said}"
    return None


def run_id() -> str:
    """Eight hexadecimal digits that mark the requests of one run."""
    return f"{Random().getrandbits(32):08x}"
