"""What all stores have in common."""

from typing import Any

import pytest

from pipeline.adapters.stores import common
from pipeline.core.errors import CollectionMismatch, RetrievalError


def entry(source: str, digest: str, *, last: bool = False) -> dict[str, Any]:
    return {"source": source, "digest": digest, "last": last}


@pytest.mark.parametrize(
    ("stored", "digest"),
    [
        ([entry("a", "d", last=True)], "d"),
        ([entry("a", "d"), entry("a", "d", last=True), entry("a", "d")], "d"),
        ([entry("a", "d"), entry("a", "d")], ""),
        ([entry("a", "new"), entry("a", "old", last=True)], ""),
        ([entry("a", "new", last=True), entry("a", "old", last=True)], ""),
        ([entry("a", "d", last=True), entry("a", "d", last=True)], ""),
    ],
)
def test_only_exactly_one_complete_version_has_a_digest(stored: list[dict[str, Any]], digest: str):
    other = entry("b", "x", last=True)
    assert common.digests([*stored, other]) == {"a": digest, "b": "x"}


def test_ids_are_stable_and_apart():
    assert common.chunk_id("docs/a.md", 3) == "ae675529-f4a3-515a-aa6f-0d30f5d8cfdc"
    ids = {common.chunk_id(s, p) for s in ("a", "a1", "b") for p in range(20)}
    assert len(ids) == 60
    assert common.chunk_id("a1", 1) != common.chunk_id("a", 11)


def test_what_a_library_raises_becomes_one_error_on_one_line():
    message = "collection 'docs': searching failed: two lines"
    with pytest.raises(RetrievalError, match=message) as caught, common.translated("docs", "searching"):
        raise ValueError("two\n lines")
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.collection == "docs"
    with pytest.raises(RetrievalError, match="failed: ZeroDivisionError"), common.translated("docs", "searching"):
        raise ZeroDivisionError
    with pytest.raises(CollectionMismatch), common.translated("docs", "searching"):
        raise CollectionMismatch("as it is", collection="docs")
