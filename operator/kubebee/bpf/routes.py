"""Routes, as the kernel chooses them for what this host sends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence, Set
from dataclasses import dataclass

from kubebee.bpf.netlink import ask, attributes, pack_attribute, u32

RTM_NEWROUTE, RTM_DELROUTE = 24, 25
_RTM_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTA_VIA = 1, 4, 5, 7, 8, 18
_RTAX_MTU = 2
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_RTM_F_CLONED = 0x200
_ADDRESS_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}
_HEADS = {
    length: _RTMSG.pack(family, 8 * length, 0, 0, 0, 0, 0, 0, 0) for family, length in _ADDRESS_BYTES.items()
}
"""Of a request for the route to one address, by the address's length."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one destination.

    Attributes:
        ifindex: interface that it leaves by.
        neighbour: address whose MAC frames carry: the gateway's (4 or 16 bytes, RFC 8950)
            or the destination's own.
        mtu: of the route; 0 = the interface's.
        source: address this host would send from, b"" if the kernel names none.
        local: it is an address of this host.
    """

    ifindex: int
    neighbour: bytes
    mtu: int
    source: bytes
    local: bool = False


def lookup_routes(addresses: Sequence[bytes]) -> list[Route | None]:
    """Return the route to each address; None where there is none.

    Raises:
        BpfError: netlink failed.
    """
    requests = [_HEADS[len(address)] + pack_attribute(_RTA_DST, address) for address in addresses]
    answers = ask(_RTM_GETROUTE, 0, requests)
    return [
        _route(address, answer) if isinstance(answer, bytes) else None
        for address, answer in zip(addresses, answers, strict=True)
    ]


def own_among(addresses: Set[bytes]) -> set[bytes]:
    """Return those that are addresses of this network namespace itself.

    Raises:
        BpfError: netlink failed.
    """
    asked = list(addresses)
    routes = zip(asked, lookup_routes(asked), strict=True)
    return {address for address, route in routes if route is not None and route.local}


def _route(address: bytes, payload: bytes) -> Route | None:
    found = attributes(payload[_RTMSG.size :])
    ifindex = u32(found, _RTA_OIF)
    kind = _RTMSG.unpack_from(payload)[7]
    if kind not in (_RTN_UNICAST, _RTN_LOCAL) or ifindex is None:
        return None
    if kind == _RTN_LOCAL:
        return Route(ifindex, address, 0, address, local=True)
    via = found.get(_RTA_VIA, b"")[2:]  # after its address family
    neighbour = found.get(_RTA_GATEWAY) or via or address
    mtu = u32(attributes(found.get(_RTA_METRICS, b"")), _RTAX_MTU) or 0
    return Route(ifindex, neighbour, mtu, found.get(_RTA_PREFSRC, b""))


def changed_prefix(payload: bytes) -> tuple[bytes, int] | None:
    """Return address and length of the route that an RTM_*ROUTE event is about; None: it changes no way."""
    family, length, *_, flags = _RTMSG.unpack_from(payload)
    address_bytes = _ADDRESS_BYTES.get(family)
    if address_bytes is None or flags & _RTM_F_CLONED:
        return None
    return attributes(payload[_RTMSG.size :]).get(_RTA_DST, bytes(address_bytes)), length
