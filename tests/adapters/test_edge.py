"""What only the embedded store does: files, locks, crashes."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pipeline.adapters.stores import edge
from pipeline.adapters.stores.edge import EdgeStore
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.core.ports import Chunk, Manifest

MANIFEST = Manifest("docs", "embedder.1", 4)


def chunk(source: str, position: int = 0, *, last: bool = True) -> Chunk:
    return Chunk(source, position, "Title", f"text of {source}", "d", [0.5, 0.5, 0.5, 0.5], last)


async def test_the_manifest_lies_beside_the_engines_files(tmp_path: Path):
    await (await EdgeStore.open(tmp_path / "docs", MANIFEST)).aclose()
    assert sorted(p.name for p in (tmp_path / "docs").iterdir()) == ["manifest.json", "shard"]
    assert msgspec.json.decode((tmp_path / "docs" / "manifest.json").read_bytes(), type=Manifest) == MANIFEST
    assert any((tmp_path / "docs" / "shard" / "wal").iterdir())


@pytest.mark.slow
async def test_a_second_process_is_refused(tmp_path: Path):
    store = await EdgeStore.open(tmp_path / "docs", MANIFEST)
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from pipeline.adapters.stores.edge import EdgeStore; from pipeline.core.ports import Manifest\n"
        "asyncio.run(EdgeStore.open(Path(sys.argv[1]), Manifest('docs', 'embedder.1', 4)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "docs")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "RetrievalError: collection 'docs': opening" in refused.stderr
    await store.aclose()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("content", ["", "{}", '{"collection": 1}', "\0"])
async def test_a_damaged_manifest_is_an_error_with_a_remedy_and_can_be_made_anew(tmp_path: Path, content: str):
    await (await EdgeStore.open(tmp_path / "docs", MANIFEST)).aclose()
    (tmp_path / "docs" / "manifest.json").write_text(content)
    with pytest.raises(RetrievalError, match="--recreate") as caught:
        await EdgeStore.open(tmp_path / "docs", MANIFEST)
    assert not isinstance(caught.value, CollectionMismatch)
    await (await EdgeStore.open(tmp_path / "docs", MANIFEST, recreate=True)).aclose()


async def test_a_damaged_shard_is_an_error_and_can_be_made_anew(tmp_path: Path):
    await (await EdgeStore.open(tmp_path / "docs", MANIFEST)).aclose()
    (tmp_path / "docs" / "shard" / "edge_config.json").write_text("{")
    with pytest.raises(RetrievalError, match="opening"):
        await EdgeStore.open(tmp_path / "docs", MANIFEST)
    await (await EdgeStore.open(tmp_path / "docs", MANIFEST, recreate=True)).aclose()


async def test_what_an_interrupted_creation_left_is_removed(tmp_path: Path):
    left, others = tmp_path / f".docs.{'0' * 32}", tmp_path / f".docs2.{'0' * 32}"
    for folder in (left, others):
        (folder / "shard").mkdir(parents=True)
    store = await EdgeStore.open(tmp_path / "docs", MANIFEST)
    assert sorted(p.name for p in tmp_path.iterdir()) == [others.name, "docs"]
    await store.aclose()


async def test_a_creation_that_fails_leaves_no_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(RetrievalError, match="No space left on device"):
            await EdgeStore.open(tmp_path / "docs", MANIFEST)
    assert not (tmp_path / "docs").exists()
    store = await EdgeStore.open(tmp_path / "docs", MANIFEST)
    assert await store.count() == 0
    await store.aclose()


async def test_closed_it_answers_with_an_error_and_closing_again_is_nothing(tmp_path: Path):
    store = await EdgeStore.open(tmp_path / "docs", MANIFEST)
    await store.aclose()
    await store.aclose()
    for call in (store.search([1.0, 0, 0, 0], "x", 1), store.write([chunk("a")]), store.documents(), store.count()):
        with pytest.raises(RetrievalError, match="docs"):
            await call


async def test_optimizing_loses_nothing(tmp_path: Path):
    store = await EdgeStore.open(tmp_path / "docs", MANIFEST)
    for i in range(30):
        await store.write([chunk(f"{i}.md")])
    for i in range(0, 30, 2):
        await store.delete(f"{i}.md")
    await store.optimize()
    assert sorted(await store.documents()) == sorted(f"{i}.md" for i in range(1, 30, 2))
    await store.aclose()


async def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    with pytest.raises(RetrievalError) as caught:
        await EdgeStore.open(tmp_path / "docs", MANIFEST)
    assert edge.INSTALL_HINT in caught.value.message


async def test_english_words_are_found_by_their_stem(tmp_path: Path):
    store = await EdgeStore.open(tmp_path / "docs", MANIFEST)
    texts = {"a.md": "the lighthouse keepers", "b.md": "tidal channels", "c.md": "ferries"}
    for source, text in texts.items():
        vector = [0.5, 0.5, 0.5, 0.5]
        await store.write([Chunk(source, 0, "", text, "d", vector, last=True)])
    assert (await store.search([0.5, 0.5, 0.5, 0.5], "channel", 1))[0].source == "b.md"
    await store.aclose()
