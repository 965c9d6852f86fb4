"""Chains of iptables-legacy, to look at only: their tables are not nftables'.

Source: include/uapi/linux/netfilter_ipv4/ip_tables.h; IPv6 has the same numbers.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from pathlib import Path

_GET_INFO, _GET_ENTRIES = 64, 65
_NAME = 32
_INFO = struct.Struct(
    f"={_NAME}s13I"
)  # name, hooks that are used, their entries and underflows, number, size
_HEAD_BYTES = 40  # name, size, and padding up to entries' alignment
_libc = ctypes.CDLL(None, use_errno=True)


def names_chain(family: int, table: str, chain: str) -> bool:
    """Whether a chain is in a table of iptables-legacy, of this thread's network namespace.

    One that the kernel lacks or does not let us read has none.
    """
    listed = Path("/proc/net/ip_tables_names" if family == socket.AF_INET else "/proc/net/ip6_tables_names")
    try:
        if table not in listed.read_text().split():  # asking for one would make it
            return False
    except OSError:
        return False
    level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        info = _get(sock, level, _GET_INFO, table, _INFO.size)
        if info is None:
            return False
        size = _INFO.unpack(info)[-1]
        entries = _get(sock, level, _GET_ENTRIES, table, _HEAD_BYTES + size, size)
    return entries is not None and chain.encode() + b"\0" in entries


def _get(
    sock: socket.socket, level: int, option: int, table: str, length: int, size: int = 0
) -> bytes | None:
    """getsockopt() with a question in its buffer."""
    buffer = ctypes.create_string_buffer(length)
    struct.pack_into(f"={_NAME}sI", buffer, 0, table.encode(), size)
    filled = ctypes.c_uint(length)
    if _libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(filled)):
        return None
    return buffer.raw[: filled.value]
