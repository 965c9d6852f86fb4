"""The kernel's table of connections (nf_conntrack) by ctnetlink: those with translated addresses.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from kubebee.bpf.netlink import ask, attributes, dump, pack_attribute

NETLINK_NETFILTER = 12
_CT_NEW, _CT_GET, _CT_DELETE = 1 << 8 | 0, 1 << 8 | 1, 1 << 8 | 2
_NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x4, 0x200, 0x400
_NFGENMSG = struct.Struct(">BBH")  # family, version, resource
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _STATUS_MASK = 1, 2, 3, 4, 26
_NAT_SRC, _TIMEOUT, _NAT_DST = 6, 7, 13
_NAT_IPS, _NAT_PROTO, _NAT_PORTS = {4: (1, 2), 16: (4, 5)}, 3, (1, 2)
_NESTED = 0x8000
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # of IPv4, IPv6
_PROTO_NUM, _PROTO_SPORT, _PROTO_DPORT = 1, 2, 3
_PROTOINFO_TCP, _TCP_STATE, _TCP_FLAGS = 1, 1, (4, 5)
_DST_NAT = 1 << 5
_GOES_ON = 1 << 1 | 1 << 2 | 1 << 3
"""IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED."""
_LIBERAL = 1 << 3
"""IP_CT_TCP_FLAG_BE_LIBERAL: windows are not known, so packets are not measured by them."""
_TIMEOUTS = {socket.IPPROTO_TCP: 432_000, socket.IPPROTO_UDP: 180}
"""Seconds until it is over without a packet; with the first one the node's own settings count."""
_U32, _PORT = struct.Struct(">I"), struct.Struct(">H")


class TcpState(IntEnum):
    """enum tcp_conntrack; those that are told apart here."""

    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    SYN_SENT2 = 9


_OPENING = frozenset(map(int, (TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.SYN_SENT2)))


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


def adopt(family: int, connections: Sequence[Translated]) -> list[int]:
    """Have the kernel translate connections that it did not see begin; TCP counts as established.

    Args:
        family: socket.AF_INET or AF_INET6.
        connections: TCP and UDP.

    Returns:
        An errno for each, 0 where it does. EEXIST: there is one that comes in or is answered in the same way.

    Raises:
        BpfError: netlink failed.
    """
    return _change(_CT_NEW, _NLM_F_CREATE | _NLM_F_EXCL, family, map(_adopted, connections))


def forget(family: int, connections: Iterable[tuple[int, Ends]]) -> list[int]:
    """Remove connections, by protocol and how they come in; an errno for each.

    Raises:
        BpfError: netlink failed.
    """
    return _change(_CT_DELETE, 0, family, (_tuple(_TUPLE_ORIG, *each) for each in connections))


def _change(kind: int, flags: int, family: int, changes: Iterable[bytes]) -> list[int]:
    header = _NFGENMSG.pack(family, 0, 0)
    answers = ask(kind, flags | _NLM_F_ACK, [header + each for each in changes], NETLINK_NETFILTER)
    return [answer if isinstance(answer, int) else errno.EPROTO for answer in answers]


def _adopted(connection: Translated) -> bytes:
    """Without the translation first, as if it came in new, and then what becomes of it."""
    protocol, there, back, _ = connection
    plain = Ends(there.daddr, there.saddr, there.dport, there.sport)
    parts = [
        _tuple(_TUPLE_ORIG, protocol, there),
        _tuple(_TUPLE_REPLY, protocol, plain),
        pack_attribute(_STATUS, _U32.pack(_GOES_ON)),
        pack_attribute(_TIMEOUT, _U32.pack(_TIMEOUTS[protocol])),
        _nat(_NAT_DST, back.saddr, back.sport),
    ]
    if (back.daddr, back.dport) != (there.saddr, there.sport):
        parts.append(_nat(_NAT_SRC, back.daddr, back.dport))
    if protocol == socket.IPPROTO_TCP:
        liberal = bytes((_LIBERAL, _LIBERAL))
        tcp = pack_attribute(_TCP_STATE, bytes((TcpState.ESTABLISHED,)))
        tcp += b"".join(pack_attribute(side, liberal) for side in _TCP_FLAGS)
        parts.append(_nest(_PROTOINFO, _nest(_PROTOINFO_TCP, tcp)))
    return b"".join(parts)


def _tuple(kind: int, protocol: int, ends: Ends) -> bytes:
    of_family = len(ends.saddr) == 16
    ip = pack_attribute(_SOURCES[of_family], ends.saddr) + pack_attribute(
        _DESTINATIONS[of_family], ends.daddr
    )
    proto = pack_attribute(_PROTO_NUM, bytes((protocol,)))
    proto += pack_attribute(_PROTO_SPORT, _PORT.pack(ends.sport))
    proto += pack_attribute(_PROTO_DPORT, _PORT.pack(ends.dport))
    return _nest(kind, _nest(_TUPLE_IP, ip) + _nest(_TUPLE_PROTO, proto))


def _nat(kind: int, address: bytes, port: int) -> bytes:
    """Translation to exactly this address and port."""
    range_ = b"".join(pack_attribute(end, address) for end in _NAT_IPS[len(address)])
    ports = b"".join(pack_attribute(end, _PORT.pack(port)) for end in _NAT_PORTS)
    return _nest(kind, range_ + _nest(_NAT_PROTO, ports))


def _nest(kind: int, content: bytes) -> bytes:
    return pack_attribute(kind | _NESTED, content)


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
