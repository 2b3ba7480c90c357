"""From the section of a `python` worker to the class; what is wrong is known before the first request."""

import importlib
import sys
from pathlib import Path

import pytest

from tests.workers.helpers import ask, section, told
from workers import registry
from workers.errors import WorkerUnavailable

GOOD = """
class Good:
    def __init__(self, word="a", *, times=1):
        self.text = word * times

    async def generate(self, request):
        yield self.text


class Bad:
    def __init__(self, word="a"):
        raise ValueError("no model\\nhere")

    def generate(self, request):
        yield


class Without:
    pass


def made(word="f"):
    return Good(word)


number = 5
"""

ODD = """
class Needs:
    def __init__(self, name, *, size=1):
        pass


class Plain:
    pass


class Mute(BaseException):
    def __str__(self):
        raise self


class Hostile:
    def __init__(self):
        raise Mute


class Getter:
    def __getattr__(self, name):
        raise GeneratorExit
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory with modules of somebody's own; their names are this test's alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "own_good.py").write_text(GOOD)
    (tmp_path / "own_broken.py").write_text("def f(:\n")
    (tmp_path / "own_raises.py").write_text("raise RuntimeError('at import')\n")
    (tmp_path / "own_exits.py").write_text("import sys\nsys.exit(4)\n")
    (tmp_path / "own_interrupts.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "own_odd.py").write_text(ODD)
    (tmp_path / "own_needs.py").write_text("import package_that_nobody_has\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "inner.py").write_text(GOOD)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def build(name: str, **options):
    return registry.build(section("python", **{"class": name}, options=options), resolve=str)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("own_good:Good", {}, "a"),
        ("own_good:Good", {"word": "b", "times": 3}, "bbb"),
        ("own_package.inner:Good", {}, "a"),
        ("own_good:made", {}, "f"),
    ],
)
async def test_a_class_of_the_working_directory(folder, name, options, text):
    worker = build(name, **options)
    assert (await told(worker, ask())).text == text
    await worker.aclose()


async def test_the_section_s_folder_goes_before_the_working_directory(folder):
    own = folder / "elsewhere"
    own.mkdir()
    (own / "own_good.py").write_text(GOOD.replace('"a"', '"elsewhere"'))
    (own / "own_later.py").write_text("word = 'later'\n")
    given = section("python", **{"class": "own_good:Good"}, folder=str(own))
    worker = registry.build(given, resolve=str)
    assert (await told(worker, ask())).text == "elsewhere"
    assert sys.path[0] != str(own)  # nothing there takes the place of what is imported afterwards
    assert importlib.import_module("own_later").word == "later"
    await worker.aclose()


async def test_what_is_installed_goes_before_the_working_directory(folder):
    (folder / "json.py").write_text(GOOD)
    with pytest.raises(WorkerUnavailable, match="json"):
        build("json:Good")


@pytest.mark.parametrize(
    ("name", "options", "key", "found", "expected"),
    [
        ("own_missing:A", {}, "class", "no module own_missing", "PYTHONPATH"),
        ("own_missing.deep:A", {}, "class", "no module own_missing", "PYTHONPATH"),
        ("own_good:Missing", {}, "class", "has no Missing", "Bad, Good, Without"),
        ("own_good:number", {}, "class", "is a int", "a class"),
        ("own_good:Without", {}, "class", "no method generate", "generate(self, request)"),
        ("own_good:Good", {"size": 4}, "options.size", "unknown option 'size'", "Good takes word, times"),
        ("own_good:made", {"a b": 4, "c": 5}, 'options."a b"', "unknown options 'a b', 'c'", "made takes word"),
        ("own_odd:Needs", {}, "options", "no option 'name'", "Needs takes name, size"),
        ("own_odd:Plain", {"text": 1}, "options.text", "unknown option 'text'", "none: Plain takes no options"),
        ("own_odd:Hostile", {}, "class", "cannot be made: Mute", "code that runs"),
        ("own_odd:Getter", {}, "class", "cannot be used: GeneratorExit", "code that runs"),
        ("own_interrupts:A", {}, "class", "KeyboardInterrupt", "code that runs"),
        ("own_good:Bad", {}, "class", "ValueError: no model here", "code that runs"),
        ("own_good:Bad", {"word": "x"}, "options", "ValueError: no model here", "what the class takes"),
        ("own_broken:A", {}, "class", "SyntaxError", "code that runs"),
        ("own_raises:A", {}, "class", "RuntimeError: at import", "code that runs"),
        ("own_exits:A", {}, "class", "SystemExit: 4", "code that runs"),
        ("own_needs:A", {}, "class", "package_that_nobody_has", "code that runs"),
        ("nobody", {}, "class", "no entry point", "headgate.workers"),
    ],
)
def test_what_cannot_be_made_says_why(folder, name, options, key, found, expected):
    with pytest.raises(WorkerUnavailable) as raised:
        build(name, **options)
    assert raised.value.key == key
    assert found in raised.value.found
    assert expected in raised.value.expected
    assert "\n" not in raised.value.found


def entry_point(folder: Path, package: str, value: str) -> None:
    """As an installer leaves them."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[headgate.workers]\nown-word = {value}\n")


async def test_an_entry_point_of_an_installed_package(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    entry_point(folder, "one", "own_good:Good")
    worker = build("own-word", word="e")
    assert (await told(worker, ask())).text == "e"
    await worker.aclose()
    with pytest.raises(WorkerUnavailable) as raised:
        build("other-word")
    assert "own-word" in raised.value.expected


def test_entry_points_that_cannot_be_used(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    entry_point(folder, "one", "own_missing:Good")
    with pytest.raises(WorkerUnavailable, match="cannot be imported"):
        build("own-word")
    entry_point(folder, "two", "own_good:Good")
    with pytest.raises(WorkerUnavailable, match="2 entry points"):
        build("own-word")
