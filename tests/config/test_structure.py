"""Guarantee 11: unknown keys and bad values are refused, all at once, each with its key path."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from config.errors import ConfigError
from config.findings import Findings
from config.schema import Config
from config.shape import Leaf, bare, leaves, variants
from config.source import Source
from config.structure import draft_of
from tests.config.helpers import SMALLEST, problems

ROUTE = "[[routes]]\nname = 'r'\nworker = 'w'\n"
OPENAI = "[[workers]]\nname = 'o'\nkind = 'openai'\nbase_url = 'http://x'\n"

# text added to the smallest file; then the problem that it must give: path, found, expected, nearest
TABLE = {
    "unknown key": ("[server]\nprot = 1", "server.prot", "an unknown key", "a key of server", "port"),
    "unknown key, nothing near": (
        "[logging]\nzzzz = 1",
        "logging.zzzz",
        "an unknown key",
        "a key of logging: level, format, prompts",
        "",
    ),
    "unknown table": ("[sever]\nport = 1", "sever", "an unknown key", "a table of the configuration", "server"),
    "unknown stage": ("[stages.infer]\n", "stages.infer", "an unknown key", "a key of stages", "inference"),
    "another case": ("[server]\nPort = 1", "server.Port", "an unknown key", "a key of server", "port"),
    "hyphens": ("[server]\nmax-body-bytes = 1", "server.max-body-bytes", "an unknown key", "", "max_body_bytes"),
    "a key with an escape sequence": (
        '[server]\n"\\u001b[2J" = 1',
        'server."\\u001b[2J"',
        "an unknown key",
        "a key of server: host",
        "",
    ),
    "number as text": ("[server]\nport = '80'", "server.port", '"80"', "a whole number from 0 to 65,535", "80"),
    "boolean as text": ("[logging]\nprompts = 'True'", "logging.prompts", '"True"', "true or false", "true"),
    "boolean as number": ("[logging]\nprompts = 1", "logging.prompts", "1", "true or false", ""),
    "text as number": ("[server]\ndata_dir = 5", "server.data_dir", "5", "the path of a folder", '"5"'),
    "number as boolean": ("[server]\nport = true", "server.port", "true", "a whole number from 0 to 65,535", ""),
    "fraction": ("[server]\nport = 80.5", "server.port", "80.5", "a whole number from 0 to 65,535", ""),
    "whole number as fraction": ("[server]\nport = 80.0", "server.port", "80.0", "a whole number", "80"),
    "too large": ("[server]\nport = 65536", "server.port", "65536", "a whole number from 0 to 65,535", ""),
    "too small": ("[server]\nport = -1", "server.port", "-1", "a whole number from 0 to 65,535", ""),
    "zero": ("[stages.rag]\ncapacity = 0", "stages.rag.capacity", "0", "a whole number from 1 to 1,000,000", ""),
    "beyond 64 bits": (
        f"[stages.rag]\ncapacity = 0x{'f' * 5000}",
        "stages.rag.capacity",
        "a number of more than 64 bits",
        "a whole number from 1 to 1,000,000",
        "",
    ),
    "neither number nor word": (
        "[admission]\nwait_budget_ms = 'of'",
        "admission.wait_budget_ms",
        '"of"',
        'a whole number from 1 to 86,400,000 or one of "auto", "off"',
        '"off"',
    ),
    "number as text beside a word": (
        "[stages.inference]\nconcurrency = '8'",
        "stages.inference.concurrency",
        '"8"',
        'a whole number from 1 to 1,000,000 or "adaptive"',
        "8",
    ),
    "infinity": ("[server]\nport = inf", "server.port", "inf", "a whole number from 0 to 65,535", ""),
    "date": ("[server]\nport = 2020-01-01", "server.port", "2020-01-01", "a whole number from 0 to 65,535", ""),
    "array": ("[server]\nport = [1, 2]", "server.port", "an array of 2", "a whole number from 0 to 65,535", ""),
    "table as value": ("[server.port]\n", "server.port", "a table", "a whole number from 0 to 65,535", ""),
    "value as table": ("stages.rag = 5", "stages.rag", "5", "a table", ""),
    "empty host": ("[server]\nhost = ''", "server.host", '""', "an IP address or a host name", ""),
    "no such choice": ("[logging]\nlevel = 'warn'", "logging.level", '"warn"', "one of", '"warning"'),
    "choice of another type": ("[logging]\nlevel = true", "logging.level", "true", "one of", ""),
    "long text": (f"[logging]\nlevel = '{'x' * 5000}'", "logging.level", f'"{"x" * 79}…"', "one of", ""),
    "one table for an array": (
        "collections.name = 'x'",
        "collections",
        "a table",
        "an array of tables",
        "[[collections]]",
    ),
    "value for an array": ("collections = 5", "collections", "5", "an array of tables", ""),
    "values in an array of tables": ("collections = [5]", "collections[0]", "5", "a table", ""),
    "missing key": ("[[collections]]\n", "collections[0].name", "nothing", "a name of at most 128", ""),
    "bad name": ("[[collections]]\nname = 'a b'", "collections[0].name", '"a b"', "a name of at most 128", ""),
    "newline after name": (
        "[[collections]]\nname = 'a\\n'".replace("'", '"'),
        "collections[0].name",
        '"a\\n"',
        "a name",
        "",
    ),
    "no such kind": (
        "[[workers]]\nname = 'v'\nkind = 'opnai'",
        "workers[1].kind",
        '"opnai"',
        'one of "echo", "extractive", "openai"',
        '"openai"',
    ),
    "kind of another type": (
        "[[workers]]\nname = 'v'\nkind = ['echo']",
        "workers[1].kind",
        "an array of 1",
        "one of",
        "",
    ),
    "no kind": ("[[workers]]\nname = 'v'", "workers[1].kind", "nothing", 'one of "echo"', ""),
    "key of another kind": (
        "[[workers]]\nname = 'v'\nkind = 'echo'\nbase_url = 'http://x'",
        "workers[1].base_url",
        "an unknown key",
        "a key of workers[1], whose kind is echo: base_url is a key of kind openai and anthropic and cohere and ollama",
        "",
    ),
    "key of nobody": (
        "[[workers]]\nname = 'v'\nkind = 'openai'\nbase_url = 'http://x'\nzzzz = 1",
        "workers[1].zzzz",
        "an unknown key",
        "a key of workers[1]: kind, stream_usage, completions, base_url, replicas, model, api_key, headers, ca_file",
        "",
    ),
    "no url": (OPENAI.replace("http://", ""), "workers[1].base_url", '"x"', "an address that begins with http", ""),
    "header of another type": (
        OPENAI + "headers = {a = 5}",
        "workers[1].headers.a",
        "a value that is not shown",
        "a text",
        "",
    ),
    "share over one": (
        "[[workers]]\nname = 'v'\nkind = 'echo'\nfailure_rate = 1.5",
        "workers[1].failure_rate",
        "1.5",
        "a number from 0 to 1",
        "",
    ),
    "not a number": (
        "[[workers]]\nname = 'v'\nkind = 'echo'\nfailure_rate = nan",
        "workers[1].failure_rate",
        "nan",
        "a number from 0 to 1",
        "",
    ),
    "filter without a kind": ("[[routes.filters]]\nchars = 3", "routes[0].filters[0].kind", "nothing", "one of", ""),
    "filter without a key": (
        "[[routes.filters]]\nkind = 'max_length'",
        "routes[0].filters[0].chars",
        "nothing",
        "a whole number from 1",
        "",
    ),
    "empty array": (
        "[[routes.filters]]\nkind = 'stop'\nsequences = []",
        "routes[0].filters[0].sequences",
        "an array of 0",
        "an array of 1 to 64 texts",
        "",
    ),
    "bad element": (
        "[[routes.filters]]\nkind = 'stop'\nsequences = ['a', '']",
        "routes[0].filters[0].sequences[1]",
        '""',
        "a text of 1 to 256 characters",
        "",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_each_problem_alone(case, tmp_path):
    text, path, found, expected, hint = TABLE[case]
    (problem,) = problems(tmp_path, f"{SMALLEST}{text}" if text.startswith("[") else f"{text}\n{SMALLEST}")
    assert (problem.path, problem.found, problem.hint) == (path, found, hint)
    assert problem.expected.startswith(expected)


def test_a_key_that_belongs_to_a_section_is_found_there(tmp_path):
    (problem,) = problems(tmp_path, f"capacity = 1\nport = 1\nmax_deadline_ms = 1\n{SMALLEST}")[1:2]
    assert (problem.path, problem.hint) == ("port", "server.port")


def test_what_has_no_default_must_be_there(tmp_path):
    found = {problem.path: problem.expected for problem in problems(tmp_path, "")}
    assert found == {"workers": "an array of 1 to 1,000 tables", "routes": "an array of 1 to 1,000 tables"}


def test_all_at_once_in_the_order_of_the_file(tmp_path):
    text = """\
