"""HTTP for kubelets and Prometheus: /healthz, /readyz and /metrics, on the loader's own event loop.

That /healthz is answered at all says that the loop goes round; a datapath that runs needs no more than that,
so being away from the API server is no reason to be restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from kubebee.errors import KubebeeError


@contextlib.asynccontextmanager
async def serve(
    address: str | None, port: int, registry: CollectorRegistry, not_ready: Callable[[], str]
) -> AsyncIterator[None]:
    """Serve within this block.

    Args:
        address: to listen on, None for all.
        port: TCP port.
        registry: what /metrics shows; it is collected in a thread, as collectors wait for the loop.
        not_ready: why /readyz shall fail; empty when all is well.

    Raises:
        KubebeeError: the address can't be listened on.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = not_ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    application = web.Application()
    application.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            raise KubebeeError(
                f"health and metrics can't be served: {error.strerror or error}",
                reason="MetricsAddress",
                where=f"{address or '*'}:{port}",
                hint="choose another --metrics-port or --metrics-address",
            ) from error
        yield
    finally:
        await runner.cleanup()
