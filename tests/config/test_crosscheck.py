"""What a type cannot say. Each file has the one problem that is named, and no other."""

from pathlib import Path

import pytest

from config.errors import ConfigError
from config.load import load
from tests.config.helpers import SMALLEST, problems

ROUTE = '[[routes]]\nname = "r"\nworker = "w"\n'
ECHO = '[[workers]]\nname = "w"\nkind = "echo"\n'
OPENAI = '[[workers]]\nname = "w"\nkind = "openai"\nbase_url = "http://x"\n'
EXTRACTIVE = '[[workers]]\nname = "w"\nkind = "extractive"\n'
DOCS = '[[collections]]\nname = "docs"\n'
KEY = f'[[keys]]\nname = "app"\nhash = "sha256:{"a" * 64}"\n'
OTHER_KEY = KEY.replace("app", "ci").replace("aa", "bb")
REDACT = '[[routes.filters]]\nkind = "redact"\npattern = '

# the file; then its problem: path, found, expected (its beginning), nearest
TABLE = {
    "two workers of one name": (SMALLEST + ECHO, "workers[1].name", '"w"', "a name of its own: workers[0]", ""),
    "two routes of one name": (SMALLEST + ROUTE, "routes[1].name", '"r"', "a name of its own: routes[0]", ""),
    "two collections": (SMALLEST + DOCS + DOCS, "collections[1].name", '"docs"', "a name of its own", ""),
    "a journal in memory for several shards": (
        f'{SMALLEST}[workflows]\njournal = "memory"\n[server]\nshards = 2',
        "workflows.journal",
        '"memory"',
        '"sqlite", or server.shards = 1',
        "",
    ),
    "more steps of a run than at all": (
        f"{SMALLEST}[workflows]\nmax_steps = 10\nmax_steps_per_run = 11",
        "workflows.max_steps_per_run",
        "11",
        "at most 10",
        "",
    ),
    "values inline that are too large": (
        f"{SMALLEST}[workflows]\ninline_value_bytes = 5000\nmax_value_bytes = 4096",
        "workflows.inline_value_bytes",
        "5000",
        "at most 4,096",
        "",
    ),
    "a host with no port": (
        f'{SMALLEST}[workflows]\nhosts = ["a.example", "b.example:0"]',
        "workflows.hosts[1]",
        '"b.example:0"',
        "a port from 1",
        "",
    ),
    "an address with no port": (
        f'{SMALLEST}[workflows]\nhosts = ["[::1]:65536"]',
        "workflows.hosts[0]",
        '"[::1]:65536"',
        "a port from 1",
        "",
    ),
    "unknown worker": (
        f"{ECHO}{ROUTE}".replace('name = "w"', 'name = "local"').replace('"w"', '"locla"'),
        "routes[0].worker",
        '"locla"',
        "the name of one of the workers: local",
        "local",
    ),
    "unknown collection": (
        f'{SMALLEST}collection = "dosc"\n{DOCS}',
        "routes[0].collection",
        '"dosc"',
        "the name of one of the collections: docs",
        "docs",
    ),
    "no collections at all": (
        f'{SMALLEST}collection = "docs"',
        "routes[0].collection",
        '"docs"',
        "the name of one of the collections; there are none",
        "",
    ),
    "extractive without passages": (
        EXTRACTIVE + ROUTE,
        "routes[0].collection",
        "nothing",
        "a collection: the worker w answers from its passages alone",
        "",
    ),
    "qdrant without an address": (
        f'{SMALLEST}{DOCS}store = "qdrant"',
        "collections[0].url",
        "nothing",
        "the address of the server",
        "",
    ),
    "address of no server": (
        f'{SMALLEST}{DOCS}url = "http://x"',
        "collections[0].url",
        "a key for another store",
        'none: only store = "qdrant" has a server, this one is "embedded"',
        "",
    ),
    "key for no server": (
        f'{SMALLEST}{DOCS}store = "memory"\napi_key = "env:A"',
        "collections[0].api_key",
        "a key for another store",
        "none",
        "",
    ),
    "folder in a collection's name": (
        f"{SMALLEST}{DOCS}".replace("docs", "a/../b"),
        "collections[0].name",
        '"a/../b"',
        "a name without /",
        "",
    ),
    "overlap as long as the piece": (
        f"{SMALLEST}{DOCS}chunk_chars = 500\noverlap_chars = 500",
        "collections[0].overlap_chars",
        "500",
        "less than 500, which is collections[0].chunk_chars",
        "",
    ),
    "route's deadline": (
        f"{SMALLEST}deadline_ms = 900_001",
        "routes[0].deadline_ms",
        "900001",
        "at most 900,000, which is server.max_deadline_ms",
        "",
    ),
    "server's deadline": (
        f"server.deadline_ms = 900_001\n{SMALLEST}",
        "server.deadline_ms",
        "900001",
        "at most 900,000, which is server.max_deadline_ms",
        "",
    ),
    "no room for a prompt": (
        f"{ECHO}answer_tokens = 8192\n{ROUTE}",
        "workers[0].answer_tokens",
        "8192",
        "less than 8,192, which is workers[0].context_tokens",
        "",
    ),
    "both templates": (
        f'{SMALLEST}template = "a"\ntemplate_file = "a"',
        "routes[0].template_file",
        "both template and template_file",
        "one of the two",
        "",
    ),
    "pattern that does not compile": (
        f'{SMALLEST}{REDACT}"(a"',
        "routes[0].filters[0].pattern",
        "a pattern that does not compile: missing ) at position 2",
        "a regular expression",
        "",
    ),
    "pattern nested too deeply": (
        f'{SMALLEST}{REDACT}"{"(" * 2000}{")" * 2000}"',
        "routes[0].filters[0].pattern",
        "a pattern that does not compile: maximum recursion depth exceeded while calling a Python object",
        "a regular expression",
        "",
    ),
    "pattern that matches the empty text": (
        f'{SMALLEST}{REDACT}"[0-9]*"',
        "routes[0].filters[0].pattern",
        "a pattern that matches where there is nothing",
        "one that matches at least one character",
        "",
    ),
    "pattern that matches a boundary": (
        f"{SMALLEST}{REDACT}'\\b'",
        "routes[0].filters[0].pattern",
        "a pattern that matches where there is nothing",
        "one that matches at least one character",
        "",
    ),
    "pattern that searches backwards": (
        f"{SMALLEST}{REDACT}'(?r)a+'",
        "routes[0].filters[0].pattern",
        "a pattern that searches backwards, (?r)",
        "one that searches forwards, as answers come",
        "",
    ),
    "pattern that matches about": (
        f"{SMALLEST}{REDACT}'(?:secret){{e<=1}}'",
        "routes[0].filters[0].pattern",
        r"an approximate match or \G, which depend on how an answer is cut into deltas",
        "a pattern that matches the same text wherever it is cut",
        "",
    ),
    "pattern that takes all memory to compile": (
        f"{SMALLEST}{REDACT}'a{{3,2000000000}}'",
        "routes[0].filters[0].pattern",
        "a repetition without a sensible limit",
        "repetitions of at most 65,536",
        "",
    ),
    "pattern that takes all memory to search": (
        f"{SMALLEST}{REDACT}'(a(?R)?)'",
        "routes[0].filters[0].pattern",
        "a pattern that calls itself",
        "a regular expression without recursion",
        "",
    ),
    "literal key": (
        f'{OPENAI}api_key = "sk-1"\n{ROUTE}',
        "workers[0].api_key",
        "a text that is no reference, not shown",
        "env:NAME or file:PATH",
        "",
    ),
    "reference in capitals": (
        f'{OPENAI}api_key = "ENV:A"\n{ROUTE}',
        "workers[0].api_key",
        "a text that is no reference, not shown",
        "env:NAME or file:PATH",
        "env:",
    ),
    "vault": (
        f'{OPENAI}api_key = "vault:a#b"\n{ROUTE}',
        "workers[0].api_key",
        "a reference to vault:, which is not supported yet",
        "env:NAME or file:PATH",
        "",
    ),
    "aws": (
        f'{SMALLEST}{DOCS}store = "qdrant"\nurl = "http://x"\napi_key = "aws:a"',
        "collections[0].api_key",
        "a reference to aws:, which is not supported yet",
        "env:NAME or file:PATH",
        "",
    ),
    "header's name": (
        f'{OPENAI}headers = {{"a b" = "c"}}\n{ROUTE}',
        'workers[0].headers."a b"',
        "a name that no header can have",
        "letters, digits",
        "",
    ),
    "header of our own": (
        f'{OPENAI}headers.Content-Length = "3"\n{ROUTE}',
        "workers[0].headers.Content-Length",
        "a header that the worker sets itself",
        "any other header",
        "",
    ),
    "header in two spellings": (
        f'{OPENAI}headers = {{a = "1", A = "2"}}\n{ROUTE}',
        "workers[0].headers.A",
        "the same header twice",
        "each one once",
        "",
    ),
    "authorization twice": (
        f'{OPENAI}api_key = "env:A"\nheaders = {{authorization = "1"}}\n{ROUTE}',
        "workers[0].headers.authorization",
        "the same header twice",
        "each one once; api_key sets authorization",
        "",
    ),
    "header with two lines": (
        f'{OPENAI}headers = {{a = "1\\r\\nb: 2"}}\n{ROUTE}',
        "workers[0].headers.a",
        "control characters in a value that is not shown",
        "one line of text",
        "",
    ),
    "address with a password": (
        f"{OPENAI}{ROUTE}".replace("//x", "//u:p@x"),
        "workers[0].base_url",
        "an address with credentials, not shown",
        "an address without credentials",
        "",
    ),
    "address without a host": (
        f"{OPENAI}{ROUTE}".replace("//x", "//:80/v1"),
        "workers[0].base_url",
        '"http://:80/v1"',
        "an address with a host",
        "",
    ),
    "address with an impossible port": (
        f"{OPENAI}{ROUTE}".replace("//x", "//x:70000"),
        "workers[0].base_url",
        '"http://x:70000"',
        "an address with a host, and a port",
        "",
    ),
    "address with half a bracket": (
        f"{OPENAI}{ROUTE}".replace("//x", "//[::1"),
        "workers[0].base_url",
        '"http://[::1"',
        "an address with a host",
        "",
    ),
    "two keys of one name": (
        f"{SMALLEST}{KEY}{OTHER_KEY}".replace("ci", "app"),
        "keys[1].name",
        '"app"',
        "a name of its own: keys[0] has this one",
        "",
    ),
    "one key twice": (
        f"{SMALLEST}{KEY}{KEY}".replace("app", "ci", 1),
        "keys[1].hash",
        f'"sha256:{"a" * 64}"',
        "a hash of its own: keys[0] has this one",
        "",
    ),
    "a key for no route": (
        f'{SMALLEST}{KEY}routes = ["r", "rr"]',
        "keys[0].routes[1]",
        '"rr"',
        "the name of one of the routes: r",
        "r",
    ),
    "a key instead of its hash": (
        f'{SMALLEST}[[keys]]\nname = "app"\nhash = "hg_secret"',
        "keys[0].hash",
        "a value that is not shown",
        "sha256: and 64 hexadecimal digits, by headgate key new",
        "",
    ),
    "nobody may use it": (
        f"server.anonymous = false\n{SMALLEST}",
        "server.anonymous",
        "false, and no [[keys]]",
        "true, or a key (`headgate key new` makes one)",
        "",
    ),
    "anybody may use it, and nobody said so": (
        f'server.host = "0.0.0.0"\n{SMALLEST}',
        "server.anonymous",
        "nothing, and no [[keys]]",
        "true if all who reach 0.0.0.0 may use it, else a key (`headgate key new` makes one)",
        "",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_each_problem_alone(case, tmp_path):
    text, path, found, expected, hint = TABLE[case]
    (problem,) = problems(tmp_path, text)
    assert (problem.path, problem.found, problem.hint) == (path, found, hint)
    assert problem.expected.startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        f"{OPENAI}{ROUTE}".replace("//x", "//[::1]:8000/v1"),
        f'{OPENAI}api_key = "file:key"\nheaders = {{X-Title = "é"}}\n{ROUTE}',
        f'{EXTRACTIVE}{ROUTE}collection = "docs"\n{DOCS}store = "qdrant"\nurl = "http://x"\napi_key = "env:A"',
        f'{SMALLEST}{REDACT}"[0-9]{{16}}|x+"',
        f"{SMALLEST}{REDACT}'\\(\\?R'",
        f"{SMALLEST}deadline_ms = 900_000",
        f"{ECHO}answer_tokens = 8191\n{ROUTE}",
        f'{SMALLEST}{KEY}routes = ["r", "r"]\n{OTHER_KEY}',
        f'server.host = "0.0.0.0"\n{SMALLEST}{KEY}',
        f'server = {{host = "0.0.0.0", anonymous = true}}\n{SMALLEST}',
        f"server.anonymous = false\n{SMALLEST}{KEY}",
        f'server.host = "::1"\n{SMALLEST}',
    ],
)
def test_what_is_just_right(text, tmp_path):
    (tmp_path / "test.toml").write_text(text)
    load(tmp_path / "test.toml", {})


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("[[workers]]\nkind = 'echo'\n" + ROUTE, ["workers[0].name"]),
        ("[[workers]]\nkind = 'echo'\n" * 2 + ROUTE, ["workers[0].name", "workers[1].name"]),
        ("workers = 5\n" + ROUTE, ["workers"]),
        (f"{SMALLEST}collection = 'docs'\n[[collections]]\nname = 'd ocs'\n", ["collections[0].name"]),
        (f"{SMALLEST}{DOCS}chunk_chars = 1\noverlap_chars = 2000", ["collections[0].chunk_chars"]),
        (f"{SMALLEST}{DOCS}store = 'qdrnt'\nurl = 'http://x'", ["collections[0].store"]),
        (f"{SMALLEST}{DOCS}store = 'qdrant'\nurl = 'x'", ["collections[0].url"]),
        (f"{EXTRACTIVE}{ROUTE}collection = 5\n", ["routes[0].collection"]),
        (f"server.max_deadline_ms = 0\n{SMALLEST}deadline_ms = 1_000_000", ["server.max_deadline_ms"]),
        (f"server.host = '0.0.0.0'\n{SMALLEST}[[keys]]\nname = 'app'", ["keys[0].hash"]),
        (f"server = {{host = '0.0.0.0', anonymous = 1}}\n{SMALLEST}", ["server.anonymous"]),
        (f"keys = 5\nserver.anonymous = false\n{SMALLEST}", ["keys"]),
    ],
)
def test_one_mistake_is_reported_once(text, paths, tmp_path):
    assert [problem.path for problem in problems(tmp_path, text)] == paths


