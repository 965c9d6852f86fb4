"""HTTP to the API server: connections, requests, lines of watches, and what can go wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from random import SystemRandom
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from kubebee import __version__
from kubebee.errors import KubebeeError
from kubebee.store.api_access import ApiAccess

REQUEST_SECONDS = 10.0
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 90.0
"""A watch with bookmarks says something once a minute; one that says nothing for longer is made anew."""
WATCH_SECONDS = (240, 360)
"""How long the server shall keep up a watch: not the same for all, so that they don't all end at once."""
MAX_LINE = 16 << 20

_random = SystemRandom()
_T = TypeVar("_T")


class ApiError(KubebeeError):
    """The API server did not do what it was asked for.

    Attributes:
        status: of HTTP; 0 if there was no answer.
        retry_after: seconds that the server asks to be left alone.
    """

    reason = "ApiUnavailable"
    may_pass = True

    def __init__(
        self, message: str, *, reason: str = "", where: str = "", hint: str = "", status: int = 0
    ) -> None:
        super().__init__(message, reason=reason, where=where, hint=hint)
        self.status = status
        self.retry_after = 0.0


class GoneError(ApiError):
    """The server does not have that far a past any more: list again."""


class ApiStatus(msgspec.Struct, frozen=True):
    """Why the API server refused something (meta/v1 Status)."""

    message: str = ""
    reason: str = ""
    code: int = 0


_STATUS = msgspec.json.Decoder(ApiStatus)


class ApiClient:
    """A loader's connections to the API server; a context manager that holds them.

    Attributes:
        answered: told of each request by its verb and the answer's status, "0" for none.

    Args:
        access: server and credentials.
    """

    def __init__(self, access: ApiAccess) -> None:
        self._access = access
        self.answered: Callable[[str, str], None] = lambda _verb, _status: None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(socket_factory=_socket, limit=16)
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        agent = {"User-Agent": f"kubebee-loader/{__version__}", "Accept": "application/json"}
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=agent)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def read(
        self, verb: str, path: str, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        """The whole answer to a GET, or to a JSON patch where there is a body.

        Raises:
            ApiError: there is none, or it is an error; GoneError for 410.
        """
        method = "GET" if body is None else "PATCH"
        async with self._request(verb, method, path, params=params or {}, data=body) as response:
            return await response.read()

    async def watch(self, path: str, params: Mapping[str, str], version: str) -> AsyncGenerator[bytes]:
        """Lines of a watch from `version` on, until the server ends it or is silent for too long.

        Yields:
            b"" once the server has agreed, then one line an event.

        Raises:
            GoneError: that version is too old.
            ApiError: the connection was lost, or the server refuses.
        """
        params = {
            **params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_random.randint(*WATCH_SECONDS)),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        async with contextlib.AsyncExitStack() as stack:
            opening = self._request("watch", "GET", path, params=params, timeout=timeout)
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    response = await stack.enter_async_context(opening)
            except TimeoutError as error:
                raise self._unreachable("no answer to a watch") from error
            yield b""
            async for line in self._lines(response):
                if line:
                    yield line

    @contextlib.asynccontextmanager
    async def _request(
        self, verb: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that is no error; what goes wrong while it is read is an ApiError as well."""
        assert self._session is not None
        headers = self._access.headers()
        if method == "PATCH":
            headers["Content-Type"] = "application/json-patch+json"
        url, tls, heard = self._access.server + path, self._access.tls(), False
        try:
            async with self._session.request(
                method, url, headers=headers, ssl=tls, allow_redirects=False, **more
            ) as response:
                heard = True
                self.answered(verb, str(response.status))
                if response.status >= 300:
                    raise await self._refused(verb, response)
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            why = f"its certificate is not the one expected: {error.certificate_error}"
            raise self._unreachable(why, "name it by a host that its certificate is for") from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise self._unreachable(str(error) or type(error).__name__) from error
        finally:
            if not heard:
                self.answered(verb, "0")

    async def _refused(self, verb: str, response: aiohttp.ClientResponse) -> ApiError:
        said = (await response.content.read(4096)).decode(errors="replace")
        with contextlib.suppress(msgspec.DecodeError):
            said = _STATUS.decode(said).message or said
        text = f"it answers {verb} with {response.status}: {said.strip()[:500]}"
        if response.status == 410:
            return GoneError(text, where=self._access.server, status=410)
        asked_wrongly = response.status < 500 and response.status != 429
        forbidden = response.status in (401, 403)
        error = ApiError(
            text,
            reason="ApiRefused" if asked_wrongly else "ApiUnavailable",
            where=self._access.server,
            hint="check the role of the loader's service account, and admission policies"
            if forbidden
            else "",
            status=response.status,
        )
        with contextlib.suppress(ValueError):
            error.retry_after = float(response.headers.get("Retry-After", "0"))
        return error

    def _unreachable(self, why: str, hint: str = "") -> ApiError:
        hint = hint or "what runs goes on; it is tried again"
        return ApiError(f"the API server can't be reached: {why}", where=self._access.server, hint=hint)

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Lines of any length up to a bound: an object with a long status is one line."""
        parts: list[bytes] = []
        with contextlib.suppress(aiohttp.SocketTimeoutError):  # silent for too long: the next watch will tell
            async for chunk in response.content.iter_any():
                first, *more = chunk.split(b"\n")
                parts.append(first)
                for last in more:
                    yield b"".join(parts)
                    parts = [last]
                if sum(map(len, parts)) > MAX_LINE:
                    raise self._unreachable(f"a line of a watch has more than {MAX_LINE >> 20} MiB")


def decoded(raw: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    """An answer as a value.

    Raises:
        ApiError: it is not of this kind.
    """
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ApiError(
            f"an answer of the API server can't be understood: {error}",
            reason="InvalidAnswer",
            where=getattr(decoder.type, "__name__", str(decoder.type)),
            hint="bring CustomResourceDefinitions, controller and loader to one version",
        ) from error


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices within 30 s that nobody is there any more, though nothing is sent."""
    made = socket.socket(address[0], address[1], address[2])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
    return made