[server]
prot = 8080
port = "8080"
deadline_ms = 1_000_000
[stage.rag]
[logging]
level = "warn"
[[workers]]
name = "a"
kind = "ehco"
context_tokens = 1
[[workers]]
kind = "openai"
base_ur = "x"
api_key = "sk-secret"
[[routes]]
name = "r"
worker = "a"
collection = "dosc"
deadline_ms = 900_001
filters = [{kind = "redact", pattern = "("}, {kind = "stop"}]
[[routes]]
name = "r"
worker = "a"
passages = 101
[[collections]]
name = "docs"
chunk_chars = 200
overlap_chars = 200
"""
    found = [(problem.path, problem.where.removeprefix(f"{tmp_path}/")) for problem in problems(tmp_path, text)]
    assert found == [
        ("server.prot", "test.toml:2"),
        ("server.port", "test.toml:3"),
        ("server.deadline_ms", "test.toml:4"),
        ("stage", "test.toml:5"),
        ("logging.level", "test.toml:7"),
        ("workers[0].kind", "test.toml:10"),
        ("workers[0].context_tokens", "test.toml:11"),
        ("workers[1].name", "test.toml:12"),
        ("workers[1].base_url", "test.toml:12"),
        ("workers[1].base_ur", "test.toml:14"),
        ("workers[1].api_key", "test.toml:15"),
        ("routes[0].collection", "test.toml:19"),
        ("routes[0].deadline_ms", "test.toml:20"),
        ("routes[0].filters[1].sequences", "test.toml:21"),
        ("routes[0].filters[0].pattern", "test.toml:21"),
        ("routes[1].name", "test.toml:23"),
        ("routes[1].passages", "test.toml:25"),
        ("collections[0].overlap_chars", "test.toml:29"),
    ]


def test_an_element_of_no_known_kind_is_still_checked_for_what_all_kinds_have(tmp_path):
    text = SMALLEST.replace('"echo"', '"ecco"') + "[[workers]]\nname = 'v'\nkind = 'nothing'\nanswer_tokens = 'x'\n"
    assert [problem.path for problem in problems(tmp_path, text)] == [
        "workers[0].kind",
        "workers[1].kind",
        "workers[1].answer_tokens",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f'{SMALLEST}[server]\napi_keyy = "hunter2"',
        f"{OPENAI}api_key = 'hunter2'\n{ROUTE.replace('w', 'o')}",
        f"{OPENAI}api_key = 'env:hunter2 '\n{ROUTE}",
        f"{OPENAI}api_key = 'hunter2:x'\n{ROUTE}",
        f"{OPENAI}api_key = ['hunter2']\n{ROUTE}",
        f"{OPENAI}headers = {{Authorization = ['hunter2'], X = 'hunter2\\n'}}\n{ROUTE}".replace(
            "'hunter2\\n'", '"hunter2\\n"'
        ),
        f"{OPENAI}headers = 'hunter2'\n{ROUTE}",
        f"{OPENAI}{ROUTE}".replace("http://x", "http://user:hunter2@x"),
        f"{OPENAI}{ROUTE}".replace("http://x", "htp://user:hunter2@x"),
        f"{OPENAI}{ROUTE}".replace("http://x", "user:hunter2@x"),
        f"{SMALLEST}[[collections]]\nname='c'\nstore='qdrant'\nurl='http://x'\napi_key='hunter2'",
    ],
)
def test_no_problem_repeats_a_secret(tmp_path, text):
    for problem in problems(tmp_path, text):
        assert "hunter2" not in repr(problem)


def test_a_number_as_api_key_is_not_repeated(tmp_path):
    for problem in problems(tmp_path, f"{OPENAI}api_key = 271828\n{ROUTE}"):
        assert "271828" not in repr(problem)


def test_every_type_in_the_schema_is_one_that_is_checked():
    """A key of a new type would otherwise only fail for the first person who sets it."""
    pending: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(Config)]
    while pending:
        kind, _ = bare(pending.pop())
        match kind:
            case msgspec.inspect.StructType():
                assert kind.forbid_unknown_fields
                pending += [field.type for field in kind.fields]
            case msgspec.inspect.ListType():
                pending.append(kind.item_type)
            case msgspec.inspect.DictType():
                assert leaves(bare(kind.value_type)[0]) or isinstance(kind.value_type, msgspec.inspect.StrType)
                pending.append(kind.value_type)
            case msgspec.inspect.UnionType() if leaves(kind):
                pending += kind.types
            case msgspec.inspect.UnionType():
                assert len(variants(kind)) == len(kind.types)
                pending += kind.types
            case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
                assert kind.ge is not None  # JSON, which child processes are handed, has no infinity
                assert kind.le is not None
            case _:
                assert isinstance(kind, Leaf)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    deep: int = 1


class Other(msgspec.Struct, forbid_unknown_fields=True):
    """A schema of another file, with what the configuration's own does not use."""

    above: Annotated[float, Meta(gt=0.0, le=10.0)] = 1.0
    between: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    below: Annotated[int, Meta(ge=1, lt=5)] = 1
    free: float = 1.0
    class_: Annotated[str, Meta(max_length=3)] | None = msgspec.field(name="class", default=None)
    inner: Inner | None = None
    listed: list[Inner] = msgspec.field(default_factory=lambda: [Inner(7)])


