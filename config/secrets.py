"""References to secrets: the configuration names where a secret is, it never holds one."""

import os
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from config.errors import ConfigError, Problem, Unreadable
from config.files import read_text
from config.paths import dotted
from config.schema import Config, WorkerSection

FORMS = "env:NAME or file:PATH"
FILE = "file:"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_BYTES = 65_536


_SECRET_HEADER = re.compile(r"auth|key|cookie|token|secret|passw|credential|signature", re.IGNORECASE)


_TOKEN = re.compile(
    r"^\s*(?i:bearer)\s+\S+\s*$"
    r"|(?<![A-Za-z0-9])(?:(?:sk|rk)[-_][\w-]{8,}|gh[opsur]_\w{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}"
    r"|hf_\w{8,}|gsk_\w{8,}|xai-\w{8,}|xox[a-z]-[\w-]{8,}|A[KS]IA[0-9A-Z]{12,}|AIza[\w-]{8,}|npm_\w{8,}"
    r"|pypi-[\w-]{8,}|r8_\w{8,}|nvapi-[\w-]{8,}|pplx-\w{8,}|eyJ[\w-]{8,}\.[\w-]{8,})",  # the last: a JSON Web Token
)
_BASIC = re.compile(r"basic\s+([A-Za-z0-9+/]+)=*", re.IGNORECASE)


class Fault(NamedTuple):
    """Why a text is no reference. Never repeats the text: it may be the secret itself."""

    found: str
    hint: str = ""


class Secret(NamedTuple):
    """The key path that holds a reference, and the reference."""

    path: str
    reference: str


def fault(reference: str) -> Fault | None:
    """What is wrong with a reference's form, or None. Does not look whether the secret is there."""
    scheme, colon, rest = reference.partition(":")
    if colon and scheme == "env":
        return None if _NAME.fullmatch(rest) else Fault("env: with a name that no variable can have")
    if colon and scheme == "file":
        return None if rest and "\0" not in rest else Fault("file: without a path")
    if colon and scheme in {"vault", "aws"}:
        return Fault(f"a reference to {scheme}:, which is not supported yet")
    hint = f"{scheme.strip().lower()}:" if colon and scheme.strip().lower() in {"env", "file"} else ""
    return Fault("a text that is no reference, not shown", hint)


def is_reference(value: str) -> bool:
    """Whether a header's value refers to a secret; any other is sent as it stands."""
    return value.startswith(("env:", FILE))


def is_secret_header(name: str) -> bool:
    """Whether the name of a header says that its value is secret: that may not stand in the file then."""
    return bool(_SECRET_HEADER.search(name))


def looks_secret(value: str) -> bool:
    """Whether a header's value is one that only secrets are: credentials of HTTP, or a key or token as the providers of
    models, code and clouds make them. What looks like nothing in particular is not known to be one."""
    return bool(_TOKEN.search(value)) or _is_basic(value)


def _is_basic(value: str) -> bool:
    """Name and password, RFC 7617."""
    found = _BASIC.fullmatch(value.strip())
    if found is None:
        return False
    try:
        return b":" in b64decode(found[1] + "=" * (-len(found[1]) % 4))
    except ValueError:
        return False


def references(config: Config) -> Iterator[Secret]:
    """All that a configuration refers to, in its order."""
    if config.admin.token is not None:
        yield Secret("admin.token", config.admin.token)
    for position, worker in enumerate(config.workers):
        yield from worker_references(worker, position)
    for position, collection in enumerate(config.collections):
        if collection.api_key is not None:
            yield Secret(f"collections[{position}].api_key", collection.api_key)


def worker_references(worker: WorkerSection, position: int) -> Iterator[Secret]:
    """Those of the worker that is at `position` of its table."""
    path = ("workers", position)
    api_key = getattr(worker, "api_key", None)
    if api_key is not None:
        yield Secret(dotted((*path, "api_key")), api_key)
    for name, value in getattr(worker, "headers", {}).items():
        if is_reference(value):
            yield Secret(dotted((*path, "headers", name)), value)


def missing(config: Config, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """What is wrong with the secrets that a configuration refers to, on this machine and for this user."""
    problems: list[Problem] = []
    for secret in references(config):
        try:
            resolve(secret.reference, path=secret.path, environ=environ)
        except ConfigError as error:
            problems += error.problems
    return problems


def resolve(reference: str, *, path: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret that a reference (`env:NAME`, `file:PATH`) stands for, without surrounding white space.

    Every secret so far travels in an HTTP header, so it has to be one line of printable ASCII. `path` is the key path
    that holds the reference. Raises ConfigError with one problem when the reference is of no known form, or when the
    secret is missing, empty or not printable.
    """
    wrong = fault(reference)
    if wrong is not None:
        _refuse(path, wrong.found, FORMS, wrong.hint)
    scheme, _, name = reference.partition(":")
    secret = _from_environment(name, path, environ) if scheme == "env" else _from_file(name, path)
    if not (secret.isascii() and secret.isprintable()):
        _refuse(path, f"characters in {reference} that no header may carry", "one line of printable ASCII")
    if not secret:
        _refuse(path, f"nothing in {reference}", "the secret")
    return secret


def _from_environment(name: str, path: str, environ: Mapping[str, str] | None) -> str:
    value = (os.environ if environ is None else environ).get(name)
    if value is None:
        _refuse(path, f"no environment variable {name}", f"the secret in {name}")
    return value.strip()


def _from_file(name: str, path: str) -> str:
    try:
        return read_text(Path(name), _MAX_BYTES).strip()
    except Unreadable as unreadable:
        _refuse(path, f"{name}: {unreadable.found}", unreadable.expected)


def _refuse(path: str, found: str, expected: str, hint: str = "") -> NoReturn:
    raise ConfigError([Problem(path, found, expected, hint)]) from None
