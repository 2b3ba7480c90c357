"""How a call of the admin API can fail.

AdminError
├── BadCall           the call itself is at fault (400)
├── Unauthorized      no token, or a wrong one (401)
├── Forbidden         it comes by way of a web page (403)
├── NotThere          no such path, worker or route (404); the message says what there is
├── WrongMethod       the path takes others (405)
├── Conflict          as things stand, this cannot be done (409)
├── NotJson           the body calls itself something else (415)
├── Refused           a configuration could not be like that (422); `problems` says why
└── Unserved          HTTP as it should not be (400, 408, 413, 415, 417), or a fault of ours (500)
"""

from collections.abc import Mapping, Sequence

from config.errors import Problem
from pipeline.core.errors import HeadgateError


class AdminError(Exception):
    """`param` names the key, header or query at fault; `headers` go with the answer."""

    status = 500
    headers: Mapping[str, str] = {}
    problems: Sequence[Problem] = ()

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class BadCall(AdminError):
    status = 400


class Unauthorized(AdminError):
    status = 401

    def __init__(self, message: str) -> None:
        super().__init__("invalid_token", message, param="Authorization")
        self.headers = {"WWW-Authenticate": 'Bearer realm="headgate admin"'}


class Forbidden(AdminError):
    status = 403


class NotThere(AdminError):
    status = 404


class WrongMethod(AdminError):
    status = 405

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__("method_not_allowed", f"{method[:20]!r} is not possible here: {', '.join(allowed)}")
        self.headers = {"Allow": ", ".join(allowed)}


class Conflict(AdminError):
    status = 409


class NotJson(AdminError):
    status = 415


class Refused(AdminError):
    status = 422

    def __init__(self, problems: Sequence[Problem]) -> None:
        several = "" if len(problems) == 1 else f" (and {len(problems) - 1} more)"
        first = problems[0]
        text = f"{first.path}: found {first.found}, expected {first.expected}{several}"
        super().__init__("invalid_configuration", text, param=first.path)
        self.problems = problems


class Unserved(AdminError):
    def __init__(self, error: HeadgateError) -> None:
        super().__init__(error.code, error.message, param=error.param)
        self.status = error.status