def test_a_default_over_a_limit_points_to_the_limit(tmp_path):
    (problem,) = problems(tmp_path, f"\nserver.max_deadline_ms = 60_000\n{SMALLEST}")
    assert problem.path == "server.deadline_ms"
    assert problem.found == "300000"
    assert problem.where.endswith(":2")


def test_a_host_that_strangers_reach_is_where_the_question_comes_up(tmp_path):
    (problem,) = problems(tmp_path, f'\nserver.host = "10.0.0.1"\n{SMALLEST}')
    assert problem.path == "server.anonymous"
    assert problem.where.endswith(":2")
    (problem,) = problems(tmp_path, SMALLEST, {"HEADGATE__SERVER__HOST": "::"})
    assert problem.where == "environment HEADGATE__SERVER__HOST"


def test_a_duplicate_name_still_answers_to_references(tmp_path):
    unknown = ROUTE.replace('"w"', '"v"')
    found = [problem.path for problem in problems(tmp_path, f"{ECHO}{ECHO}{ROUTE}{unknown}")]
    assert found == ["workers[1].name", "routes[1].name", "routes[1].worker"]


class TestTemplateFile:
    TEXT = f'{SMALLEST}template_file = "prompts/a.jinja"'

    def test_is_relative_to_the_configuration_file(self, tmp_path: Path, monkeypatch):
        (tmp_path / "prompts").mkdir()
        (tmp_path / "prompts" / "a.jinja").write_text("{{ passages }}")
        (tmp_path / "test.toml").write_text(self.TEXT)
        monkeypatch.chdir(tmp_path / "prompts")
        config = load(Path("../test.toml"), {}).config
        assert config.routes[0].template_file is not None
        assert Path(config.routes[0].template_file).is_absolute()
        assert Path(config.routes[0].template_file).read_text() == "{{ passages }}"

    def test_that_is_not_there(self, tmp_path: Path):
        (problem,) = problems(tmp_path, self.TEXT)
        assert problem.path == "routes[0].template_file"
        assert problem.found == f'"{tmp_path}/prompts/a.jinja": no such file or directory'

    def test_that_is_a_folder(self, tmp_path: Path):
        (tmp_path / "prompts" / "a.jinja").mkdir(parents=True)
        (problem,) = problems(tmp_path, self.TEXT)
        assert problem.found.endswith("is a directory")

    def test_that_is_no_text(self, tmp_path: Path):
        (tmp_path / "prompts").mkdir()
        (tmp_path / "prompts" / "a.jinja").write_bytes(b"\xff")
        (problem,) = problems(tmp_path, self.TEXT)
        assert problem.found.endswith("bytes that are not UTF-8 on line 1")