def drafted(text: str) -> tuple[Other, Findings]:
    findings = Findings(Source(Path("other.toml"), text))
    return draft_of(Other, findings.source.tree, findings, "a key of the other file"), findings


@pytest.mark.parametrize(
    ("text", "path", "expected", "hint"),
    [
        ("above = 0", "above", "a number above 0 and at most 10", ""),
        ("above = 10.5", "above", "a number above 0 and at most 10", ""),
        ("above = nan", "above", "a number above 0 and at most 10", ""),
        ("between = 1", "between", "a number above 0 and below 1", ""),
        ("below = 5", "below", "a whole number at least 1 and below 5", ""),
        ("free = inf", "free", "a number", ""),
        ("free = nan", "free", "a number", ""),
        ("class = 'long'", "class", "a text of at most 3 characters", ""),
        ("class_ = 'a'", "class_", "a key of the other file", "class"),
        ("deep = 1", "deep", "a key of the other file", "inner.deep"),
        ("[inner]\nfree = 1", "inner.free", "a key of inner: deep", ""),
        ("zzzz = 1", "zzzz", "a key of the other file: above, between, below, free, class, inner, listed", ""),
    ],
)
def test_a_file_of_another_schema(text, path, expected, hint):
    _, findings = drafted(text)
    with pytest.raises(ConfigError) as refused:
        findings.raise_if_any()
    (problem,) = refused.value.problems
    assert (problem.path, problem.expected, problem.hint) == (path, expected, hint)
    assert problem.where.startswith("other.toml:")


def test_a_sound_file_of_another_schema():
    text = "above = 10\nbetween = 0.1\nbelow = 4\nclass = 'abc'\n[inner]\ndeep = 2"
    draft, findings = drafted(text)
    findings.raise_if_any()
    assert draft == msgspec.convert(findings.source.tree, Other)
    assert drafted("")[0] == Other()
