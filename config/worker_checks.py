"""Checks of a worker's table: its replicas, its files, its headers, and limits that contradict each other."""

import os
import re
import ssl
from ipaddress import ip_address
from urllib.parse import urlsplit

from config.checks import Checks
from config.errors import Unreadable
from config.files import MAX_TOKENIZER_BYTES, opened
from config.paths import KeyPath, quote
from config.schema import (
    WORKER_FILES,
    AnthropicWorker,
    CohereWorker,
    GrpcWorker,
    HttpWorker,
    OllamaWorker,
    OpenAIWorker,
    WorkerSection,
)
from config.secrets import FORMS, fault, is_reference, is_secret_header, looks_secret
from config.shape import shown

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2
_GGUF = b"GGUF"  # how such a file begins
_LARGEST = {"tokenizer": MAX_TOKENIZER_BYTES, "ca_file": 16 << 20}  # bytes
_PORTS = {"http": 80, "https": 443}
# Ends of addresses that are there when somebody copied the address of one call, or of another API of the same server.
_ADDED: dict[type[HttpWorker], re.Pattern[str]] = {
    OpenAIWorker: re.compile(r"/(?:chat/completions|completions|embeddings|models|responses)/*$", re.IGNORECASE),
    AnthropicWorker: re.compile(r"/v1(?:/(?:messages(?:/.*)?|complete|models))?/*$", re.IGNORECASE),
    CohereWorker: re.compile(r"/v[12](?:/(?:chat|generate|embed|rerank|models|tokenize))?/*$", re.IGNORECASE),
    OllamaWorker: re.compile(
        r"/(?:api(?:/(?:chat|generate|embed|embeddings|tags|show|ps))?|v1(?:/(?:chat/)?completions|/models)?)/*$",
        re.IGNORECASE,
    ),
}
_OWN_KEY: dict[type[HttpWorker], str] = {AnthropicWorker: "x-api-key", CohereWorker: "authorization"}
_OWN_HEADERS = {"connection", "content-length", "content-type", "transfer-encoding", "upgrade"}


