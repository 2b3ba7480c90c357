"""`headgate check`, `headgate config show`, `headgate config schema`, `headgate --version`."""

import json
import os
import pty
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from config.reference import markdown
from pipeline.cli import main
from pipeline.wiring import parts
from tests import certificates
from tests.certificates import Files

GOOD = '[[workers]]\nname = "w"\nkind = "echo"\n[[routes]]\nname = "r"\nworker = "w"\n'
BAD = f"[server]\nprot = 8080\nport = 70000\n{GOOD}"
COMMAND = Path(sys.executable).parent / "headgate"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("HEADGATE")]:
        monkeypatch.delenv(name)
    (tmp_path / "pipeline.toml").write_text(GOOD)
    (tmp_path / "bad.toml").write_text(BAD)
    return tmp_path


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)


@pytest.mark.parametrize("arguments", [["check"], ["check", "pipeline.toml"], ["check", "--config", "pipeline.toml"]])
def test_a_good_file_is_named_with_what_is_in_it(folder, arguments):
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stdout == "pipeline.toml: no problems (1 worker, 1 route, 0 collections)\n"
    assert result.stderr == ""


def test_every_problem_is_printed_with_key_path_found_expected_and_nearest_key(folder):
    result = run("check", "bad.toml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "server.prot  (bad.toml:2)",
        "    found     an unknown key",
        "    expected  a key of server",
        "    nearest   port",
        "server.port  (bad.toml:3)",
        "    found     70000",
        "    expected  a whole number from 0 to 65,535",
        "2 problems",
    ]


@pytest.mark.parametrize("name", ["none.toml", "/", "/dev/null", "bytes.toml", "secret.toml"])
def test_what_cannot_be_read_is_a_problem(folder, name):
    (folder / "bytes.toml").write_bytes(b"\xff\xfe")
    (folder / "secret.toml").write_text(GOOD)
    (folder / "secret.toml").chmod(0)
    result = run("check", name)
    readable = name == "secret.toml" and os.geteuid() == 0  # root reads everything
    assert result.exit_code == (0 if readable else 2)
    assert readable or name in result.stderr


def test_the_environment_is_checked_too(folder):
    result = run("check", HEADGATE__SERVER__PORT="x", HEADGATE__SEVER__PORT="1")
    assert result.exit_code == 2
    assert "(environment HEADGATE__SERVER__PORT)" in result.stderr
    assert "(environment HEADGATE__SEVER__PORT)" in result.stderr


def test_the_environment_names_the_file(folder):
    assert run("check", HEADGATE_CONFIG="bad.toml").exit_code == 2
    assert run("check", HEADGATE_CONFIG="none.toml").exit_code == 2
    assert run("check", "pipeline.toml", HEADGATE_CONFIG="bad.toml").exit_code == 0


def test_two_files_are_one_too_many(folder):
    result = run("check", "pipeline.toml", "--config", "bad.toml")
    assert result.exit_code == 2
    assert "name the file once" in result.stderr


def test_show_prints_what_is_in_force(folder):
    result = run("config", "show", HEADGATE__SERVER__PORT="9000")
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["server"]["port"] == 9000
    assert "# environment HEADGATE__SERVER__PORT" in result.stdout
    assert "# file pipeline.toml" in result.stdout
    assert "# default" in result.stdout


def test_show_as_json(folder):
    shown = json.loads(run("config", "show", "--json", HEADGATE__SERVER__PORT="9000").stdout)
    assert shown["file"] == "pipeline.toml"
    assert shown["keys"]["server.port"] == {"value": 9000, "origin": "environment HEADGATE__SERVER__PORT"}


def test_show_refuses_as_check_does(folder):
    assert run("config", "show", "--config", "bad.toml").stderr == run("check", "bad.toml").stderr


