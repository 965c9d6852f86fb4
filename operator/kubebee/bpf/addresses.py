"""Addresses of this host, from the kernel's own tables."""

from __future__ import annotations

import socket
from pathlib import Path

_TRIE = Path("/proc/thread-self/net/fib_trie")
_IPV6 = Path("/proc/thread-self/net/if_inet6")
_HOST_SCOPE, _LINK_SCOPE = 0x10, 0x20


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