class WorkerChecks(Checks):
    def run(self, worker: WorkerSection, path: KeyPath) -> None:
        """The worker whose table is at `path`."""
        self._at_most((*path, "answer_tokens"), (*path, "context_tokens"), equal=False)
        self._at_most((*path, "retry_base_ms"), (*path, "retry_max_ms"))
        self._at_most((*path, "breaker_open_ms"), (*path, "breaker_max_open_ms"))
        for key in WORKER_FILES:
            if getattr(worker, key, None) is not None and self._findings.sound((*path, key)):
                self._file((*path, key))
        if isinstance(worker, HttpWorker | GrpcWorker):
            self._authorities((*path, "ca_file"))
        if isinstance(worker, HttpWorker):
            self._url(worker, (*path, "base_url"))
            self._replicas(worker, (*path, "base_url"), usual=worker.usual_url)
            self._secret((*path, "api_key"))
            self._headers(worker, path)
            self._credentials(worker, path)
        elif isinstance(worker, GrpcWorker):
            self._target((*path, "target"))
            self._replicas(worker, (*path, "target"), usual=None)
            self._secret((*path, "api_key"))

    def _replicas(self, worker: HttpWorker | GrpcWorker, key: KeyPath, *, usual: str | None) -> None:
        """A pool has replicas, each once."""
        several = (*key[:-1], "replicas")
        seen: set[str] = set()
        for index, address in enumerate(worker.replicas):
            here = (*several, index)
            if isinstance(worker, HttpWorker):
                self._url(worker, here)
            else:
                self._target(here)
            if self._findings.sound(here):
                names = _names(address)
                if seen & names:
                    self._findings.add(here, shown(address, here), "each replica once")
                seen |= names
        if worker.replicas and (self._at(key) is not None or not self._findings.sound(key)):
            self._findings.add(several, f"both {key[-1]} and replicas", "one of the two")
        elif not worker.replicas and usual is None and self._at(key) is None and self._findings.sound(key, several):
            self._findings.add(key, "nothing", "an address (or replicas, for several): this worker has no replica")

    def _url(self, worker: HttpWorker, path: KeyPath) -> None:
        """An address as the worker wants it: it adds the paths of the API by itself."""
        self._address(path)
        address, added = self._at(path), _ADDED.get(type(worker))
        if address is None or added is None or not self._findings.sound(path):
            return
        found = added.search(address)
        if found is not None:
            expected = f"the address without {found[0].rstrip('/')}, which the worker adds"
            self._findings.add(path, shown(address, path), expected, shown(address[: found.start()], path))

    def _credentials(self, worker: HttpWorker, path: KeyPath) -> None:
        """The providers themselves answer nobody without."""
        header = _OWN_KEY.get(type(worker))
        here = (*path, "api_key")
        if header is None or worker.usual_url is None or worker.api_key is not None:
            return
        if not self._findings.sound(here, (*path, "base_url"), (*path, "replicas"), (*path, "headers")):
            return
        given = {name.lower() for name in worker.headers}
        usual = urlsplit(worker.usual_url).hostname
        if not given & {header, "authorization"} and any(urlsplit(url).hostname == usual for url in worker.urls):
            self._findings.add(here, "nothing", f"{FORMS}: {usual} answers nobody without a key")

    def _target(self, path: KeyPath) -> None:
        target = self._at(path)
        if target is None or target.startswith("unix:") or not self._findings.sound(path):
            return
        if not 0 < int(target.rpartition(":")[2]) < 1 << 16:
            self._findings.add(path, quote(target), "a port from 1 to 65,535")

    def _authorities(self, path: KeyPath) -> None:
        """Whom the worker trusts: a file without a certificate would fail every call."""
        if self._at(path) is None or not self._findings.sound(path):
            return
        file = self._folder / self._at(path)
        try:
            ssl.create_default_context(cafile=str(file))
        except (ssl.SSLError, ValueError):  # by then it could be read
            self._findings.add(path, f"{quote(str(file))}: a file without a certificate", "certificates in PEM")
        except OSError as error:
            self._findings.add(path, f"{quote(str(file))}: {_reason(error)}", "a file that can be read")

    def _file(self, path: KeyPath) -> None:
        """It can be read, it is not too large for its purpose, and a model file is one."""
        file = self._folder / self._at(path)
        limit = _LARGEST.get(str(path[-1]))
        try:
            with opened(file) as stream:
                size = os.fstat(stream.fileno()).st_size
                begins = stream.read(len(_GGUF)) if path[-1] == "gguf" else _GGUF
        except Unreadable as unreadable:
            self._findings.add(path, f"{quote(str(file))}: {unreadable.found}", unreadable.expected)
        except OSError as error:
            self._findings.add(path, f"{quote(str(file))}: {_reason(error)}", "a file that can be read")
        else:
            if limit is not None and size > limit:
                found = f"{quote(str(file))}: a file of {size:,} bytes"
                self._findings.add(path, found, f"a file of at most {limit:,} bytes")
            elif begins != _GGUF:
                self._findings.add(path, f"{quote(str(file))}: no GGUF file: it begins otherwise", "a model in GGUF")

    def _headers(self, worker: HttpWorker, path: KeyPath) -> None:
        own = _OWN_KEY.get(type(worker), "authorization")
        seen: set[str] = set() if worker.api_key is None else {own}
        for name, value in worker.headers.items():
            here = (*path, "headers", name)
            if not _HEADER_NAME.fullmatch(name):
                self._findings.add(here, "a name that no header can have", "letters, digits and - for the most part")
            elif name.lower() in _OWN_HEADERS:
                self._findings.add(here, "a header that the worker sets itself", "any other header")
            elif name.lower() in seen:
                self._findings.add(here, "the same header twice", f"each one once; api_key sets {own}")
            elif not value.isprintable():
                self._findings.add(here, "control characters in a value that is not shown", "one line of text")
            elif is_reference(value) and (wrong := fault(value)) is not None:
                self._findings.add(here, wrong.found, FORMS, wrong.hint)
            elif is_secret_header(name) and not is_reference(value):
                self._findings.add(here, "a value that is not shown, in the file itself", f"a reference: {FORMS}")
            elif looks_secret(value):
                found = "a value that looks like a secret and is not shown, in the file itself"
                self._findings.add(here, found, f"a reference for the whole of it: {FORMS}")
            seen.add(name.lower())


def _names(address: str) -> set[str]:
    """What is the same for two that are one replica: how it is called in metrics, and where it is, however written."""
    scheme, _, rest = address.rpartition("://")
    authority, slash, path = rest.rstrip("/").partition("/")
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname or "", parts.port
    except ValueError:  # unix:/path
        return {address}
    try:
        host = ip_address(host).compressed
    except ValueError:
        host = host.removesuffix(".")
    return {authority.lower() + slash + path, f"{host} {port or _PORTS.get(scheme.lower())}{slash}{path}"}


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
