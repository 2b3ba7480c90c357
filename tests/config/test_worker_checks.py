"""What is wrong with a worker's table, told before anything is made of it: each file has the one problem named."""

import os
from pathlib import Path

import pytest

from config.load import load
from config.schema import GrpcWorker, HttpWorker, LlamaCppWorker, OpenAIWorker, PythonWorker
from tests import certificates
from tests.config.helpers import SMALLEST, problems

ROUTE = '[[routes]]\nname = "r"\nworker = "w"\n'
OPENAI = '[[workers]]\nname = "w"\nkind = "openai"\n'
KEY = 'api_key = "env:A"\n'
ANTHROPIC = OPENAI.replace("openai", "anthropic") + KEY
COHERE = OPENAI.replace("openai", "cohere") + KEY
OLLAMA = OPENAI.replace("openai", "ollama")
GRPC = OPENAI.replace("openai", "grpc")
PYTHON = OPENAI.replace("openai", "python")
ECHO = OPENAI.replace("openai", "echo")
OTHER = ECHO.replace('"w"', '"v"')
ONE = 'base_url = "http://a"\n'
TWO = 'replicas = ["http://a:1/v1", "http://b:1/v1"]\n'

# the keys of the worker; then its problem: path, found, expected (its beginning)
TABLE = {
    "no replica": (OPENAI, "base_url", "nothing", "an address (or replicas, for several)"),
    "no replica of grpc": (GRPC, "target", "nothing", "an address (or replicas, for several)"),
    "no replica in an empty list": (OPENAI + "replicas = []", "base_url", "nothing", "an address (or replicas"),
    "one and several": (OPENAI + ONE + TWO, "replicas", "both base_url and replicas", "one of the two"),
    "one and several of grpc": (
        GRPC + 'target = "a:1"\nreplicas = ["b:1"]',
        "replicas",
        "both target and replicas",
        "one of the two",
    ),
    "one twice": (
        OPENAI + 'replicas = ["http://a", "http://b", "http://a/"]',
        "replicas[2]",
        '"http://a/"',
        "each replica once",
    ),
    "one twice, in capitals": (
        OPENAI + 'replicas = ["http://a:1/v1", "http://A:1/v1"]',
        "replicas[1]",
        '"http://A:1/v1"',
        "each replica once",
    ),
    "one twice, by another scheme": (  # they would be one in the metrics
        OPENAI + 'replicas = ["http://a:1/v1", "https://a:1/v1"]',
        "replicas[1]",
        '"https://a:1/v1"',
        "each replica once",
    ),
    "one target twice": (GRPC + 'replicas = ["a:1", "b:1", "a:1"]', "replicas[2]", '"a:1"', "each replica once"),
    "a password in a replica's address": (
        OPENAI + 'replicas = ["http://a", "http://u:hunter2@b"]',
        "replicas[1]",
        "an address with credentials, not shown",
        "an address without credentials; api_key refers to a secret",
    ),
    "a password in one that is no address": (
        OPENAI + 'replicas = ["http://a", "u:hunter2@b"]',
        "replicas[1]",
        "an address with credentials, not shown",
        "an address that begins with http",
    ),
    "a replica's port": (
        OPENAI + 'replicas = ["http://a:0"]',
        "replicas[0]",
        '"http://a:0"',
        "an address with a host, and a port from 1",
    ),
    "a target that is a URL": (GRPC + 'target = "http://a:1"', "target", '"http://a:1"', "host:port, or unix:/path"),
    "a target without a port": (GRPC + 'target = "a"', "target", '"a"', "host:port, or unix:/path of a socket"),
    "a target that names a resolver": (GRPC + 'target = "dns:///a:1"', "target", '"dns:///a:1"', "host:port"),
    "a target's port": (GRPC + 'target = "a:70000"', "target", '"a:70000"', "a port from 1 to 65,535"),
    "a replica's port of grpc": (GRPC + 'replicas = ["[::1]:0"]', "replicas[0]", '"[::1]:0"', "a port from 1"),
    "a relative socket": (GRPC + 'target = "unix:a.sock"', "target", '"unix:a.sock"', "host:port, or unix:/path"),
    "longest pause below the first": (
        ECHO + "retry_base_ms = 500\nretry_max_ms = 499",
        "retry_base_ms",
        "500",
        "at most 499, which is workers[0].retry_max_ms",
    ),
    "longest open time below the first": (
        ECHO + "breaker_open_ms = 70_000",
        "breaker_open_ms",
        "70000",
        "at most 60,000, which is workers[0].breaker_max_open_ms",
    ),
    "a budget above everything": (ECHO + "retry_budget = 1.1", "retry_budget", "1.1", "a number from 0 to 1"),
    "a key in a header": (
        OPENAI + ONE + 'headers = {X-Api-Key = "hunter2"}',
        "headers.X-Api-Key",
        "a value that is not shown, in the file itself",
        "a reference: env:NAME or file:PATH",
    ),
    "a cookie": (
        OPENAI + ONE + 'headers = {Cookie = "hunter2"}',
        "headers.Cookie",
        "a value that is not shown, in the file itself",
        "a reference: env:NAME or file:PATH",
    ),
    "a header's reference to no name": (
        OPENAI + ONE + 'headers = {X-Api-Key = "env:hunter2-"}',
        "headers.X-Api-Key",
        "env: with a name that no variable can have",
        "env:NAME or file:PATH",
    ),
    "a reference of a header that is no secret": (
        OPENAI + ONE + 'headers = {X-Team = "file:"}',
        "headers.X-Team",
        "file: without a path",
        "env:NAME or file:PATH",
    ),
    "Anthropic's key twice": (
        ANTHROPIC + 'headers = {X-Api-Key = "env:B"}',
        "headers.X-Api-Key",
        "the same header twice",
        "each one once; api_key sets x-api-key",
    ),
    "a class of no form": (PYTHON + 'class = "a/b.py"', "class", '"a/b.py"', "package.module:Class, or the name of"),
    "no class": (PYTHON, "class", "nothing", "package.module:Class, or the name of an entry point"),
    "options that are tables": (
        PYTHON + 'class = "a:B"\noptions = {a = {b = 1}}',
        "options.a",
        "a table",
        "",
    ),
    "no file": (OPENAI.replace("openai", "llama-cpp"), "gguf", "nothing", "the path of a file"),
    "the address of chats": (
        OPENAI + 'base_url = "http://a/v1/chat/completions"',
        "base_url",
        '"http://a/v1/chat/completions"',
        "the address without /chat/completions, which the worker adds",
    ),
    "the same of a replica": (
        OPENAI + 'replicas = ["http://a/v1", "http://b/v1/Embeddings/"]',
        "replicas[1]",
        '"http://b/v1/Embeddings/"',
        "the address without /Embeddings",
    ),
    **{
        f"{kind.splitlines()[2]} with {end}": (
            f'{kind}base_url = "http://a{end}"',
            "base_url",
            f'"http://a{end}"',
            f"the address without {end}, which",
        )
        for kind, ends in (
            (ANTHROPIC, ["/v1", "/v1/messages"]),
            (COHERE, ["/v1", "/v2", "/v2/chat"]),
            (OLLAMA, ["/v1", "/api", "/api/chat", "/v1/chat/completions"]),
        )
        for end in ends
    },
    "how long a model is kept": (OLLAMA + 'keep_alive = "bananas"', "keep_alive", '"bananas"', "a duration, like 5m"),
    "how long, without a unit": (OLLAMA + 'keep_alive = "1.5"', "keep_alive", '"1.5"', "a duration, like 5m"),
    "no key for Anthropic": (ANTHROPIC.replace(KEY, ""), "api_key", "nothing", "env:NAME or file:PATH: api.anthropic"),
    "no key for Cohere": (
        COHERE.replace(KEY, 'replicas = ["http://a", "https://API.cohere.com:443/"]'),
        "api_key",
        "nothing",
        "env:NAME or file:PATH: api.cohere.com answers nobody",
    ),
    "one twice, by its port": (
        OPENAI + 'replicas = ["https://a/v1", "HTTPS://A:443/v1/"]',
        "replicas[1]",
        '"HTTPS://A:443/v1/"',
        "an address that begins with http",
    ),
    "one twice, by its port and case": (
        OPENAI + 'replicas = ["https://a/v1", "https://A:443/v1/"]',
        "replicas[1]",
        '"https://A:443/v1/"',
        "each replica once",
    ),
    "one twice, by its other name": (
        GRPC + 'replicas = ["[::1]:1", "[0:0::1]:01"]',
        "replicas[1]",
        '"[0:0::1]:01"',
        "each replica once",
    ),
    "a token in a header of another name": (
        OPENAI + ONE + 'headers = {X-Team = "Bearer hunter2"}',
        "headers.X-Team",
        "a value that looks like a secret and is not shown, in the file itself",
        "a reference for the whole of it: env:NAME or file:PATH",
    ),
    "a key in an address": (
        OPENAI + 'base_url = "http://a/v1?api_key=hunter2"',
        "base_url",
        "an address with a query, not shown",
        "an address that begins with http:// or https:// and has no query",
    ),
    "a key in a replica's address": (
        OPENAI + 'replicas = ["http://a/v1#hunter2"]',
        "replicas[0]",
        "an address with a query, not shown",
        "an address that begins",
    ),
    "an address elsewhere": (
        GRPC + 'target = "http://u:hunter2@a:1"',
        "target",
        "an address with credentials, not shown",
        "host:port",
    ),
    "an address with a query elsewhere": (
        ECHO + 'name = "http://a?key=hunter2"'.replace("name", "tokens"),
        "tokens",
        "an address with a query, not shown",
        "a whole number",
    ),
    "a version that is none": (ANTHROPIC + 'version = "latest"', "version", '"latest"', "a date"),
}


