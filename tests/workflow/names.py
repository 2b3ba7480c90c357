"""Variables for templates, without an engine."""

from typing import Any


class Variables:
    """`Names` over keyword arguments."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def lookup(self, name: str) -> Any:
        return self._values[name]


NAMES = Variables(
    inputs={"topic": "cats", "tags": ["a", "b"], "n": 3, "none": None, "deep": {"list": [{"x": 1}, {"x": 2}]}},
    steps={
        "draft": {"text": "Hello", "model": "m", "usage": {"total_tokens": 5}, "metadata": {}},
        "my-id": {"text": "dash"},
        "skipped": {"text": None, "value": None},
    },
    outputs={"summary": "S"},
    topic="flat cats",
    rows=[{"name": "Ann", "age": 3, "tags": ["x", "y"]}, {"name": "Bob", "age": 2, "tags": []}],
    big=list(range(50_000)),
    text="a" * 200_000,
)
