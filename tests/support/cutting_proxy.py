"""Stands between a controller and its API server, and ends the controller at a write of the test's choice.

Once so many writes have been answered by the API server, the next answer is held back, every connection is
cut, and the process is killed: it has written and does not know it. What it sends on other connections
meanwhile never arrives.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml
from aiohttp import web

_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = ("transfer-encoding", "content-length", "connection", "content-encoding")


class CuttingProxy:
    """Serves plain HTTP on 127.0.0.1 for one controller at a time.

    Args:
        server: URL of the API server.
        tls: the administrator's credentials.

    Attributes:
        writes: what was written since `allow`, such as ``PATCH bpfprograms/p0/status``; the Lease left out.
    """

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._server, self._tls = server, tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._allowed: int | None = None
        self._kill: Callable[[], None] = lambda: None
        self._cut = False
        self.writes: list[str] = []
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this proxy, which asks for no credentials."""
        content = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def allow(self, writes: int | None, kill: Callable[[], None] = lambda: None) -> None:
        """Let so many writes be answered from now on, None: all; `kill` ends the process at the next one."""

        async def begin() -> None:
            self._allowed, self._kill, self._cut = writes, kill, False
            self.writes = []

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(10)

    # -- in the loop -----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(
            self._server, connector=connector, timeout=timeout, auto_decompress=False
        )
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # of connections that were cut
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if self._cut:
            return self._drop(request)
        counted = request.method in _WRITES and "/leases" not in request.path
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length")}
        body = await request.read()
        async with self._session.request(
            request.method, request.rel_url, headers=headers, data=body or None
        ) as upstream:
            if self._cut:
                return self._drop(request)
            if counted and upstream.status < 300:
                self.writes.append(f"{request.method} {_short(request.path)}")
                if self._allowed is not None and len(self.writes) > self._allowed:
                    self._cut = True
                    self._kill()
                    return self._drop(request)
            response = web.StreamResponse(
                status=upstream.status,
                headers={k: v for k, v in upstream.headers.items() if k.lower() not in _HOP},
            )
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                if self._cut:
                    return self._drop(request)
                await response.write(chunk)
            await response.write_eof()
            return response

    @staticmethod
    def _drop(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)


def _short(path: str) -> str:
    """``bpfprograms/p0/status`` of a whole path."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    return "/".join(parts[2:] if parts[0] == "namespaces" and len(parts) > 2 else parts)