@pytest.mark.parametrize("case", TABLE)
def test_each_problem_alone(case, tmp_path):
    text, key, found, expected = TABLE[case]
    (problem,) = problems(tmp_path, f"{text}\n{ROUTE}")
    assert (problem.path, problem.found) == (f"workers[0].{key}", found)
    assert problem.expected.startswith(expected)
    assert "hunter2" not in repr(problem)


@pytest.mark.parametrize(
    "text",
    [
        OPENAI + TWO,
        OPENAI + 'replicas = ["http://a:1/v1", "http://a:1/v2", "http://a:2/v1", "http://[::1]:1/v1"]',
        OPENAI + 'replicas = ["http://a/v1", "http://a/V1"]',
        GRPC + 'replicas = ["a:1", "a:2", "[::1]:1", "unix:/a", "unix:/A", "unix:/a:0"]',
        ANTHROPIC,
        ANTHROPIC + 'headers = {authorization = "env:B", X-Team = "blue"}',
        ANTHROPIC.replace(KEY, 'headers = {X-Api-Key = "env:A"}'),
        ANTHROPIC.replace(KEY, 'headers = {Authorization = "env:A"}'),
        ANTHROPIC.replace(KEY, 'base_url = "http://127.0.0.1:1/v1/anthropic"'),
        COHERE,
        COHERE.replace(KEY, 'base_url = "http://127.0.0.1:1"'),
        OLLAMA,
        OLLAMA + 'base_url = "http://127.0.0.1:1/api-gateway"',
        *[f'{OLLAMA}keep_alive = "{value}"' for value in ("5m", "1h30m", "300", "-1", "-1m", "0", "1.5h", " 10s ")],
        OPENAI + 'base_url = "http://a/v1/"',
        OPENAI + 'replicas = ["http://a", "http://a:8080", "https://b:80", "http://[::1]", "http://[::2]"]',
        ECHO + "retry_base_ms = 499\nretry_max_ms = 499\nbreaker_open_ms = 60_000",
        ECHO + "retries = 0\nretry_budget = 0.0\nbreaker_failures = 0\nbreaker_rate = 0\nhealth_interval_ms = 0",
        PYTHON + 'class = "own"\noptions = {a = 1, b = "x", c = true, d = 0.5}',
    ],
)
def test_what_is_just_right(text, tmp_path):
    (tmp_path / "test.toml").write_text(f"{text}\n{ROUTE}")
    load(tmp_path / "test.toml", {})


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (OPENAI + "base_url = 5", ["workers[0].base_url"]),
        (OPENAI + "replicas = [5]", ["workers[0].replicas[0]"]),
        (OPENAI + ONE + "replicas = [5]", ["workers[0].replicas[0]", "workers[0].replicas"]),
        (OPENAI + 'replicas = "http://a"', ["workers[0].replicas"]),
        (OPENAI.replace("openai", "llama-cpp") + "gguf = 5", ["workers[0].gguf"]),
        (OPENAI + ONE + "ca_file = 5", ["workers[0].ca_file"]),
        (GRPC + "target = 5", ["workers[0].target"]),
        (ECHO + "retry_max_ms = 0", ["workers[0].retry_max_ms"]),
    ],
)
def test_one_mistake_is_reported_once(text, paths, tmp_path):
    assert [problem.path for problem in problems(tmp_path, f"{text}\n{ROUTE}")] == paths


