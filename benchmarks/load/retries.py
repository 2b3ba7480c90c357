"""When the official OpenAI clients try again, and after how long."""

from random import Random

from benchmarks.load.answer import Answer, End
from benchmarks.load.scenario import Retries

FIRST_WAIT = 0.5  # seconds, doubled with each retry
LONGEST_WAIT = 8.0
LONGEST_ASKED = 120.0  # what a target asks for beyond that ends the attempts
_JITTER = 0.25  # a wait is shortened by up to this share

_OWN_DOING = frozenset({End.TIMED_OUT, End.LEFT, End.STOPPED})
_TEMPORARY = frozenset({408, 409, 429})


def delay(answer: Answer, taken: int, retries: Retries, random: Random) -> float | None:
    """Seconds until the next attempt, None where there is none. `taken`: how many retries there were before.

    As `openai` 3 does it (`_base_client.py`: `_should_retry` and `_calculate_retry_timeout`). A client whose own
    patience ended, or that went away, does not come back. Who retries at once does so after an answer: without a
    connection, he too has to wait.
    """
    if taken >= retries.max or answer.end in _OWN_DOING:
        return None
    if answer.connection_error:
        return _backoff(taken, random)
    if answer.status < 300 or not _again(answer):
        return None
    if retries.at_once:
        return 0.0
    asked = answer.retry_after
    return asked if asked is not None and asked > 0 else _backoff(taken, random)


def _again(answer: Answer) -> bool:
    """Whether a status that is an error deserves another attempt."""
    if answer.retry_after is not None and answer.retry_after > LONGEST_ASKED:
        return False
    if answer.should_retry is not None:
        return answer.should_retry
    return answer.status in _TEMPORARY or answer.status >= 500


def _backoff(taken: int, random: Random) -> float:
    wait: float = min(FIRST_WAIT * 2.0 ** min(taken, 1000), LONGEST_WAIT)
    return wait * (1 - _JITTER * random.random())
