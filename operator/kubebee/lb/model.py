"""What the load balancer shall do, as plain values: frontends, their backends, and the node's settings.

An address is `bytes` in network order, 4 (IPv4) or 16 (IPv6) long, and a port is a plain integer: that packs
without work, is compared in C, and says its family. At 100,000 backends an `ipaddress.IPv4Address` each would
cost more memory than the maps themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import NamedTuple

from kubebee.errors import KubebeeError

MAX_WEIGHT = 1000
MAX_BACKENDS = 4096
"""Per frontend: above it a slot table of bounded size would no longer divide fairly."""
MAX_AFFINITY_SECONDS = 86400
"""As the API of Services has it."""


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
    SCTP = 132


class Forwarding(StrEnum):
    """How a packet reaches its backend, and so which way the answer goes."""

    SNAT = "SNAT"
    """Both addresses are rewritten; answers return through this node."""
    DSR_IPIP = "DSR-IPIP"
    """The packet travels unchanged inside IP-in-IP; the backend answers the client directly."""
    DSR_L2 = "DSR-L2"
    """The packet travels unchanged to the backend's MAC address, which must be on a link of this node."""

    DSR_IP_OPTION = "DSR-IPOption"
    """The packet is translated to the backend; an option names the frontend to the backend's node, which
    translates answers on their direct way to the client."""

    @property
    def is_dsr(self) -> bool:
        """Whether backends answer clients directly."""
        return self is not Forwarding.SNAT


class Reserved(IntEnum):
    """What of a frontend's place processes of the host can't bind: they would get no connection there."""

    NOTHING = 0
    PLACE = 1
    """Its address and port."""
    PORT = 2
    """Its port, on whatever address; its address is a loopback address."""


def parse_address(text: str) -> bytes:
    """Return an IPv4 or IPv6 address as bytes in network order.

    Raises:
        LbModelError: if `text` is anything else.
    """
    try:
        # ipaddress takes eight times as long.
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError) as error:
        raise LbModelError(
            f"{text!r} is not an IP address", hint="write one as in 192.0.2.10 or 2001:db8::10"
        ) from error


