"""What is tried of a backend, and how often."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kubebee.lb.model import Backend, endpoint_text


class Probe(StrEnum):
    """Ways to try a server; each passes within the check's timeout or fails."""

    TCP = "TCP"
    """A connection is accepted."""
    HTTP = "HTTP"
    """GET is answered by a status from 200 to 399."""
    HTTPS = "HTTPS"
    """The same by TLS; whose certificate it is does not matter."""
    UDP = "UDP"
    """A datagram is not refused."""


class Check(NamedTuple):
    """How the backends of a frontend are tried.

    Attributes:
        port: to try; 0 = that of the backend.
        path: of HTTP.
        interval, timeout: seconds.
        failures, successes: results in a row that take a backend out, and back in.
    """

    probe: Probe
    port: int = 0
    path: str = "/"
    interval: float = 5.0
    timeout: float = 2.0
    failures: int = 3
    successes: int = 2


class Target(NamedTuple):
    """A server to try. Backends of any number of frontends may be one target."""

    address: bytes
    port: int
    check: Check

    @classmethod
    def of(cls, backend: Backend, check: Check) -> Target:
        """What is tried to know of a backend."""
        return cls(backend.address, check.port or backend.port, check._replace(port=0))

    def __str__(self) -> str:
        return f"{self.check.probe} {endpoint_text(self.address, self.port)}"
