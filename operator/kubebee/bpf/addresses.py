"""IPv4 addresses of this host, from the kernel's own routing trie."""

from __future__ import annotations

from pathlib import Path

_TRIE = Path("/proc/thread-self/net/fib_trie")


def ipv4_addresses() -> frozenset[str]:
    """Addresses whose packets this network namespace takes for itself, in dotted form.

    Its own and its subnets' broadcast addresses; 127.0.0.1 is among them.
    """
    try:
        lines = _TRIE.read_text().splitlines()
    except FileNotFoundError:  # a kernel without IPv4
        return frozenset()
    found = set()
    address = ""
    for line in lines:
        text = line.strip()
        if text.startswith("|--"):
            address = text.removeprefix("|-- ")
        elif text in ("/32 host LOCAL", "/32 link BROADCAST"):
            found.add(address)
    return frozenset(found)