def test_all_that_is_wrong_with_a_pool_is_told(tmp_path):
    text = f'{OPENAI}{ONE}replicas = ["http://b", "c", "http://d:0", "http://B:80"]\n{ROUTE}'
    assert sorted(problem.path for problem in problems(tmp_path, text)) == [
        "workers[0].replicas",
        "workers[0].replicas[1]",
        "workers[0].replicas[2]",
        "workers[0].replicas[3]",
    ]


def test_a_route_does_not_answer_with_nothing(tmp_path):
    (problem,) = problems(tmp_path, f'{ECHO}{ROUTE}static_answer = " "\n')
    assert (problem.path, problem.expected) == ("routes[0].static_answer", "a text that says something")


def test_where_a_class_is_looked_for_is_relative_to_the_file(tmp_path):
    for keys, folder in (("", tmp_path), ('folder = "own"', tmp_path / "own"), ('folder = "/own"', Path("/own"))):
        (tmp_path / "test.toml").write_text(f'{PYTHON}class = "a:B"\n{keys}\n{ROUTE}')
        loaded = load(tmp_path / "test.toml", {})
        (worker,) = loaded.config.workers
        assert isinstance(worker, PythonWorker)
        assert worker.folder == str(folder)
        assert loaded.origins["workers[0].folder"] == (f"file {loaded.path}" if keys else "default")


