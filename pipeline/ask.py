"""`headgate ask`: one question to a running daemon, its answer as it comes, and the passages it cites."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.markup import escape

from workers.sse import EventDecoder

EVENT_LIMIT = 16 * 1024 * 1024
CONNECT_SECONDS = 5.0
PREVIEW_CHARS = 160
_PERHAPS_TLS = "; if the server uses TLS, name it with --url https://…"
KEY_VARIABLE = "HEADGATE_API_KEY"  # not an option: those are shown to everybody who may list processes


class AskFailed(Exception):
    """The question got no answer, or not a whole one. The message says why and, where it helps, what to do."""


class Ask:
    """`base_url` is an OpenAI-compatible server's, with the version: http://127.0.0.1:8080/v1."""

    def __init__(self, base_url: str, console: Console, *, session_id: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._console = console
        self._headers = {"X-Session-Id": session_id} if session_id else {}
        if key := os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = f"Bearer {key}"
        self._citations: list[dict[str, Any]] = []
        self._text: list[str] = []

    async def run(self, question: str, route: str | None) -> None:
        """Prints the answer. Raises `AskFailed`; what came of the answer before that has been printed."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
                model = route or await self._first_route(session)
                await self._answer(session, model, question)
        except aiohttp.ClientConnectorCertificateError as error:
            hint = "name the file of its authority in SSL_CERT_FILE, and with --url the host that it is for"
            raise AskFailed(f"{self._base_url} shows no certificate that is trusted here: {hint}") from error
        except aiohttp.ClientConnectorSSLError as error:
            hint = "if it does not use TLS, name it with --url http://…"
            raise AskFailed(
                f"no TLS with {self._base_url} ({getattr(error.os_error, 'reason', error.os_error)}): {hint}"
            ) from error
        except aiohttp.ClientConnectorError as error:
            hint = "start it with `make run` or `headgate serve`, or name another with --url"
            raise AskFailed(f"nothing answers at {self._base_url}: {hint}") from error
        except aiohttp.InvalidURL as error:
            raise AskFailed(f"{self._base_url!r} is no address: expected http://HOST:PORT/v1") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if self._text:
                self._console.print()
            hint = "" if self._text or self._base_url.startswith("https:") else _PERHAPS_TLS
            raise AskFailed(f"the connection to {self._base_url} broke before the answer was complete{hint}") from error

    async def _first_route(self, session: aiohttp.ClientSession) -> str:
        async with session.get(f"{self._base_url}/models") as response:
            if response.status != 200:
                raise AskFailed(await _error_of(response))
            models = (await response.json()).get("data", [])
        if not models:
            raise AskFailed(f"{self._base_url} has no routes")
        return str(models[0]["id"])

    async def _answer(self, session: aiohttp.ClientSession, model: str, question: str) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True}
        async with session.post(f"{self._base_url}/chat/completions", json=body) as response:
            if response.status != 200:
                raise AskFailed(await _error_of(response))
            async for chunk in _chunks(response):
                self._show(chunk)
        self._console.print()
        self._sources()

    def _show(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self._console.print()
            raise AskFailed(str(chunk["error"].get("message", chunk["error"])))
        self._citations = chunk.get("citations") or self._citations
        for choice in chunk.get("choices", []):
            text = choice.get("delta", {}).get("content") or ""
            self._text.append(text)
            self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    def _sources(self) -> None:
        text = "".join(self._text)
        cited = [c for c in self._citations if f"[{c['index']}]" in text]
        if not cited:
            return
        self._console.print()
        for citation in cited:
            where = " · ".join(part for part in (citation["source"], citation["title"]) if part)
            self._console.print(
                f"[bold]\\[{citation['index']}][/bold] {escape(where)}", soft_wrap=True, highlight=False
            )
            preview = " ".join(citation["text"].split())
            shown = preview if len(preview) <= PREVIEW_CHARS else preview[:PREVIEW_CHARS].rsplit(" ", 1)[0] + " …"
            self._console.print(f"    [dim]{escape(shown)}[/dim]", soft_wrap=True, highlight=False)


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    decoder = EventDecoder(EVENT_LIMIT)
    async for data in response.content.iter_any():
        for event in decoder.feed(data):
            if event == b"[DONE]":
                return
            yield msgspec.json.decode(event)
    raise AskFailed("the answer broke off")


async def _error_of(response: aiohttp.ClientResponse) -> str:
    if response.status == 401:  # what the server says is for those who write headers
        sent = (
            f"the key in {KEY_VARIABLE} is not known there" if os.environ.get(KEY_VARIABLE) else "it wants an API key"
        )
        return f"{response.url.host} refused the request: {sent}; put one into the environment as {KEY_VARIABLE}"
    try:
        error = (await response.json(content_type=None))["error"]
        if response.status == 404 and error.get("code") == "unknown_url":
            hint = "expected an OpenAI-compatible server with the version, http://HOST:PORT/v1"
            return f"there is nothing at {response.url}: {hint}"
        return str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the server answered {response.status} {response.reason}"


def run(question: str, base_url: str, *, route: str | None, session_id: str | None) -> None:
    """Asks and prints. Raises `AskFailed`."""
    asyncio.run(Ask(base_url, Console(), session_id=session_id).run(question, route))
