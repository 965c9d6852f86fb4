"""Requests from a namespace, and what its interfaces counted."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass

from lab.netns import Namespace

_TIMEOUT_S = 1.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: kubebee\r\n\r\n"


def tcp_connect(
    source: Namespace, address: str, port: int, *, source_port: int = 0, timeout: float = _TIMEOUT_S
) -> socket.socket:
    """A TCP connection from `source`; raises OSError (TimeoutError when nothing answers)."""
    sock = source.socket()
    try:
        sock.settimeout(timeout)
        if source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", source_port))
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def http_ask(connection: socket.socket) -> str:
    """One HTTP request on an open connection; returns the body's text."""
    connection.sendall(_REQUEST)
    answer = b""
    while not answer.endswith(b"\n") or answer.endswith(
        b"\r\n"
    ):  # the body is one line, the head ends in CR LF
        part = connection.recv(4096)
        if not part:
            raise ConnectionResetError("the backend closed the connection within its answer")
        answer += part
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip()


def http_get(source: Namespace, address: str, port: int = 80, *, timeout: float = _TIMEOUT_S) -> str:
    """One request on a connection of its own; returns the name of the backend that answered."""
    with tcp_connect(source, address, port, timeout=timeout) as connection:
        return http_ask(connection)


def udp_ask(source: Namespace, address: str, port: int, *, timeout: float = _TIMEOUT_S) -> str:
    """One datagram and its answer, from the address it was sent to; returns the backend's name."""
    with source.socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))  # an answer from elsewhere is not taken
        sock.send(b"who")
        return sock.recv(2048).decode()


def is_denied(source: Namespace, address: str, port: int, *, timeout: float = 0.3) -> bool:
    """Whether a TCP connection gets no answer at all: dropped, neither accepted nor refused."""
    try:
        tcp_connect(source, address, port, timeout=timeout).close()
    except TimeoutError:
        return True
    except ConnectionRefusedError:
        return False
    return False


@dataclass(frozen=True)
class InterfaceCounters:
    """Packets and bytes of an interface since it exists."""

    rx_packets: int
    rx_bytes: int
    rx_dropped: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int


def interface_counters(namespace: Namespace, interface: str) -> InterfaceCounters:
    """What the kernel counted on an interface."""
    (link,) = json.loads(namespace.ip("-json", "-stats", "link", "show", "dev", interface))
    received, sent = link["stats64"]["rx"], link["stats64"]["tx"]
    return InterfaceCounters(
        rx_packets=received["packets"],
        rx_bytes=received["bytes"],
        rx_dropped=received["dropped"],
        tx_packets=sent["packets"],
        tx_bytes=sent["bytes"],
        tx_dropped=sent["dropped"],
    )