def test_the_pool_without_replicas_is_where_its_table_is(tmp_path):
    (problem,) = problems(tmp_path, f"\n\n{OPENAI}{ROUTE}")
    assert problem.where.endswith(":3")


class TestFiles:
    TEXT = OPENAI.replace("openai", "llama-cpp") + 'gguf = "models/a.gguf"\ntokenizer = "models/a.json"\n' + ROUTE

    def test_are_relative_to_the_configuration_file(self, tmp_path: Path, monkeypatch):
        models = tmp_path / "models"
        models.mkdir()
        for name in ("a.gguf", "a.json"):
            (models / name).write_bytes(b"GGUF")
        pem = certificates.made(tmp_path, "ca").certificate
        others = f'{OPENAI}{ONE}ca_file = "{pem.name}"\n{GRPC}target = "a:1"\nca_file = "./{pem.name}"\n'
        others = others.replace('"w"', '"o"', 1).replace('"w"', '"g"', 1)
        (tmp_path / "test.toml").write_text(self.TEXT + others)
        monkeypatch.chdir(models)
        local, http, grpc = load(Path("../test.toml"), {}).config.workers
        assert isinstance(local, LlamaCppWorker)
        assert isinstance(http, OpenAIWorker)
        assert isinstance(grpc, GrpcWorker)
        for named in (local.gguf, local.tokenizer, http.ca_file, grpc.ca_file):
            assert named is not None
            assert Path(named).is_absolute()
            assert Path(named).is_file()

    def test_that_are_not_there(self, tmp_path: Path):
        found = problems(tmp_path, self.TEXT)
        assert [(problem.path, problem.found) for problem in found] == [
            ("workers[0].gguf", f'"{tmp_path}/models/a.gguf": no such file or directory'),
            ("workers[0].tokenizer", f'"{tmp_path}/models/a.json": no such file or directory'),
        ]

    def test_that_are_something_else(self, tmp_path: Path):
        models = tmp_path / "models"
        models.mkdir()
        os.mkfifo(models / "a.gguf")
        (models / "a.json").symlink_to("/dev/zero")
        assert [problem.found.rpartition(": ")[2] for problem in problems(tmp_path, self.TEXT)] == [
            "is a pipe",
            "is a device",
        ]
        (models / "a.gguf").unlink()
        (models / "a.gguf").write_text("GGML")
        (models / "a.json").unlink()
        with (models / "a.json").open("wb") as file:
            file.truncate((64 << 20) + 1)
        model, tokenizer = problems(tmp_path, self.TEXT)
        assert (model.path, model.expected) == ("workers[0].gguf", "a model in GGUF")
        assert (tokenizer.path, tokenizer.expected) == ("workers[0].tokenizer", "a file of at most 67,108,864 bytes")

    def test_that_are_folders(self, tmp_path: Path):
        for name in ("a.gguf", "a.json"):
            (tmp_path / "models" / name).mkdir(parents=True)
        assert [problem.found.rpartition(": ")[2] for problem in problems(tmp_path, self.TEXT)] == [
            "is a directory"
        ] * 2

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_that_may_not_be_read(self, tmp_path: Path):
        (tmp_path / "models").mkdir(mode=0)
        assert {problem.found.rpartition(": ")[2] for problem in problems(tmp_path, self.TEXT)} == {"permission denied"}

    def test_with_a_name_that_is_too_long(self, tmp_path: Path):
        (tmp_path / "models").mkdir()
        found = problems(tmp_path, self.TEXT.replace("a.gguf", "a" * 300))
        assert found[0].found.endswith("file name too long")

    @pytest.mark.parametrize("kind", [OPENAI + ONE, GRPC + 'target = "a:1"\n'])
    def test_without_a_certificate(self, kind, tmp_path: Path):
        (tmp_path / "ca.pem").write_text("hello")
        (problem,) = problems(tmp_path, f'{kind}ca_file = "ca.pem"\n{ROUTE}')
        assert (problem.path, problem.expected) == ("workers[0].ca_file", "certificates in PEM")
        assert problem.found == f'"{tmp_path}/ca.pem": a file without a certificate'
        (problem,) = problems(tmp_path, f'{kind}ca_file = "none.pem"\n{ROUTE}')
        assert problem.found == f'"{tmp_path}/none.pem": no such file or directory'


