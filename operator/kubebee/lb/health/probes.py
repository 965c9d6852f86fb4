"""Tries a server once, by real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
import struct
from collections.abc import Iterator

from kubebee.lb.health.check import Probe, Target
from kubebee.lb.model import format_address

_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h; the socket module has no names for them
_HEAD_BYTES = 4096
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close by a reset, which leaves no TIME_WAIT behind for every check."""


async def probe(target: Target) -> str:
    """Why the server fails its check; "" = it passes. Takes no longer than the timeout."""
    udp = target.check.probe is Probe.UDP
    try:
        async with asyncio.timeout(target.check.timeout):
            return await (_udp(target) if udp else _stream(target))
    except TimeoutError:
        # Whoever sends a datagram back is up, and whoever is silent may be.
        return "" if udp else f"no answer within {target.check.timeout:g} s"
    except ssl.SSLError as error:
        return f"TLS: {error.reason or error}"
    except OSError as error:
        return _text(error)
    except asyncio.IncompleteReadError as error:
        return "its answer is no HTTP" if error.partial else "it closed the connection without an answer"
    except (ValueError, asyncio.LimitOverrunError):
        return "its answer is no HTTP"


def _text(error: OSError) -> str:
    number = error.errno
    return os.strerror(number).lower() if number in errno.errorcode and number else str(error)


@contextlib.contextmanager
def _socket(target: Target, kind: socket.SocketKind) -> Iterator[socket.socket]:
    family = socket.AF_INET if len(target.address) == 4 else socket.AF_INET6
    with socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as made:
        yield made


async def _connect(opened: socket.socket, target: Target) -> None:
    address = (format_address(target.address), target.port)
    await asyncio.get_running_loop().sock_connect(opened, address)


async def _stream(target: Target) -> str:
    with _socket(target, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        await _connect(opened, target)
        if target.check.probe is Probe.TCP:
            return ""
        return await _http(opened, target)


async def _http(opened: socket.socket, target: Target) -> str:
    context = _any_certificate() if target.check.probe is Probe.HTTPS else None
    host = format_address(target.address)
    reader, writer = await asyncio.open_connection(
        sock=opened.dup(), ssl=context, server_hostname=host if context else None, limit=_HEAD_BYTES
    )
    try:
        named = f"[{host}]" if ":" in host else host
        writer.write(
            f"GET {target.check.path} HTTP/1.1\r\nHost: {named}:{target.port}\r\n"
            "User-Agent: kubebee-check\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        status = _status_of(await reader.readuntil(b"\n"))
        return "" if 200 <= status < 400 else f"HTTP status {status}"
    finally:
        writer.transport.abort()


def _status_of(line: bytes) -> int:
    """Of the first line of an answer.

    Raises:
        ValueError: it is none.
    """
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or len(words[1]) != 3:
        raise ValueError("no status line")
    return int(words[1])


@functools.cache
def _any_certificate() -> ssl.SSLContext:
    """Checks ask whether a server answers, as kubelet's do, not who it is: they send it nothing secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _udp(target: Target) -> str:
    with _socket(target, socket.SOCK_DGRAM) as opened:
        # Else only refused ports are told, not hosts and networks that can't be reached.
        if len(target.address) == 4:
            opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        loop = asyncio.get_running_loop()
        await _connect(opened, target)
        await loop.sock_sendall(opened, b"\0")
        await loop.sock_recv(opened, 1)
    return ""
