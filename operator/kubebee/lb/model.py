"""What the load balancer shall do, as plain values: frontends, their backends, and the node's settings.

Addresses are IPv4 as host-order integers and ports are plain integers: at 100,000 backends an
`ipaddress.IPv4Address` each would cost more memory than the maps themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address
from typing import NamedTuple

from kubebee.errors import KubebeeError

MAX_WEIGHT = 1000
MAX_BACKENDS = 4096
"""Per frontend: above it a slot table of bounded size would no longer divide fairly."""


class LbModelError(KubebeeError):
    """A frontend or setting that no datapath could serve; `where` names the frontend."""

    reason = "InvalidFrontend"


class DuplicateFrontendError(LbModelError):
    """Two frontends claim one address, port and protocol."""

    reason = "DuplicateFrontend"


class Protocol(IntEnum):
    """IP protocol number of a frontend."""

    TCP = 6
    UDP = 17


class Forwarding(StrEnum):
    """How a packet reaches its backend, and so which way the answer goes."""

    SNAT = "SNAT"
    """Both addresses are rewritten; answers return through this node."""
    DSR_IPIP = "DSR-IPIP"
    """The packet travels unchanged inside IP-in-IP; the backend answers the client directly."""


def parse_ipv4(text: str) -> int:
    """Return dotted-quad `text` as a host-order integer.

    Raises:
        LbModelError: if it is anything else.
    """
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text))  # ipaddress takes eight times as long
    except (OSError, ValueError) as error:
        raise LbModelError(
            f"{text!r} is not an IPv4 address", hint="write four decimal numbers, as in 192.0.2.10"
        ) from error


def format_ipv4(address: int) -> str:
    """Return a host-order integer as a dotted quad."""
    return str(IPv4Address(address))


class Backend(NamedTuple):
    """One server. A tuple, because a pass over 100,000 of them is compared in C.

    Attributes:
        address: IPv4, host order.
        port: 1-65535; with DSR it must be the frontend's, as nothing translates it.
        weight: share of the connections relative to the other backends; 0 takes no new ones.
    """

    address: int
    port: int
    weight: int = 1

    def __str__(self) -> str:
        return f"{format_ipv4(self.address)}:{self.port}"


class FrontendKey(NamedTuple):
    """Identity of a frontend: what clients connect to. `address` is IPv4 in host order."""

    address: int
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{format_ipv4(self.address)}:{self.port}/{self.protocol.name}"


@dataclass(frozen=True, slots=True)
class Frontend:
    """A virtual address and the backends behind it.

    Attributes:
        owner: resource that declared it, for messages ("ServiceLB/web"); no part of its behaviour.
    """

    key: FrontendKey
    backends: tuple[Backend, ...]
    forwarding: Forwarding = Forwarding.SNAT
    owner: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LbConfig:
    """Settings of one node's datapath. All are map data: a change reloads nothing.

    Attributes:
        encap_source: outer source address of DSR-IPIP (host order); 0 = `snat_address`.
        encap_prefix: its length in bits; below 32 the host bits are filled from the flow's hash, so
            that receivers spread the tunnel over their queues.
        snat_address: source address towards SNAT backends (host order); 0 = SNAT is refused.
        snat_port_first, snat_port_last: inclusive range of source ports; keep it out of
            net.ipv4.ip_local_port_range, whose default ends at 60999.
        hash_seed: the same on all nodes that announce one VIP, so that they agree on a flow's backend.
    """

    encap_source: int = 0
    encap_prefix: int = 32
    snat_address: int = 0
    snat_port_first: int = 61000
    snat_port_last: int = 65535
    hash_seed: int = 0x6B62

    def __post_init__(self) -> None:
        if not 0 < self.snat_port_first <= self.snat_port_last <= 0xFFFF:
            raise LbModelError(
                f"SNAT port range {self.snat_port_first}-{self.snat_port_last} is empty or outside 1-65535",
                reason="InvalidSettings",
            )
        if not 8 <= self.encap_prefix <= 32:
            raise LbModelError(
                f"encapsulation prefix /{self.encap_prefix} is not within /8../32", reason="InvalidSettings"
            )


def check(frontend: Frontend) -> None:
    """Raise LbModelError if `frontend` cannot be served as it stands."""
    where = f"{frontend.owner}: {frontend.key}" if frontend.owner else str(frontend.key)
    if not 0 < frontend.key.port <= 0xFFFF:
        raise LbModelError("a frontend's port must be within 1-65535", where=where)
    if len(frontend.backends) > MAX_BACKENDS:
        raise LbModelError(f"{len(frontend.backends)} backends, at most {MAX_BACKENDS} fit", where=where)
    seen: set[tuple[int, int]] = set()
    for backend in frontend.backends:
        address, port, weight = backend
        if not 0 < port <= 0xFFFF:
            raise LbModelError(f"backend {backend}: the port must be within 1-65535", where=where)
        if not 0 <= weight <= MAX_WEIGHT:
            raise LbModelError(
                f"backend {backend}: weight {weight} is not within 0-{MAX_WEIGHT}", where=where
            )
        if frontend.forwarding is Forwarding.DSR_IPIP and port != frontend.key.port:
            raise LbModelError(
                f"backend {backend}: DSR cannot translate port {frontend.key.port} to {port}",
                where=where,
                hint="give the backend the frontend's port, or use SNAT",
            )
        if (address, port) in seen:
            raise LbModelError(f"backend {backend} is listed twice", where=where, hint="use its weight")
        seen.add((address, port))


def merge(frontends: Iterable[Frontend]) -> dict[FrontendKey, Frontend]:
    """Check all frontends and index them by key.

    Raises:
        DuplicateFrontendError: naming both owners of one key.
        LbModelError: for a frontend that cannot be served.
    """
    merged: dict[FrontendKey, Frontend] = {}
    for frontend in frontends:
        check(frontend)
        key = frontend.key
        other = merged.setdefault(key, frontend)
        if other is not frontend:
            raise DuplicateFrontendError(
                f"declared by {other.owner or 'one frontend'} and by {frontend.owner or 'another'}: {key}",
                where=frontend.owner,
                hint="remove one of the two, or give it another port",
            )
    return merged
