"""Addresses of this host, from the kernel's own tables."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from kubebee.bpf.netlink import attributes, dump, u32

_TRIE = Path("/proc/thread-self/net/fib_trie")
_IPV6 = Path("/proc/thread-self/net/if_inet6")
_HOST_SCOPE, _LINK_SCOPE = 0x10, 0x20
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, ifindex
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_LEFT_OUT = 0x01 | 0x08 | 0x20 | 0x40
"""Secondary or temporary, failed, deprecated, tentative."""
_LINK_ONLY = 253
"""RT_SCOPE_LINK."""


def ipv4_addresses() -> frozenset[str]:
    """Addresses whose packets this network namespace takes for itself, in dotted form.

    Its own and its subnets' broadcast addresses; 127.0.0.1 is among them.
    """
    return frozenset(_in_trie("/32 host LOCAL", "/32 link BROADCAST"))


def own_addresses() -> tuple[bytes, ...]:
    """Addresses, network order and of both families, that others reach this network namespace by, in order.

    Loopback and link-local addresses are not among them.
    """
    ipv4 = {socket.inet_aton(text) for text in _in_trie("/32 host LOCAL") if not text.startswith("127.")}
    return (*sorted(ipv4), *sorted(_global_ipv6()))


def interface_addresses(family: socket.AddressFamily) -> dict[int, bytes]:
    """The first address of each interface of this network namespace, by ifindex, network order.

    Without those that reach no further than the link or the host, that are going, or that are not sure yet.

    Raises:
        BpfError: netlink refused.
    """
    found: dict[int, bytes] = {}
    for payload in dump(_RTM_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0), _RTM_NEWADDR):
        of, _, flags, scope, index = _IFADDR.unpack_from(payload)
        values = attributes(payload[_IFADDR.size :])
        flags |= u32(values, _IFA_FLAGS) or 0
        address = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if of == family and address and scope < _LINK_ONLY and not flags & _IFA_LEFT_OUT:
            found.setdefault(index, address)
    return found


def _in_trie(*kinds: str) -> set[str]:
    """IPv4 addresses whose routes are of one of these kinds."""
    try:
        lines = _TRIE.read_text().splitlines()
    except FileNotFoundError:  # a kernel without IPv4
        return set()
    found = set()
    address = ""
    for line in lines:
        text = line.strip()
        if text.startswith("|--"):
            address = text.removeprefix("|-- ")
        elif text in kinds:
            found.add(address)
    return found


def _global_ipv6() -> set[bytes]:
    try:
        lines = _IPV6.read_text().splitlines()
    except FileNotFoundError:  # a kernel without IPv6, or booted without
        return set()
    fields = (line.split() for line in lines)
    return {bytes.fromhex(f[0]) for f in fields if not int(f[3], 16) & (_HOST_SCOPE | _LINK_SCOPE)}