def test_schema(folder):
    schema = json.loads(run("config", "schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["$defs"]["ServerSection"]["properties"]["port"]["maximum"] == 65535
    assert run("config", "schema", "--markdown").stdout == markdown()


def test_version():
    assert run("--version").stdout == f"headgate, version {version('headgate')}\n"


@pytest.mark.slow
def test_the_installed_command_reports_through_its_exit_status(folder):
    ended = subprocess.run([COMMAND, "check", "bad.toml"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith("2 problems\n")


@pytest.mark.slow
@pytest.mark.parametrize(("environ", "bold"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_key_paths_are_bold_at_a_terminal_only(folder, environ, bold):
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | environ
    subprocess.run([COMMAND, "check", "bad.toml"], stderr=theirs, env=environment, check=False)
    os.close(theirs)
    shown = os.read(ours, 65_536)
    os.close(ours)
    assert (b"\x1b[1mserver.prot\x1b[0m" in shown) is bold
    assert b"server.prot" in shown


@pytest.mark.slow
def test_the_command_starts_without_importing_what_other_commands_need():
    """`headgate --help` and completion must not wait for servers and models."""
    code = "import sys, pipeline.cli; print({'aiohttp', 'jinja2', 'regex', 'rich', 'qdrant_client'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


@pytest.mark.parametrize(
    ("template", "told"), [("{{ foo", "line 1: unexpected end of template"), ("{{ nope }}", "`nope` is not known here")]
)
def test_a_template_that_cannot_be_rendered_is_a_problem(folder, template, told):
    (folder / "pipeline.toml").write_text(f"{GOOD}template = '{template}'\n")
    result = run("check")
    assert result.exit_code == 2
    assert "routes[0].template" in result.stderr
    assert told in result.stderr


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files, Files]:
    folder = tmp_path_factory.mktemp("certificates")
    first, weak = certificates.made(folder, "first"), certificates.made(folder, "weak", kind="rsa:512")
    return first, certificates.made(folder, "second"), weak


class TestCertificates:
    """What `serve` would refuse is told with the key that names the file."""

    @pytest.fixture(params=["server", "admin"])
    def check(self, folder, request):
        def checked(certificate: Path, key: Path) -> Result:
            section = f'[{request.param}]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
            (folder / "pipeline.toml").write_text(section + GOOD)
            result = run("check")
            assert result.exit_code in (0, 2)
            assert f"{request.param}.tls_" in result.stderr or not result.exit_code
            return result

        return checked

    def test_a_pair_that_fits(self, check, pairs):
        assert check(*pairs[0]).exit_code == 0

    def test_a_key_of_another_certificate(self, check, pairs):
        first, second, _ = pairs
        assert "a key that does not match the certificate" in check(first.certificate, second.key).stderr

    def test_a_key_with_a_passphrase(self, check, pairs, tmp_path):
        encrypted = certificates.encrypted(pairs[0], tmp_path / "encrypted.key")
        assert "an encrypted private key" in check(*encrypted).stderr

    def test_a_file_without_pem(self, check, pairs, tmp_path):
        (tmp_path / "text").write_text("hello")
        assert "a file without a certificate" in check(tmp_path / "text", pairs[0].key).stderr

    def test_a_weak_certificate(self, check, pairs):
        assert "too small" in check(*pairs[2]).stderr


ROUTE = '[[routes]]\nname = "r"\nworker = "w"\n'
OWN = """
class Own:
    def __init__(self, *, depth=1):
        self.depth = depth

    async def generate(self, request):
        yield "deep" * self.depth
"""


class TestWorkers:
    """What only shows when a worker is made is told before a daemon is asked to."""

    @pytest.fixture
    def check(self, folder, monkeypatch):
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        (folder / "own_checked.py").write_text(OWN)
        (folder / "own.gguf").write_bytes(b"GGUF")

        def checked(kind: str, keys: str) -> Result:
            (folder / "pipeline.toml").write_text(f'[[workers]]\nname = "w"\nkind = "{kind}"\n{keys}\n{ROUTE}')
            return run("check")

        yield checked
        sys.modules.pop("own_checked", None)

    def test_a_class_that_is_there(self, check):
        assert check("python", 'class = "own_checked:Own"\noptions = {depth = 2}\ninstances = 2').exit_code == 0

    @pytest.mark.parametrize(
        ("keys", "path", "told"),
        [
            ('class = "own_unchecked:Own"', "class", "there is no module own_unchecked"),
            ('class = "own_checked:Other"', "class", "has no Other"),
            ('class = "own_entry_point"', "class", "no entry point of that name in the group headgate.workers"),
            ('class = "own_checked:Own"\noptions = {width = 2}', "options.width", "unknown option 'width'"),
        ],
    )
    def test_a_class_that_is_not_there_or_does_not_take_its_options(self, check, keys, path, told):
        result = check("python", keys)
        assert result.exit_code == 2
        line = 5 if "options" in path else 4
        assert result.stderr.startswith(f"workers[0].{path}  (pipeline.toml:{line})\n")
        assert told in result.stderr
        assert result.stderr.endswith("\n1 problem\n")

    @pytest.mark.parametrize(
        ("kind", "keys", "package", "extra", "key"),
        [
            ("grpc", 'target = "127.0.0.1:1"', "grpc", "grpc", "kind"),
            ("llama-cpp", 'gguf = "own.gguf"', "xllamacpp", "llama-cpp", "kind"),
            ("echo", 'tokenizer = "own_checked.py"', "tokenizers", "tokenizers", "tokenizer"),
        ],
    )
    @pytest.mark.slow
    def test_a_package_that_is_missing(self, check, folder, kind, keys, package, extra, key):
        """In a process of its own: here the package has been imported."""
        check(kind, keys)
        hide = "import sys, importlib.machinery as m; find = m.PathFinder.find_spec; "
        hide += f"m.PathFinder.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest); "
        code = hide + "from pipeline.cli import main; main(['check'])"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.startswith(f"workers[0].{key}  (pipeline.toml:")
        assert f"pip install 'headgate[{extra}]'" in ended.stderr

    @pytest.mark.parametrize(
        ("raised", "told"),
        [
            ("SystemExit(3)", "SystemExit: 3"),
            ("KeyboardInterrupt", "KeyboardInterrupt"),
            ("BaseException('x')", "BaseException: x"),
        ],
    )
    def test_a_module_that_would_end_the_process(self, check, folder, raised, told):
        (folder / "own_ends.py").write_text(f"raise {raised}\n")
        result = check("python", 'class = "own_ends:A"')
        assert result.exit_code == 2
        assert f"own_ends cannot be imported: {told}" in result.stderr

    def test_a_module_that_waits(self, check, folder, monkeypatch):
        monkeypatch.setattr(parts, "_CHECK_TIME", 0.2)
        (folder / "own_waits.py").write_text("import threading\nthreading.Event().wait(3)\n")
        result = check("python", 'class = "own_waits:A"')
        assert result.exit_code == 2
        assert "code that has not been imported and made within 0.2 s" in result.stderr

    @pytest.mark.slow
    def test_ctrl_c_ends_a_check_that_waits(self, check, folder):
        (folder / "own_waits.py").write_text("import threading\nprint('here', flush=True)\nthreading.Event().wait()\n")
        check("echo", "")
        (folder / "pipeline.toml").write_text(
            f'[[workers]]\nname = "w"\nkind = "python"\nclass = "own_waits:A"\n{ROUTE}'
        )
        with subprocess.Popen([COMMAND, "check"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 1

    def test_a_class_beside_the_configuration_file(self, check, folder, monkeypatch, tmp_path_factory):
        check("echo", "")
        (folder / "own").mkdir()
        (folder / "own" / "own_beside.py").write_text(OWN)
        (folder / "pipeline.toml").write_text(
            f'[[workers]]\nname = "w"\nkind = "python"\nclass = "own_beside:Own"\nfolder = "own"\n'
            f'[[workers]]\nname = "v"\nkind = "python"\nclass = "own_checked:Own"\n{ROUTE}'
        )
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert run("check", str(folder / "pipeline.toml")).exit_code == 0
        sys.modules.pop("own_beside", None)

    def test_a_tokenizer_that_is_none(self, check):
        result = check("echo", 'tokenizer = "own_checked.py"')
        assert result.exit_code == 2
        assert result.stderr.startswith("workers[0].tokenizer  (pipeline.toml:4)\n")

    def test_a_pool_whose_secrets_are_elsewhere(self, check):
        keys = 'target = "127.0.0.1:1"\napi_key = "env:NO_SUCH_KEY"\n'
        assert check("grpc", keys).exit_code == 0


SECRETS = """
[admin]
token = "env:NO_SUCH_TOKEN"
[[workers]]
name = "o"
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
api_key = "file:key"
headers = {X-Api-Key = "env:NO_SUCH_HEADER", X-Team = "blue"}
"""


def test_secrets_are_looked_up_when_that_is_wanted(folder):
    (folder / "pipeline.toml").write_text(GOOD + SECRETS + "[[routes]]\nname = 'x'\nworker = 'w'\ntemplate = '{{ a'\n")
    result = run("check", "--secrets")
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if not line.startswith(" ")] == [
        "routes[1].template  (pipeline.toml:19)",
        "admin.token  (pipeline.toml:9)",
        "workers[1].api_key  (pipeline.toml:14)",
        "workers[1].headers.X-Api-Key  (pipeline.toml:15)",
        "4 problems",
    ]
    (folder / "pipeline.toml").write_text(GOOD + SECRETS)
    assert run("check").exit_code == 0
    (folder / "key").write_text("k")
    assert run("check", "--secrets", NO_SUCH_TOKEN="t", NO_SUCH_HEADER="h").exit_code == 0
