"""Placeholder until the real one lands."""

from typing import Protocol


class ConcurrencyLimit(Protocol):
    limit: int

    def first_delta(self, seconds: float, prompt_tokens: int, inflight: int, now: float) -> None: ...
    def pushed_back(self, retry_after: float | None, now: float) -> None: ...
    def tick(self, inflight: int, oldest: float, now: float) -> None: ...


class FixedLimit:
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def first_delta(self, seconds: float, prompt_tokens: int, inflight: int, now: float) -> None: ...
    def pushed_back(self, retry_after: float | None, now: float) -> None: ...
    def tick(self, inflight: int, oldest: float, now: float) -> None: ...


class AdaptiveLimit(FixedLimit):
    def __init__(self, maximum: int, initial: int = 16, minimum: int = 1) -> None:
        super().__init__(maximum)
