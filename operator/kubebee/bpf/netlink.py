"""rtnetlink messages, and interfaces as they tell them. Raw, to keep a netlink library out of memory."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kubebee.bpf.syscall import BpfError

RTMGRP_LINK = 1
NETLINK_GENERIC = 16

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_RTA = struct.Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_BATCH = 16
"""Requests per datagram: their answers must fit the socket's default buffer, 8 KiB accounted for each."""
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_XDP = 1, 3, 4, 10, 18, 43
_IFLA_INFO_KIND = 1
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
    """A network interface.

    Attributes:
        address: the MAC as six bytes, or b"".
        kind: of a virtual one, such as veth or bridge; "" for a card.
    """

    index: int
    name: str
    up: bool
    loopback: bool
    mtu: int
    master: int | None
    address: bytes
    xdp: XdpAttachment | None
    kind: str = ""


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
    wanted = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return [_interface(payload) for payload in dump(_RTM_GETLINK, wanted, _RTM_NEWLINK)]


def dump(kind: int, payload: bytes, answer: int, protocol: int = socket.NETLINK_ROUTE) -> Iterator[bytes]:
    """Yield the payloads of type `answer` with which the kernel answers a dump request of type `kind`.

    Raises:
        BpfError: netlink refused.
    """
    with _request_socket(protocol) as sock:
        sock.sendto(pack_message(kind, _NLM_F_DUMP, 1, payload), (0, 0))
        while True:
            for found, _, content in messages(sock.recv(_RECEIVE_SIZE)):
                if found == _NLMSG_DONE:
                    return
                if found == _NLMSG_ERROR:
                    raise BpfError("netlink refuses to list", _error(content))
                if found == answer:
                    yield content


def ask(
    kind: int, flags: int, payloads: Sequence[bytes], protocol: int = socket.NETLINK_ROUTE
) -> list[bytes | int]:
    """Make many requests of one type; each is answered by a payload or an errno (0: acknowledged).

    A request without an answer of its own needs NLM_F_ACK in `flags`.

    Raises:
        BpfError: netlink itself failed.
    """
    answers: list[bytes | int] = []
    if not payloads:
        return answers
    with _request_socket(protocol) as sock:
        for start in range(0, len(payloads), _BATCH):
            part = payloads[start : start + _BATCH]
            requests = [pack_message(kind, flags, start + i, payload) for i, payload in enumerate(part)]
            try:
                sock.sendto(b"".join(requests), (0, 0))
            except OSError as error:
                raise BpfError("netlink takes no request", error.errno or errno.EIO) from error
            while len(answers) < start + len(part):
                try:
                    received = messages(sock.recv(_RECEIVE_SIZE))
                except OSError as error:
                    raise BpfError("netlink does not answer", error.errno or errno.ETIMEDOUT) from error
                for found, sequence, content in received:
                    if sequence == len(answers):
                        answers.append(_error(content) if found == _NLMSG_ERROR else content)
    return answers


def _request_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.settimeout(10)
    return sock


def _error(payload: bytes) -> int:
    return -int(struct.unpack_from("=i", payload)[0])


def pack_message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Return a request, padded so that another may follow."""
    header = _NLMSG.pack(_NLMSG.size + len(payload), kind, flags | _NLM_F_REQUEST, sequence, 0)
    return header + payload + bytes(-len(payload) % 4)


def pack_attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute, padded so that another may follow."""
    return _RTA.pack(_RTA.size + len(data), kind) + data + bytes(-len(data) % 4)


def parse_changes(datagram: bytes) -> list[LinkChange]:
    """Decode what the link group sent."""
    return [
        LinkChange(_interface(payload), gone=kind == _RTM_DELLINK)
        for kind, _, payload in messages(datagram)
        # A bridge also announces ports in family AF_BRIDGE; their removal is not the interface's.
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and payload[0] == socket.AF_UNSPEC
    ]


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and payload of each message."""
    at = 0
    while at + _NLMSG.size <= len(datagram):
        length, kind, _, sequence, _ = _NLMSG.unpack_from(datagram, at)
        if length < _NLMSG.size:
            return
        yield kind, sequence, datagram[at + _NLMSG.size : at + length]
        at += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by type; of a type that comes twice the last."""
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
    found = attributes(payload[_IFINFO.size :])
    return Interface(
        index=index,
        name=_text(found, _IFLA_IFNAME),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        mtu=u32(found, _IFLA_MTU) or 0,
        master=u32(found, _IFLA_MASTER),
        address=found.get(_IFLA_ADDRESS, b""),
        xdp=_xdp(attributes(found.get(_IFLA_XDP, b""))),
        kind=_text(attributes(found.get(_IFLA_LINKINFO, b"")), _IFLA_INFO_KIND),
    )


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _xdp(found: dict[int, bytes]) -> XdpAttachment | None:
    mode = _MODES.get(found.get(_IFLA_XDP_ATTACHED, b"\0")[0])
    if mode is None:
        return None
    for kind in (_IFLA_XDP_PROG_ID, _IFLA_XDP_DRV_PROG_ID, _IFLA_XDP_SKB_PROG_ID, _IFLA_XDP_HW_PROG_ID):
        prog_id = u32(found, kind)
        if prog_id:
            return XdpAttachment(prog_id, mode)
    return None


def u32(found: dict[int, bytes], kind: int) -> int | None:
    """Return a 32-bit attribute in host byte order, None if there is none."""
    data = found.get(kind)
    return int(struct.unpack("=I", data)[0]) if data is not None and len(data) == 4 else None


def open_link_socket() -> socket.socket:
    """Return a non-blocking socket that hears of every interface that comes, changes or goes."""
    return open_event_socket(RTMGRP_LINK)


def open_event_socket(groups: int) -> socket.socket:
    """Return a non-blocking socket that hears of the multicast groups in the mask `groups`."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    sock.bind((0, groups))
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
