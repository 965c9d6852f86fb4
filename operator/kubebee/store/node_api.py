"""The few requests that a node's loader makes of the API server.

It lists and watches its own BpfNode, reads bundles, and writes its BpfNode's status. Nothing else.
"""

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
from kubebee.api.v1alpha1.common import GROUP, VERSION
from kubebee.errors import KubebeeError
from kubebee.planner import wire
from kubebee.store.api_access import ApiAccess
from kubebee.store.node_plan import ApiStatus, BundleMap, NodeList, NodeObject, WatchEvent

FIELD_MANAGER = "kubebee-loader"
REQUEST_SECONDS = 10.0
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 90.0
"""A watch with bookmarks says something once a minute; one that says nothing for longer is made anew."""
WATCH_SECONDS = (240, 360)
"""How long the server shall keep up a watch: not the same for all, so that they don't all end at once."""
MAX_LINE = 16 << 20

_NODES = f"/apis/{GROUP}/{VERSION}/bpfnodes"
_STATUS = msgspec.json.Decoder(ApiStatus)
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


class NodeApi:
    """A node's view of the API server; a context manager that holds its connections.

    Attributes:
        answered: told of each request by its verb and the answer's status, "0" for none.

    Args:
        access: server and credentials.
        node: name of the node, which is its BpfNode's.
        namespace: where bundles are.
    """

    def __init__(self, access: ApiAccess, node: str, namespace: str) -> None:
        self._access = access
        self._node = node
        self._namespace = namespace
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

    async def node(self) -> tuple[NodeObject | None, str]:
        """The node's BpfNode, None if there is none, and the version from which to watch.

        Raises:
            ApiError: it can't be read.
        """
        found = _decoded(await self._read("list", _NODES, self._only_ours()), NodeList)
        return next(iter(found.items), None), found.metadata.resource_version

    async def watch(self, version: str) -> AsyncGenerator[tuple[str, NodeObject | None], None]:
        """Follow the BpfNode from `version` on, until the server ends it.

        Yields:
            First, once the server has agreed, and at each bookmark: (version, None) without news. Then
            ("", None) when it was deleted, else its version and the object.

        Raises:
            GoneError: that version is too old.
            ApiError: the connection was lost, or the server refuses.
        """
        params = self._only_ours() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_random.randint(*WATCH_SECONDS)),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        async with contextlib.AsyncExitStack() as stack:
            opening = self._request("watch", "GET", _NODES, params=params, timeout=timeout)
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    response = await stack.enter_async_context(opening)
            except TimeoutError as error:
                raise self._unreachable("no answer to a watch") from error
            yield version, None
            async for line in self._lines(response):
                if line:
                    yield _news(line)

    async def bundle(self, config_map: str) -> tuple[str, bytes]:
        """Key and bytes of a bundle, as `planner.wire` takes them.

        Raises:
            ApiError: it can't be read; BundleMissing: it is not there, or has no bundle in it.
        """
        where = f"ConfigMap {self._namespace}/{config_map}"
        try:
            raw = await self._read("get", f"/api/v1/namespaces/{self._namespace}/configmaps/{config_map}")
        except ApiError as error:
            if error.status == 404:
                raise _missing("is not there", where) from error
            raise
        found = _decoded(raw, BundleMap)
        if wire.PACKED in found.binary_data:
            return wire.PACKED, found.binary_data[wire.PACKED]
        if wire.PLAIN in found.data:
            return wire.PLAIN, found.data[wire.PLAIN].encode()
        raise _missing("has no bundle in it", where)

    async def write_status(self, uid: str, status: Mapping[str, object]) -> None:
        """Make `status` the status of the BpfNode, unless it was made anew since.

        A JSON patch, for it can test the uid: server-side apply and merge patches ignore one on the status of
        a custom resource, and would give the state of a deleted object to its successor.

        Raises:
            ApiError: it was not written; with status 422 where the uid is another or the schema refuses.
        """
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        path, params = f"{_NODES}/{self._node}/status", {"fieldManager": FIELD_MANAGER}
        await self._read("patch", path, params, msgspec.json.encode(patch))

    def _only_ours(self) -> dict[str, str]:
        return {"fieldSelector": f"metadata.name={self._node}"}

    async def _read(
        self, verb: str, path: str, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        method = "GET" if body is None else "PATCH"
        async with self._request(verb, method, path, params=params or {}, data=body) as response:
            return await response.read()

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


def _news(line: bytes) -> tuple[str, NodeObject | None]:
    event = _decoded(line, WatchEvent)
    if event.type == "ERROR":
        status = _decoded(bytes(event.object), ApiStatus)
        kind = GoneError if status.code == 410 else ApiError
        raise kind(f"the watch ended: {status.message}", status=status.code)
    found = _decoded(bytes(event.object), NodeObject)
    if event.type == "DELETED":
        return "", None
    return found.metadata.resource_version, None if event.type == "BOOKMARK" else found


def _decoded(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(
            f"an answer of the API server can't be understood: {error}",
            reason="InvalidAnswer",
            where=kind.__name__,
            hint="bring CustomResourceDefinitions, controller and loader to one version",
        ) from error


def _missing(what: str, where: str) -> ApiError:
    hint = "the controller makes it; see its log"
    return ApiError(f"the bundle's ConfigMap {what}", reason="BundleMissing", where=where, hint=hint)


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
