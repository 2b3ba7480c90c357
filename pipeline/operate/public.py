"""Where the daemon of a configuration takes prompts."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from config.load import load
from pipeline.operate.client import Daemon, OperateFailed, data_folder
from pipeline.process.admin_types import DaemonStatus

_WITHIN_S = 2.0  # for a supervisor that answers at all
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to ask, not to bind


def public_url(config_file: Path | None) -> str:
    """`http://127.0.0.1:8080`. What the daemon says that runs in the configured data folder: it may have begun with
    another port than the file names now. Where none says so, as configured. Raises ConfigError."""
    return _reachable(asyncio.run(_said(data_folder(config_file))) or _configured(config_file))


async def _said(folder: Path) -> str:
    """Empty where nobody may be asked: none runs, or as another user."""
    try:
        async with Daemon(folder) as daemon:
            return msgspec.json.decode(await daemon.get("/status", _WITHIN_S), type=DaemonStatus).address
    except (OperateFailed, msgspec.DecodeError):
        return ""


def _configured(config_file: Path | None) -> str:
    server = load(config_file).config.server
    scheme = "http" if server.tls_certificate is None else "https"
    return f"{scheme}://{_bracketed(server.host)}:{server.port}"


def _reachable(address: str) -> str:
    parts = urlsplit(address)
    host = parts.hostname or ""
    return f"{parts.scheme}://{_bracketed(_ANY.get(host, host))}:{parts.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
