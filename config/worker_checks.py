"""Checks of a worker's table: its replicas, its files, its headers, and limits that contradict each other."""

import re
import ssl

from config.checks import Checks
from config.paths import KeyPath, quote
from config.schema import WORKER_FILES, AnthropicWorker, GrpcWorker, HttpWorker, WorkerSection
from config.secrets import FORMS, fault, is_reference, is_secret_header
from config.shape import shown

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2
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
            self._address((*path, "base_url"))
            self._replicas(worker, worker.base_url, (*path, "base_url"), usual=worker.usual_url)
            self._secret((*path, "api_key"))
            self._headers(worker, path)
        elif isinstance(worker, GrpcWorker):
            self._target((*path, "target"))
            self._replicas(worker, worker.target, (*path, "target"), usual=None)
            self._secret((*path, "api_key"))

    def _replicas(self, worker: HttpWorker | GrpcWorker, one: str | None, key: KeyPath, *, usual: str | None) -> None:
        """A pool has replicas, each once."""
        several = (*key[:-1], "replicas")
        if not self._findings.sound(key, several):
            return
        if one is not None and worker.replicas:
            self._findings.add(several, f"both {key[-1]} and replicas", "one of the two")
        elif one is None and not worker.replicas and usual is None:
            self._findings.add(key, "nothing", "an address (or replicas, for several): this worker has no replica")
        seen: dict[str, int] = {}
        for index, address in enumerate(worker.replicas):
            here = (*several, index)
            if isinstance(worker, HttpWorker):
                self._address(here)
            else:
                self._target(here)
            # As it is called in metrics: those of one name would be counted as one.
            host, slash, rest = address.rpartition("://")[2].rstrip("/").partition("/")
            if seen.setdefault(host.lower() + slash + rest, index) != index and self._findings.sound(here):
                self._findings.add(here, shown(address, here), "each replica once")

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
        file = self._folder / self._at(path)
        try:
            with file.open("rb"):
                return
        except OSError as error:
            self._findings.add(path, f"{quote(str(file))}: {_reason(error)}", "a file that can be read")

    def _headers(self, worker: HttpWorker, path: KeyPath) -> None:
        own = "x-api-key" if isinstance(worker, AnthropicWorker) else "authorization"
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
            seen.add(name.lower())


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
