"""The option by which a balancer names a frontend to the backend's node: templates/include/lb_ip_option.h."""

from __future__ import annotations

import struct
from typing import NamedTuple

_IPV4 = struct.Struct("=BBHI")  # port and address in the machine's order of bytes, as Cilium has them
_IPV4_HEAD = bytes((0x9A, _IPV4.size))
_IPV6 = struct.Struct(">BBBB16sH2x")  # an extension header; its first byte is the next one's number
_IPV6_HEAD = bytes((_IPV6.size // 8 - 1, 0x1B, _IPV6.size - 4))
DESTINATION_OPTIONS = 60


class Named(NamedTuple):
    """The frontend that an option names.

    Attributes:
        next: IPv6: number of the header that follows; IPv4: 0.
        length: bytes of the option, of IPv6 with its header.
    """

    address: bytes
    port: int
    next: int
    length: int


def make(address: bytes, port: int, following: int) -> bytes:
    """The option for a frontend; of IPv6 with its header, which `following` is behind."""
    if len(address) == 4:
        return _IPV4.pack(*_IPV4_HEAD, port, int.from_bytes(address))
    return _IPV6.pack(following, *_IPV6_HEAD, address, port)


def find_ipv4(options: bytes) -> Named | None:
    """Read it from what is behind the fixed header."""
    if len(options) < _IPV4.size or not options.startswith(_IPV4_HEAD):
        return None
    _, _, port, address = _IPV4.unpack_from(options)
    return Named(address.to_bytes(4), port, 0, _IPV4.size)


def find_ipv6(header: bytes) -> Named | None:
    """Read it from an extension header of destination options."""
    if len(header) < _IPV6.size or header[1:4] != _IPV6_HEAD:
        return None
    following, _, _, _, address, port = _IPV6.unpack_from(header)
    return Named(address, port, following, _IPV6.size)
