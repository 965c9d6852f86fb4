"""Which ports processes of this network namespace listen on (inet_diag); connections are not looked at."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from kubebee.bpf.netlink import dump
from kubebee.bpf.syscall import BpfError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states, id
_ANSWER = struct.Struct(">4xH2x16s")  # family to retransmits, source port, destination port, source
_STATES = {socket.IPPROTO_TCP: 1 << 10, socket.IPPROTO_UDP: 1 << 7}
"""TCP_LISTEN; TCP_CLOSE, which is what UDP sockets without a peer are in."""
_NOT_BUILT = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL)


class Listener(NamedTuple):
    """A socket that takes what comes to a port.

    Attributes:
        address: network order, 4 or 16 bytes; all zero for any, and of IPv6 then for IPv4's, too.
        protocol: as in an IP header.
    """

    address: bytes
    port: int
    protocol: int


def listeners() -> Iterator[Listener]:
    """Those of the calling thread's network namespace; none of a protocol that the kernel can't list.

    Raises:
        BpfError: netlink refused.
    """
    for protocol, states in _STATES.items():
        for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            request = _REQUEST.pack(family, protocol, 0, states)
            try:
                answers = list(dump(_SOCK_DIAG_BY_FAMILY, request, _SOCK_DIAG_BY_FAMILY, _NETLINK_SOCK_DIAG))
            except BpfError as error:
                if error.errno not in _NOT_BUILT:
                    raise
                continue
            for answer in answers:
                port, address = _ANSWER.unpack_from(answer)
                yield Listener(address[:length], port, protocol)
