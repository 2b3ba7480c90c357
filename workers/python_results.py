"""What methods of somebody's own class gave, as what a worker has to give. What is not that raises `WorkerError`."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from workers.answer import broken
from workers.base import Delta, DeltaBatch, Health


def batches_of(items: Sequence[Any]) -> Iterator[DeltaBatch]:
    """What was ready together stays together."""
    deltas: list[Delta] = []
    for item in items:
        if isinstance(item, str):
            deltas.append(Delta(str(item)))
        elif isinstance(item, Delta):
            deltas.append(item)
        elif isinstance(item, DeltaBatch):
            if deltas:
                yield DeltaBatch(tuple(deltas))
                deltas = []
            yield item
        else:
            raise broken(f"generate yielded a {type(item).__name__}; it may yield str, Delta and DeltaBatch")
    if deltas:
        yield DeltaBatch(tuple(deltas))


def words_of(error: BaseException) -> str:
    """Its class and its text, which somebody's code makes as well."""
    try:
        text = str(error)
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    except BaseException:  # noqa: BLE001 - whatever its __str__ raises
        return type(error).__name__


def health_of(result: Any) -> Health:
    if isinstance(result, Health):
        return result
    if result is None or isinstance(result, bool):
        ok = result is not False
        return Health(ok, "" if ok else "the worker says so")
    return Health(ok=False, detail=f"health gave a {type(result).__name__}; it may give Health, bool or None")


def vectors_of(given: Any) -> tuple[tuple[float, ...], ...]:
    try:
        vectors = tuple([tuple([float(number) for number in vector]) for vector in given])
    except (TypeError, ValueError):
        raise broken("embed gave no lists of numbers") from None
    if any(not math.isfinite(number) for vector in vectors for number in vector):
        raise broken("a vector has a number that is not finite")
    if len({len(vector) for vector in vectors}) > 1:
        raise broken("its vectors differ in length")
    return vectors