DEGRADING = """
[[collections]]
name = "docs"
store = "memory"
embedder = "lexical"
[[workers]]
kind = "echo"
name = "w"
[[routes]]
name = "plain"
worker = "w"
degrade = [{kind = "fewer_passages", passages = 2}, {kind = "shorter_answer", max_tokens = 50}]
[[routes]]
name = "docs"
worker = "w"
collection = "docs"
passages = 4
degrade = [
  {kind = "fewer_passages", passages = 4},
  {kind = "shorter_answer", max_tokens = 50},
  {kind = "shorter_answer", max_tokens = 80, pressure = 0.8},
  {kind = "fewer_passages", passages = 1, pressure = 0.9},
]
[[routes]]
name = "unbounded"
worker = "w"
degrade = [{kind = "shorter_answer", max_tokens = 50}]
"""


def test_steps_that_could_never_change_anything_are_found(tmp_path):
    (tmp_path / "a.toml").write_text(DEGRADING)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.toml", {})
    assert [problem.path for problem in caught.value.problems] == [
        "routes[0].degrade[0].passages",
        "routes[1].degrade[0].passages",
        "routes[1].degrade[2].max_tokens",
    ]
    (tmp_path / "a.toml").write_text("[admission]\nwait_budget_ms = 'off'\n" + DEGRADING)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.toml", {})
    assert "routes[2].degrade" in [problem.path for problem in caught.value.problems]
