"""Interfaces as rtnetlink tells them. Raw, to keep a netlink library out of the loader's memory."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kubebee.bpf.syscall import BpfError

RTMGRP_LINK = 1

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_RTA = struct.Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_XDP = 1, 3, 4, 10, 43
_IFLA_XDP_ATTACHED, _IFLA_XDP_PROG_ID = 2, 4
_IFLA_XDP_DRV_PROG_ID, _IFLA_XDP_SKB_PROG_ID, _IFLA_XDP_HW_PROG_ID = 5, 6, 7
_ATTR_TYPE_MASK = 0x3FFF
_RECEIVE_SIZE = 1 << 18

XdpAttachMode = Literal["native", "generic", "offload", "multi"]
_MODES: dict[int, XdpAttachMode] = {1: "native", 2: "generic", 3: "offload", 4: "multi"}


@dataclass(frozen=True, slots=True)
class XdpAttachment:
    """What is on an interface's XDP hook; in mode "multi" `prog_id` is that of the native one."""

    prog_id: int
    mode: XdpAttachMode


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface; `address` is the MAC as six bytes, or b""."""

    index: int
    name: str
    up: bool
    loopback: bool
    mtu: int
    master: int | None
    address: bytes
    xdp: XdpAttachment | None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """An interface that is there (new or changed), or is gone."""

    interface: Interface
    gone: bool


def dump_interfaces() -> list[Interface]:
    """Return the interfaces of the calling thread's network namespace.

    Raises:
        BpfError: netlink refused.
    """
    request = _NLMSG.pack(
        _NLMSG.size + _IFINFO.size, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0
    ) + _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found: list[Interface] = []
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as sock:
        sock.settimeout(10)
        sock.sendto(request, (0, 0))
        while True:
            for kind, payload in _messages(sock.recv(_RECEIVE_SIZE)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    raise BpfError("cannot list interfaces", -struct.unpack_from("=i", payload)[0])
                if kind == _RTM_NEWLINK:
                    found.append(_interface(payload))


def parse_changes(datagram: bytes) -> list[LinkChange]:
    """Decode what the link group sent."""
    return [
        LinkChange(_interface(payload), gone=kind == _RTM_DELLINK)
        for kind, payload in _messages(datagram)
        # A bridge also announces ports in family AF_BRIDGE; their removal is not the interface's.
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and payload[0] == socket.AF_UNSPEC
    ]


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLMSG.size <= len(datagram):
        length, kind, _, _, _ = _NLMSG.unpack_from(datagram, at)
        if length < _NLMSG.size:
            return
        yield kind, datagram[at + _NLMSG.size : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _RTA.size <= len(data):
        length, kind = _RTA.unpack_from(data, at)
        if length < _RTA.size:
            break
        found[kind & _ATTR_TYPE_MASK] = data[at + _RTA.size : at + length]
        at += (length + 3) & ~3
    return found


def _interface(payload: bytes) -> Interface:
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    attributes = _attributes(payload[_IFINFO.size :])
    return Interface(
        index=index,
        name=attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        mtu=_u32(attributes, _IFLA_MTU) or 0,
        master=_u32(attributes, _IFLA_MASTER),
        address=attributes.get(_IFLA_ADDRESS, b""),
        xdp=_xdp(_attributes(attributes.get(_IFLA_XDP, b""))),
    )


def _xdp(attributes: dict[int, bytes]) -> XdpAttachment | None:
    mode = _MODES.get(attributes.get(_IFLA_XDP_ATTACHED, b"\0")[0])
    if mode is None:
        return None
    for kind in (_IFLA_XDP_PROG_ID, _IFLA_XDP_DRV_PROG_ID, _IFLA_XDP_SKB_PROG_ID, _IFLA_XDP_HW_PROG_ID):
        prog_id = _u32(attributes, kind)
        if prog_id:
            return XdpAttachment(prog_id, mode)
    return None


def _u32(attributes: dict[int, bytes], kind: int) -> int | None:
    data = attributes.get(kind)
    return int(struct.unpack("=I", data)[0]) if data is not None and len(data) == 4 else None


def open_link_socket() -> socket.socket:
    """Return a non-blocking socket that hears of every interface that comes, changes or goes."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    sock.bind((0, RTMGRP_LINK))
    return sock


def receive(sock: socket.socket) -> bytes | None:
    """Return the next datagram, b"" if there is none now, None if some were lost."""
    try:
        return sock.recv(_RECEIVE_SIZE)
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return None
        raise BpfError("cannot read netlink", error.errno or 0, hint=os.strerror(error.errno or 0)) from error
