"""The retriever that a shard builds from its configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import ConfigError
from config.secrets import resolve
from pipeline.core.errors import RetrievalError
from pipeline.knowledge.errors import Disconnected
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.retriever import build_retriever
from tests.knowledge.helpers import config, pieces, served

FAR = {"name": "far", "store": "qdrant", "url": "http://127.0.0.1:9", "timeout_ms": 1000}


async def test_each_collection_by_its_own_way(tmp_path: Path):
    conf = config(tmp_path, {"name": "near"}, FAR)
    retriever = build_retriever(conf.collections, tmp_path / SOCKET, resolve)
    for name in ("near", "far"):  # both need the process: one for the search, one for the query's vector
        with pytest.raises(Disconnected):
            await retriever.search(name, "ferry", 1)
    async with served(conf) as client:
        await client.write("near", pieces())
        assert len(await retriever.search("near", "ferry", 1)) == 1
        with pytest.raises(RetrievalError, match="Qdrant server") as caught:
            await retriever.search("far", "ferry", 1)
        assert not isinstance(caught.value, Disconnected)
    await retriever.aclose()


def test_a_missing_secret_shows_when_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    conf = config(tmp_path, {"name": "near"}, {**FAR, "api_key": "env:NO_SUCH_KEY"})
    with pytest.raises(ConfigError, match=r"collections\[1\]\.api_key"):
        build_retriever(conf.collections, tmp_path / SOCKET, resolve)


def test_it_imports_nothing_heavy():
    """A shard at rest stays small: numpy, qdrant, the model and the parsers are the knowledge process' own."""
    code = (
        "import sys, pipeline.knowledge.retriever, pipeline.knowledge.client\n"
        "heavy = {'numpy', 'qdrant_client', 'qdrant_edge', 'ctranslate2', 'tokenizers', 'bs4', 'markdown_it', 'grpc'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
