import subprocess
import sys

import pytest

from tests.workers.helpers import ask, openai_section, section, told
from workers import registry
from workers.echo import Echo
from workers.extractive import Extractive
from workers.openai import OpenAICompatible


def no_secret(reference: str) -> str:
    raise AssertionError(reference)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (section("echo"), Echo),
        (section("extractive"), Extractive),
        (openai_section("http://127.0.0.1:1/v1"), OpenAICompatible),
    ],
)
def test_every_kind_is_built(given, kind):
    assert isinstance(registry.build(given, resolve=no_secret), kind)


def test_the_key_is_resolved():
    worker = registry.build(
        openai_section("http://127.0.0.1:1/v1", api_key="env:KEY"), resolve={"env:KEY": "sk-1"}.__getitem__
    )
    assert worker._headers["authorization"] == "Bearer sk-1"


def test_what_resolving_raises_is_not_caught():
    with pytest.raises(AssertionError, match="env:KEY"):
        registry.build(openai_section("http://127.0.0.1:1/v1", api_key="env:KEY"), resolve=no_secret)


async def test_the_clock_is_passed_on():
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    worker = registry.build(section("echo", first_token_ms=700), resolve=no_secret, clock=lambda: 5.0, sleep=sleep)
    await told(worker, ask("hi"))
    assert slept == pytest.approx([0.7])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("workers.registry", ["aiohttp", "numpy", "workers.openai", "workers.echo", "workers.extractive"]),
        ("workers.openai", ["numpy", "httpx", "openai", "workers.extractive"]),
        ("workers.extractive", ["aiohttp", "numpy"]),
    ],
)
def test_a_kind_imports_only_what_it_needs(module, absent):
    code = f"import sys, {module}; sys.exit(','.join(name for name in {absent} if name in sys.modules) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
    assert result.returncode == 0