def test_a_secret_s_file_that_a_header_names_is_relative_too(tmp_path, monkeypatch):
    (tmp_path / "test.toml").write_text(f'{OPENAI}{ONE}headers = {{X-Api-Key = "file:key"}}\n{ROUTE}')
    monkeypatch.chdir("/")
    (worker,) = load(tmp_path / "test.toml", {}).config.workers
    assert isinstance(worker, HttpWorker)
    assert worker.headers == {"X-Api-Key": f"file:{tmp_path}/key"}


FALLBACK = {
    "one that is not there": ('fallback = ["x"]', "fallback[0]", '"x"', "the name of one of the workers: w, v"),
    "its own worker": ('fallback = ["w"]', "fallback[0]", '"w"', "each worker once: this one has been asked before"),
    "one twice": ('fallback = ["v", "v"]', "fallback[1]", '"v"', "each worker once: this one has been asked before"),
}


@pytest.mark.parametrize("case", FALLBACK)
def test_who_a_route_falls_back_on(case, tmp_path):
    text, key, found, expected = FALLBACK[case]
    (problem,) = problems(tmp_path, f"{ECHO}{OTHER}{ROUTE}{text}\n")
    assert (problem.path, problem.found) == (f"routes[0].{key}", found)
    assert problem.expected.startswith(expected)


def test_one_of_a_routes_workers_is_no_fallback_of_it(tmp_path):
    shares = '[[routes]]\nname = "r"\nworkers = [{worker = "w"}, {worker = "v", weight = 0.0}]\nfallback = ["v"]\n'
    (problem,) = problems(tmp_path, f"{ECHO}{OTHER}{shares}")
    assert (problem.path, problem.found) == ("routes[0].fallback[0]", '"v"')


def test_two_routes_may_fall_back_on_each_others_worker(tmp_path):
    back = ROUTE.replace('"r"', '"s"').replace('"w"', '"v"')
    (tmp_path / "a.toml").write_text(f'{ECHO}{OTHER}{ROUTE}fallback = ["v"]\n{back}fallback = ["w"]\n')
    first, second = load(tmp_path / "a.toml", {}).config.routes
    assert (first.all_workers, second.all_workers) == (["w", "v"], ["v", "w"])


