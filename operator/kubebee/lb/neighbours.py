"""Keeps the next hops of backends resolved, so that XDP's route lookup always finds their MAC addresses.

XDP cannot ask for an address itself. It leaves such a packet to the kernel, which takes it only where
accept_local is on, as the packet's source is an address of this very node.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from kubebee.bpf.syscall import BpfError
from kubebee.lb.model import format_ipv4

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=B3xiHBB")  # family, ifindex, state, flags, type
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_RTM_GETROUTE = 26
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_NLMSG_ERROR = 2
_REQUEST, _ACK, _CREATE, _REPLACE = 0x1, 0x4, 0x400, 0x100
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RTN_UNICAST = 1
_NDA_DST, _NDA_FLAGS_EXT = 1, 15
_NTF_USE, _NTF_EXT_MANAGED = 1, 1
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)

Hop = tuple[int, bytes]
"""Interface index and IPv4 address of a neighbour."""


class Neighbours:
    """The neighbours that this process has asked the kernel to keep resolved."""

    def __init__(self) -> None:
        self._kept: set[Hop] = set()

    def keep(self, backends: Iterable[int]) -> frozenset[int]:
        """Keep the way to exactly these backends resolved (IPv4, host order); call it again as routes change.

        Kernels from 5.16 on refresh a managed neighbour themselves; older ones resolve it at each call.

        Returns:
            Backends that no route leads to, or that are this node itself.

        Raises:
            BpfError: netlink refused.
        """
        unreachable: set[int] = set()
        hops: set[Hop] = set()
        with _Netlink() as netlink:
            for backend in set(backends):
                hop = netlink.next_hop(backend)
                if hop is None:
                    unreachable.add(backend)
                else:
                    hops.add(hop)
            for hop in hops:
                netlink.manage(hop)
            for hop in self._kept - hops:
                netlink.forget(hop)
        self._kept = hops
        return frozenset(unreachable)


class _Netlink:
    """Requests to rtnetlink in the calling thread's network namespace, one at a time."""

    def __enter__(self) -> _Netlink:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._sock.settimeout(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def next_hop(self, backend: int) -> Hop | None:
        destination = backend.to_bytes(4, "big")
        head = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        kind, answer = self._ask(_RTM_GETROUTE, 0, head + _attribute(_RTA_DST, destination))
        if kind == _NLMSG_ERROR:
            self._check(answer, f"cannot find the route to {format_ipv4(backend)}", _NO_ROUTE)
            return None
        attributes = dict(_attributes(answer[_RTMSG.size :]))
        if _RTMSG.unpack_from(answer)[7] != _RTN_UNICAST or _RTA_OIF not in attributes:
            return None
        ifindex = struct.unpack("=i", attributes[_RTA_OIF])[0]
        return ifindex, attributes.get(_RTA_GATEWAY, destination)

    def manage(self, hop: Hop) -> None:
        ifindex, address = hop
        head = _NDMSG.pack(socket.AF_INET, ifindex, 0, _NTF_USE, 0)
        body = _attribute(_NDA_DST, address) + _attribute(_NDA_FLAGS_EXT, struct.pack("=I", _NTF_EXT_MANAGED))
        _, answer = self._ask(_RTM_NEWNEIGH, _ACK | _CREATE | _REPLACE, head + body)
        # A permanent entry is not the kernel's to refresh, and needs none.
        self._check(answer, f"cannot keep neighbour {socket.inet_ntoa(address)} resolved", (errno.EINVAL,))

    def forget(self, hop: Hop) -> None:
        ifindex, address = hop
        head = _NDMSG.pack(socket.AF_INET, ifindex, 0, 0, 0)
        _, answer = self._ask(_RTM_DELNEIGH, _ACK, head + _attribute(_NDA_DST, address))
        gone = (errno.ENOENT, errno.ENODEV)  # with its interface, say
        self._check(answer, f"cannot forget neighbour {socket.inet_ntoa(address)}", gone)

    def _ask(self, kind: int, flags: int, payload: bytes) -> tuple[int, bytes]:
        header = _NLMSG.pack(_NLMSG.size + len(payload), kind, _REQUEST | flags, 1, 0)
        self._sock.sendto(header + payload, (0, 0))
        datagram = self._sock.recv(1 << 16)
        length, answered, *_ = _NLMSG.unpack_from(datagram)
        return answered, datagram[_NLMSG.size : length]

    @staticmethod
    def _check(answer: bytes, what: str, expected: tuple[int, ...]) -> None:
        error = -struct.unpack_from("=i", answer)[0]
        if error and error not in expected:
            raise BpfError(what, error, hint=os.strerror(error))


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
