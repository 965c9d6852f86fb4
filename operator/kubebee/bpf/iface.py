"""Interface names, the primary interface, and news of interfaces."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kubebee.bpf.constants import LinkType
from kubebee.bpf.link import Link, LinkInfo, link_ids
from kubebee.bpf.netlink import (
    Interface,
    LinkChange,
    XdpAttachMode,
    dump_interfaces,
    open_link_socket,
    parse_changes,
    receive,
)
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError

_ROUTES4 = Path("/proc/thread-self/net/route")
_ROUTES6 = Path("/proc/thread-self/net/ipv6_route")
_RTF_UP, _RTF_REJECT = 0x1, 0x200


class NoSuchInterfaceError(KubebeeError):
    """There is no interface of this name in this network namespace."""

    reason = "NoSuchInterface"


@dataclass(frozen=True, slots=True)
class XdpState:
    """The program on an interface's XDP hook; `link_id` is None if it was attached by netlink."""

    prog_id: int
    mode: XdpAttachMode
    link_id: int | None


def interfaces() -> dict[str, Interface]:
    """Return the interfaces of this network namespace by name."""
    return {interface.name: interface for interface in dump_interfaces()}


def ifindex(name: str) -> int:
    """Return the index of an interface.

    Raises:
        NoSuchInterfaceError: there is none of this name.
    """
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise NoSuchInterfaceError(
            "no such interface", where=name, hint="ip link shows those there are"
        ) from error


def primary_interface() -> str | None:
    """Return the name of the interface of the default route with the lowest metric, IPv4 before IPv6."""
    routes = [
        (int(metric), name)
        for name, destination, _, flags, _, _, metric, mask, *_ in _rows(_ROUTES4)
        if destination == mask == "00000000" and _usable(flags)
    ]
    if not routes:
        routes = [
            (int(metric, 16), name)
            for destination, length, _, _, _, metric, _, _, flags, name in _rows(_ROUTES6)
            if int(length, 16) == 0 and int(destination, 16) == 0 and _usable(flags) and name != "lo"
        ]
    return min(routes)[1] if routes else None


def default_route_interfaces() -> frozenset[str]:
    """Return the names of the interfaces of all default routes of the main table, of both families."""
    found = {
        name
        for name, destination, _, flags, _, _, _, mask, *_ in _rows(_ROUTES4)
        if destination == mask == "00000000" and _usable(flags)
    }
    found |= {
        name
        for destination, length, _, _, _, _, _, _, flags, name in _rows(_ROUTES6)
        if int(length, 16) == 0 and int(destination, 16) == 0 and _usable(flags) and name != "lo"
    }
    return frozenset(found)


def _rows(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:  # kernel without this family
        return []
    return [line.split() for line in lines if not line.startswith("Iface")]


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP


def xdp_program_on(index: int) -> XdpState | None:
    """Return what is on the XDP hook of an interface of this network namespace, None if nothing is."""
    for interface in dump_interfaces():
        if interface.index == index and interface.xdp is not None:
            prog_id = interface.xdp.prog_id
            return XdpState(prog_id, interface.xdp.mode, _xdp_link(index, prog_id))
    return None


def _xdp_link(index: int, prog_id: int) -> int | None:
    """Id of the link that holds a program; None without one, or where CAP_SYS_ADMIN is missing to look."""
    try:
        for link_id in link_ids():
            info = _link_info(link_id)
            if info and (info.type, info.ifindex, info.prog_id) == (LinkType.XDP, index, prog_id):
                return link_id
    except BpfError as error:
        if error.errno != errno.EPERM:
            raise
    return None


def _link_info(link_id: int) -> LinkInfo | None:
    try:
        with Link.from_id(link_id) as link:
            return link.info
    except BpfError as error:
        if error.errno == errno.ENOENT:  # gone meanwhile
            return None
        raise


class LinkWatcher:
    """News of interfaces: fileno() becomes readable, read() returns what happened.

    Subscribes when made, so that what is listed afterwards misses nothing.
    """

    def __init__(self) -> None:
        self._socket = open_link_socket()

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        return self._socket.fileno()

    def read(self) -> list[LinkChange] | None:
        """Take all news there is, without waiting; None if some got lost: list the interfaces anew."""
        changes: list[LinkChange] = []
        lost = False
        while True:
            datagram = receive(self._socket)
            if datagram is None:
                lost = True
            elif not datagram:
                return None if lost else changes
            else:
                changes += parse_changes(datagram)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