def format_address(address: bytes) -> str:
    """Return an address as people write it, IPv6 without brackets."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def endpoint_text(address: bytes, port: int) -> str:
    """Return an address with a port as people write it, IPv6 in brackets."""
    text = format_address(address)
    return f"{text}:{port}" if len(address) == 4 else f"[{text}]:{port}"


class Prefix(NamedTuple):
    """A range of addresses; bits of `address` after the first `length` are 0."""

    address: bytes
    length: int

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"

    def covers(self, address: bytes) -> bool:
        """Whether `address` is in the range; one of the other family is not."""
        whole, bits = divmod(self.length, 8)
        if len(address) != len(self.address) or address[:whole] != self.address[:whole]:
            return False
        return not bits or not (address[whole] ^ self.address[whole]) >> (8 - bits)


class Backend(NamedTuple):
    """One server. A tuple, because a pass over 100,000 of them is compared in C.

    Attributes:
        port: 1-65535; with DSR by IPIP and L2 it must be the frontend's, as nothing translates it.
        weight: share of the connections relative to the other backends; 0 takes no new ones.
    """

    address: bytes
    port: int
    weight: int = 1

    def __str__(self) -> str:
        return endpoint_text(self.address, self.port)


class FrontendKey(NamedTuple):
    """Identity of a frontend: what clients connect to."""

    address: bytes
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{endpoint_text(self.address, self.port)}/{self.protocol.name}"


@dataclass(frozen=True, slots=True)
class Frontend:
    """A virtual address and the backends behind it. Key, backends and ranges are of one family.

    Without a backend to go to, clients are refused.

    Attributes:
        backends: for packets from outside the node.
        inside: for this node's own sockets, where they differ (externalTrafficPolicy Local: `backends` are
            those on the node, `inside` are all); None = the same. A backend in both has one weight.
        affinity_seconds: how long a client comes back to the backend it had (ClientIP affinity); 0 = none.
        source_ranges: who may come from outside; () = everybody.
        sockets_only: no packet from outside is for it, as with 127.0.0.1.
        drop_outside: packets from outside find no backend though there are some elsewhere: they are dropped,
            not refused, so that the client tries again.
        reserved: what is not for processes of the host to bind.
        random: the backend of a new connection from outside is drawn, not found by its hash. Not with DSR,
            which keeps nothing of a connection: there only the hash finds the backend again.
        owner: what declared it, for messages ("ServiceLB/web:http", "Service/default/web:http",
            "Pod/default/web-0:http"); no part of its behaviour.
    """

    key: FrontendKey
    backends: tuple[Backend, ...]
    inside: tuple[Backend, ...] | None = None
    forwarding: Forwarding = Forwarding.SNAT
    affinity_seconds: int = 0
    source_ranges: tuple[Prefix, ...] = ()
    sockets_only: bool = False
    drop_outside: bool = False
    reserved: Reserved = Reserved.NOTHING
    random: bool = False
    owner: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LbConfig:
    """Settings of one node's datapath. All are map data: a change reloads nothing.

    Attributes:
        encap_source: outer source address of DSR-IPIP; b"" = `snat_address`.
        encap_prefix: its length in bits; below 32 the host bits are filled from the flow's hash, so
            that receivers spread the tunnel over their queues.
        snat_address: source address towards SNAT backends; b"" = SNAT is refused.
        encap_source6, snat_address6: the same for IPv6; the outer source is spread by the flow label instead.
        snat_others, snat_others6: further source addresses; flows are spread over all.
        snat_port_first, snat_port_last: inclusive range of source ports; keep it out of
            net.ipv4.ip_local_port_range, whose default ends at 60999.
        hash_seed: the same on all nodes that announce one VIP, so that they agree on a flow's backend.
    """

    encap_source: bytes = b""
    encap_prefix: int = 32
    snat_address: bytes = b""
    encap_source6: bytes = b""
    snat_address6: bytes = b""
    snat_others: tuple[bytes, ...] = ()
    snat_others6: tuple[bytes, ...] = ()
    snat_port_first: int = 61000
    snat_port_last: int = 65535
    hash_seed: int = 0x6B62

    @property
    def snat_sources(self) -> tuple[bytes, ...]:
        """All source addresses of IPv4."""
        return (self.snat_address, *self.snat_others) if self.snat_address else ()

    @property
    def snat_sources6(self) -> tuple[bytes, ...]:
        """All source addresses of IPv6."""
        return (self.snat_address6, *self.snat_others6) if self.snat_address6 else ()

    def with_sources(self, sources: Sequence[bytes], sources6: Sequence[bytes]) -> LbConfig:
        """The same with these source addresses of IPv4 and of IPv6."""
        first, *others = sources or (b"",)
        first6, *others6 = sources6 or (b"",)
        return replace(
            self,
            snat_address=first,
            snat_others=tuple(others),
            snat_address6=first6,
            snat_others6=tuple(others6),
        )

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
    if frontend.random and frontend.forwarding.is_dsr:
        raise LbModelError(
            f"Random can't be had with {frontend.forwarding}, which finds each packet's backend by its hash",
            where=where,
            hint="use SNAT, or Maglev",
        )
    _check_backends(frontend, frontend.backends, where)
    if frontend.inside is not None:
        _check_backends(frontend, frontend.inside, where)
        weights = {(address, port): weight for address, port, weight in frontend.backends}
        for backend in frontend.inside:
            if weights.get(backend[:2], backend.weight) != backend.weight:
                raise LbModelError(
                    f"backend {backend} has one weight for packets and another for sockets", where=where
                )
    for prefix in frontend.source_ranges:
        if len(prefix.address) != len(frontend.key.address):
            raise LbModelError(f"source range {prefix} is of another family", where=where)
        if not 0 <= prefix.length <= 8 * len(prefix.address):
            raise LbModelError(f"source range {prefix} is no prefix", where=where)
    if not 0 <= frontend.affinity_seconds <= MAX_AFFINITY_SECONDS:
        raise LbModelError(
            f"affinity of {frontend.affinity_seconds} s is not within 0-{MAX_AFFINITY_SECONDS}", where=where
        )


def _check_backends(frontend: Frontend, backends: tuple[Backend, ...], where: str) -> None:
    if len(backends) > MAX_BACKENDS:
        raise LbModelError(f"{len(backends)} backends, at most {MAX_BACKENDS} fit", where=where)
    length = len(frontend.key.address)
    seen: set[tuple[bytes, int]] = set()
    for backend in backends:
        address, port, weight = backend
        if len(address) != length:
            raise LbModelError(
                f"backend {backend} is of another family than its frontend",
                where=where,
                hint="packets are not translated between IPv4 and IPv6: give it a frontend of its own family",
            )
        if not 0 < port <= 0xFFFF:
            raise LbModelError(f"backend {backend}: the port must be within 1-65535", where=where)
        if not 0 <= weight <= MAX_WEIGHT:
            raise LbModelError(
                f"backend {backend}: weight {weight} is not within 0-{MAX_WEIGHT}", where=where
            )
        if (address, port) in seen:
            raise LbModelError(f"backend {backend} is listed twice", where=where, hint="use its weight")
        seen.add((address, port))
    if problem := unservable(frontend.forwarding, frontend.key.port, backends):
        hint = (
            "give backends the frontend's port (IPIP, L2) or addresses of their own (IPOption), or use SNAT"
        )
        raise LbModelError(problem, where=where, hint=hint)


def unservable(forwarding: Forwarding, port: int, backends: Iterable[Backend]) -> str:
    """Why backends can't be served so; "" = they can.

    Args:
        forwarding: how packets get to them.
        port: the frontend's.
        backends: of one frontend.
    """
    if forwarding is Forwarding.SNAT:
        return ""
    if forwarding is not Forwarding.DSR_IP_OPTION:
        other = next((backend for backend in backends if backend.port != port), None)
        return f"DSR cannot translate port {port} to {other.port} ({other})" if other else ""
    ports: dict[bytes, int] = {}
    for address, its, _ in backends:
        if ports.setdefault(address, its) != its:
            return f"DSR by IPOption reaches one backend at {format_address(address)}, and there are several"
    return ""


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
