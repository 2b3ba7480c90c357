"""The connection to one gRPC replica: made when it is needed, shared by all calls, forgotten when that failed."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from grpc import ChannelConnectivity, aio, ssl_channel_credentials

from workers.errors import WorkerError, WorkerErrorKind
from workers.grpc_wire import MAX_MESSAGE

_KEEPALIVE = 30_000  # milliseconds without a sign of life, during calls, until one is asked for
_KEEPALIVE_TIMEOUT = 10_000
_WINDOW = 64 << 10  # bytes of one answer that are read ahead


class _Link:
    """A channel with the calls that use it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.calls = 0
        self.given_up = False


class Connection:
    """`open` gives the channel for one call. gRPC itself would wait longer and longer between attempts to connect; here
    a failed one is forgotten, so that the next call tries at once: when to leave a replica alone is the pool's
    business."""

    def __init__(self, target: str, *, tls: bool, ca_file: str | None, connect_timeout: float) -> None:
        self._target = target
        self._tls = tls
        self._ca_file = ca_file
        self._timeout = connect_timeout
        self._link: _Link | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """A channel on which a call can be begun, or will fail at once. Raises `WorkerError`."""
        if self._closed:
            raise WorkerError(WorkerErrorKind.UNREACHABLE, "the worker is closed")
        if self._link is None:
            self._link = _Link(self._channel())
        link = self._link
        link.calls += 1
        try:
            await self._settle(link)
            yield link.channel
        finally:
            link.calls -= 1
            if link.given_up and not link.calls:
                await link.channel.close()

    async def aclose(self) -> None:
        """Ends what is under way."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            await link.channel.close()

    async def _settle(self, link: _Link) -> None:
        """Until it is connected, or cannot be."""
        state = link.channel.get_state(try_to_connect=True)
        if state is ChannelConnectivity.READY:
            return
        try:
            async with asyncio.timeout(self._timeout):
                while state not in _SETTLED:
                    await link.channel.wait_for_state_change(state)
                    state = link.channel.get_state(try_to_connect=True)
        except TimeoutError:
            self._give_up(link)
            raise WorkerError(
                WorkerErrorKind.UNREACHABLE, "cannot connect to the backend: timed out", retryable=True
            ) from None
        except aio.UsageError:  # closed meanwhile
            raise WorkerError(WorkerErrorKind.UNREACHABLE, "the worker is closed") from None
        if state is not ChannelConnectivity.READY:
            self._give_up(link)

    def _give_up(self, link: _Link) -> None:
        link.given_up = True
        if self._link is link:
            self._link = None

    def _channel(self) -> Any:
        milliseconds = int(self._timeout * 1000)
        options = [
            *_OPTIONS,
            ("grpc.min_reconnect_backoff_ms", milliseconds),  # how long an attempt may take
            ("grpc.dns_ares_query_timeout", milliseconds),
        ]
        if not self._tls:
            return aio.insecure_channel(self._target, options=options)
        return aio.secure_channel(self._target, ssl_channel_credentials(_authorities(self._ca_file)), options=options)


_SETTLED = (ChannelConnectivity.READY, ChannelConnectivity.TRANSIENT_FAILURE, ChannelConnectivity.SHUTDOWN)
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", _KEEPALIVE),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT),
    ("grpc.http2.lookahead_bytes", _WINDOW),
    ("grpc.http2.bdp_probe", 0),  # else the window grows to megabytes
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),  # retries are the pool's business
    ("grpc.use_local_subchannel_pool", 1),  # no waiting time is shared with a channel that was given up
    ("grpc.primary_user_agent", "headgate"),
]


def _authorities(ca_file: str | None) -> bytes | None:
    """PEM of who is trusted: gRPC has a list of its own, which is not the machine's. None where that has none either.

    Raises `WorkerError`.
    """
    ca_file = ca_file or ssl.get_default_verify_paths().cafile
    if not ca_file:
        return None
    try:
        ssl.create_default_context(cafile=ca_file)  # gRPC says nothing about a file that it cannot use
        return Path(ca_file).read_bytes()
    except OSError as error:
        raise WorkerError(WorkerErrorKind.UNREACHABLE, "cannot call the backend: its ca_file cannot be used") from error
