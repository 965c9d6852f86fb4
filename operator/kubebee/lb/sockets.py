"""Settings of the socket programs: the user-space half of templates/include/lb_sock.h."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

from kubebee.bpf.map import Map
from kubebee.lb.layout import u32

SETTINGS = "kb_lb_sock_cfg"
_SO_NETNS_COOKIE = 71
_COOKIE = struct.Struct("=Q")


def apply(maps: Mapping[str, Map]) -> None:
    """Tell the socket programs which network namespace is the node's: the caller's. Without them nothing.

    Raises:
        BpfError: the map refused the write.
    """
    settings = maps.get(SETTINGS)
    if settings is None:
        return
    packed = _COOKIE.pack(host_cookie())
    if settings.lookup(u32(0)) != packed:
        settings.update(u32(0), packed)


def host_cookie() -> int:
    """The kernel's number of the caller's network namespace; 0 before Linux 5.14, which doesn't tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int(_COOKIE.unpack(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size))[0])
        except OSError:
            return 0