DOCS = '[[collections]]\nname = "docs"\n'
EMBEDDER = {
    "a worker that is not there": (
        'embedder = "x"\ndimension = 8',
        "embedder",
        '"x"',
        "the name of one of the workers",
    ),
    "a dimension that is not known": ('embedder = "w"', "dimension", "nothing", "the length of the worker's vectors"),
    "a dimension of our own embedder": (
        'embedder = "minilm"\ndimension = 384',
        "dimension",
        "a key for another embedder",
        "none: the embedder minilm is no worker",
    ),
    "a model of our own embedder": (
        'embedding_model = "m"',
        "embedding_model",
        "a key for another embedder",
        "none: the embedder auto is no worker",
    ),
    "a worker that cannot embed": (
        'embedder = "a"\ndimension = 8',
        "embedder",
        '"a"',
        "a worker that can embed: one of kind anthropic cannot",
    ),
    "no model": (
        'embedder = "o"\ndimension = 8',
        "embedding_model",
        "nothing",
        "a model: the worker o has none either",
    ),
}


@pytest.mark.parametrize("case", EMBEDDER)
def test_what_embeds_a_collection(case, tmp_path):
    text, key, found, expected = EMBEDDER[case]
    others = ANTHROPIC.replace('"w"', '"a"') + OPENAI.replace('"w"', '"o"') + ONE
    (problem,) = problems(tmp_path, f"{SMALLEST}{others}{DOCS}{text}\n")
    assert (problem.path, problem.found) == (f"collections[0].{key}", found)
    assert problem.expected.startswith(expected)


@pytest.mark.parametrize("text", ['embedder = "w"\n', 'embedder = "o"\nembedding_model = "e"\n'])
def test_a_worker_that_embeds(text, tmp_path):
    workers = SMALLEST + OPENAI.replace('"w"', '"o"') + ONE
    (tmp_path / "a.toml").write_text(f"{workers}{DOCS}{text}dimension = 8\n")
    load(tmp_path / "a.toml", {})


class TestEnvironment:
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "a.toml").write_text(f'{OPENAI}replicas = ["http://a"]\n{ROUTE}')
        return tmp_path / "a.toml"

    def test_exchanges_replicas(self, tmp_path):
        environ = {"HEADGATE__WORKERS__0__REPLICAS": '["http://b", "http://c/"]'}
        config, origins, *_ = load(self.file(tmp_path), environ)
        (worker,) = config.workers
        assert isinstance(worker, HttpWorker)
        assert worker.urls == ["http://b", "http://c"]
        assert origins["workers[0].replicas"] == "environment HEADGATE__WORKERS__0__REPLICAS"

    def test_exchanges_one_of_them_and_sets_what_the_file_does_not(self, tmp_path):
        environ = {
            "HEADGATE__WORKERS__0__REPLICAS__0": "http://b",
            "HEADGATE__WORKERS__0__AFFINITY": "false",
            "HEADGATE__WORKERS__0__RETRY_BUDGET": "0.05",
            "HEADGATE__ROUTES__0__STATIC_ANSWER": "true",
        }
        config = load(self.file(tmp_path), environ).config
        (worker,), (route,) = config.workers, config.routes
        assert isinstance(worker, HttpWorker)
        assert (worker.urls, worker.affinity, worker.retry_budget) == (["http://b"], False, 0.05)
        assert route.static_answer == "true"  # a text, whatever it looks like

    def test_is_told_what_is_wrong(self, tmp_path):
        wrong = {"HEADGATE__WORKERS__0__REPLICAS": '["http://b", "http://u:hunter2@c"]'}
        (problem,) = problems(tmp_path, self.file(tmp_path).read_text(), wrong)
        assert problem.path == "workers[0].replicas[1]"
        assert problem.where == "environment HEADGATE__WORKERS__0__REPLICAS"
        assert "hunter2" not in repr(problem)
        added = {"HEADGATE__WORKERS__0__REPLICAS__1": "http://b"}
        (problem,) = problems(tmp_path, self.file(tmp_path).read_text(), added)
        assert problem.found == "no such element"

    def test_gives_a_class_its_options(self, tmp_path):
        (tmp_path / "a.toml").write_text(f'{PYTHON}class = "a:B"\noptions = {{Depth = 2}}\n{ROUTE}')
        environ = {"HEADGATE__WORKERS__0__OPTIONS__DEPTH": "3", "HEADGATE__WORKERS__0__OPTIONS__name": "x"}
        (worker,) = load(tmp_path / "a.toml", environ).config.workers
        assert isinstance(worker, PythonWorker)
        assert worker.options == {"Depth": 3, "name": "x"}
