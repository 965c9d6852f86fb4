"""IPv4 addresses of this host, from the kernel's own routing trie."""

from __future__ import annotations

from pathlib import Path

_TRIE = Path("/proc/thread-self/net/fib_trie")


def ipv4_addresses() -> frozenset[str]:
    """Addresses that this network namespace answers for, in dotted form; 127.0.0.1 among them."""
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
        elif text == "/32 host LOCAL":
            found.add(address)
    return frozenset(found)
