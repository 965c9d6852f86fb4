"""The kernel's table of connections (nf_conntrack) by ctnetlink, as far as addresses were translated.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from kubebee.bpf.netlink import attributes, dump, pack_attribute

NETLINK_NETFILTER = 12
_CT_NEW, _CT_GET = 1 << 8 | 0, 1 << 8 | 1
_NFGENMSG = struct.Struct(">BBH")  # family, version, resource
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _STATUS_MASK = 1, 2, 3, 4, 26
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # of IPv4, IPv6
_PROTO_NUM, _PROTO_SPORT, _PROTO_DPORT = 1, 2, 3
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_DST_NAT = 1 << 5
_U32, _PORT = struct.Struct(">I"), struct.Struct(">H")


class TcpState(IntEnum):
    """enum tcp_conntrack; those that are told apart here."""

    SYN_SENT = 1
    SYN_RECV = 2
    SYN_SENT2 = 9


_OPENING = frozenset(map(int, TcpState))


class Ends(NamedTuple):
    """Addresses in network order and ports of one direction's packets."""

    saddr: bytes
    daddr: bytes
    sport: int
    dport: int


class Translated(NamedTuple):
    """A connection whose destination was translated.

    Attributes:
        original: as the client's packets come in.
        reply: as the backend's answers do.
        opening: TCP: not established yet.
    """

    protocol: int
    original: Ends
    reply: Ends
    opening: bool


def translated(family: int) -> Iterator[Translated]:
    """Yield connections with a translated destination, of this thread's network namespace.

    Args:
        family: socket.AF_INET or AF_INET6.

    Raises:
        BpfError: the kernel has no ctnetlink, or refuses.
    """
    wanted = _U32.pack(_DST_NAT)  # kernels before 5.17 list all: each is looked at below
    request = pack_attribute(_STATUS, wanted) + pack_attribute(_STATUS_MASK, wanted)
    header = _NFGENMSG.pack(family, 0, 0)
    for payload in dump(_CT_GET, header + request, _CT_NEW, NETLINK_NETFILTER):
        found = attributes(payload[_NFGENMSG.size :])
        status = found.get(_STATUS)
        if payload[0] != family or status is None or not _U32.unpack(status)[0] & _DST_NAT:
            continue
        one = _translated(found)
        if one is not None:
            yield one


def _translated(found: dict[int, bytes]) -> Translated | None:
    original, reply = found.get(_TUPLE_ORIG), found.get(_TUPLE_REPLY)
    if original is None or reply is None:
        return None
    there, back = _ends(original), _ends(reply)
    if there is None or back is None:
        return None
    tcp = attributes(attributes(found.get(_PROTOINFO, b"")).get(_PROTOINFO_TCP, b""))
    state = tcp.get(_TCP_STATE, b"\0")[0]
    return Translated(there[0], there[1], back[1], state in _OPENING)


def _ends(data: bytes) -> tuple[int, Ends] | None:
    """Protocol and ends of one direction; None where there are no ports."""
    parts = attributes(data)
    ip, proto = attributes(parts.get(_TUPLE_IP, b"")), attributes(parts.get(_TUPLE_PROTO, b""))
    saddr = next((ip[kind] for kind in _SOURCES if kind in ip), b"")
    daddr = next((ip[kind] for kind in _DESTINATIONS if kind in ip), b"")
    sport, dport, number = (proto.get(kind) for kind in (_PROTO_SPORT, _PROTO_DPORT, _PROTO_NUM))
    if not saddr or not daddr or sport is None or dport is None or number is None:
        return None
    return number[0], Ends(saddr, daddr, _PORT.unpack(sport)[0], _PORT.unpack(dport)[0])
