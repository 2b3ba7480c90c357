"""What each arrival asks."""

from typing import NamedTuple

from benchmarks.load.scenario import Kind


class Intent(NamedTuple):
    """One request that is to be sent. `number` is unique in the run; `at` is seconds since the phase began.

    `words` of prompt; `max_tokens` None where the request names none; `leaves`: whether this client goes away at the
    point that its kind says.
    """

    number: int
    at: float
    kind: Kind
    session: str | None
    words: int
    max_tokens: int | None
    leaves: bool
