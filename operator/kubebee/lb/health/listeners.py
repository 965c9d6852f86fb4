"""TCP ports that are listened on while they are wanted, on all addresses of the node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Set
from http import HTTPStatus

from kubebee.lb.health.answers import Answer

log = logging.getLogger("kubebee")
RETRY_SECONDS = 5.0
REQUEST_SECONDS = 5.0
"""A client that has not asked by then is left."""
REQUEST_BYTES = 8192
AT_ONCE = 256
"""Clients of all ports together; more than these are turned away, as file descriptors are few."""

_BAD = Answer(HTTPStatus.BAD_REQUEST, {"error": "no GET or HEAD of HTTP/1"})


class Listeners:
    """Answers HTTP on ports that come and go. Its methods are for the thread of a running loop.

    Args:
        answer: for a port and path.
    """

    def __init__(self, answer: Callable[[int, str], Answer]) -> None:
        self._answer = answer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._refused: dict[int, str] = {}
        self._said: set[int] = set()
        self._clients = 0

    def want(self, ports: Set[int]) -> None:
        """Listen on exactly these ports; what can't be had is tried again by `run`."""
        for gone in self._tasks.keys() - ports:
            self._tasks.pop(gone).cancel()
        self._said &= ports
        self._refused = {port: why for port, why in self._refused.items() if port in ports}
        for port in sorted(ports - self._tasks.keys() - self._refused.keys()):
            self._open(port)

    def holds(self, port: int) -> bool:
        """Whether it is listened on here."""
        return port in self._tasks

    def news(self) -> dict[int, str]:
        """Ports that can't be had, and why, each once until it is had."""
        fresh = {port: why for port, why in self._refused.items() if port not in self._said}
        self._said |= fresh.keys()
        return fresh

    async def run(self) -> None:
        """Try refused ports again until cancelled, and then stop listening."""
        try:
            while True:
                await asyncio.sleep(RETRY_SECONDS)
                for port in sorted(self._refused):
                    self._open(port)
        finally:
            self.want(frozenset())

    def _open(self, port: int) -> None:
        try:
            opened = _listening(port)
        except OSError as error:
            self._refused[port] = os.strerror(error.errno) if error.errno else str(error)
            return
        if self._refused.pop(port, None) is not None:
            log.info("port %d is free now and answers", port)
        self._said.discard(port)
        self._tasks[port] = asyncio.create_task(self._serve(port, opened))

    async def _serve(self, port: int, opened: socket.socket) -> None:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._client(port, reader, writer)

        with opened:
            server = await asyncio.start_server(client, sock=opened, limit=REQUEST_BYTES)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _client(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= AT_ONCE:
            writer.transport.abort()
            return
        self._clients += 1
        try:
            with contextlib.suppress(
                TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                async with asyncio.timeout(REQUEST_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answered(port, head))
                    await writer.drain()
        finally:
            self._clients -= 1
            writer.close()

    def _answered(self, port: int, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD") or not words[2].startswith(b"HTTP/1."):
            return _BAD.encoded()
        path = words[1].partition(b"?")[0].decode("ascii", "replace")
        return self._answer(port, path).encoded(body=words[0] == b"GET")


def _listening(port: int) -> socket.socket:
    """A socket for both families where the kernel has both.

    Raises:
        OSError: somebody else has the port.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    opened = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=both)
    opened.setblocking(False)
    return opened
