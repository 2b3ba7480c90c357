"""What the documentation says to write into a configuration can be written there."""

import re
from pathlib import Path

import pytest

from config.load import load
from tests import certificates

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "how-to/count-tokens.md",
    "how-to/pools-and-failover.md",
    "how-to/run-a-gguf.md",
    "how-to/use-a-model-server.md",
    "how-to/weighted-workers.md",
    "reference/workers.md",
)
BLOCKS = {
    f"{page}-{number}": text
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```toml\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    )
}
_NAME = re.compile(r'^name = "([^"]+)"', re.MULTILINE)
_FILE = re.compile(r'^(?:tokenizer|gguf) = "([^"]+)"', re.MULTILINE)
_CA = re.compile(r'^ca_file = "([^"]+)"', re.MULTILINE)


def whole(text: str) -> str:
    """A block that leaves out the worker or the route that others on its page have."""
    if "[[workers]]" not in text:
        text += '\n[[workers]]\nname = "w"\nkind = "echo"\n'
    if "[[routes]]" not in text:
        name = _NAME.search(text[text.index("[[workers]]") :])
        assert name is not None
        text += f'\n[[routes]]\nname = "r"\nworker = "{name[1]}"\n'
    return text


def test_every_page_shows_some():
    assert {name.rpartition("-")[0] for name in BLOCKS} == set(PAGES)


@pytest.mark.parametrize("block", BLOCKS)
def test_it_loads_as_it_stands_there(block, tmp_path):
    text = whole(BLOCKS[block])
    for name in _FILE.findall(text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    for name in _CA.findall(text):
        certificates.made(tmp_path, "ca").certificate.rename(tmp_path / name)
    (tmp_path / "pipeline.toml").write_text(text)
    assert load(tmp_path / "pipeline.toml", {}).config.routes
