"""A name server that answers every question with one address: ``dns_server.py ADDRESS``."""

from __future__ import annotations

import socket
import sys
import threading

_ANSWERED = b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
"""RFC 1035: a response without an error, one question, one answer."""
_RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04"
"""Of the name asked for: A, IN, 5 s, 4 bytes."""
_HEADER = 12


def question(query: bytes) -> bytes:
    """The first question of a query, as it stands there."""
    end = query.index(b"\0", _HEADER) + 5
    return query[_HEADER:end]


def serve(address: str) -> None:
    """Answer queries on port 53."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 53))  # noqa: S104 (a namespace of its own)
    print("ready", flush=True)
    while True:
        query, client = sock.recvfrom(512)
        answer = query[:2] + _ANSWERED + question(query) + _RECORD + socket.inet_aton(address)
        sock.sendto(answer, client)


if __name__ == "__main__":
    threading.Thread(target=serve, args=sys.argv[1:2], daemon=True).start()
    sys.stdin.buffer.read()  # ends with who started it
