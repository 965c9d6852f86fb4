"""Neighbours (ARP and ND entries): which there are, and letting the kernel keep some resolved."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kubebee.bpf.netlink import ask, attributes, dump, pack_attribute, u32

RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
_RTM_GETNEIGH = 30
_NDMSG = struct.Struct("=B3xiHBB")  # family, ifindex, state, flags, type
_NDA_DST, _NDA_LLADDR, _NDA_PROTOCOL, _NDA_FLAGS_EXT = 1, 2, 12, 15
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable, stale, delay, probe, noarp, permanent
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_USE, _NTF_EXT_LEARNED = 0x01, 0x10
_NTF_EXT_MANAGED = 0x01
_NLM_F_ACK, _NLM_F_CREATE = 0x4, 0x400
_PROTOCOL = b"\xb9"
"""Tells our entries from those of others, also after a crash; a number that rt_protos leaves free."""


class NeighbourKey(NamedTuple):
    """An address (4 or 16 bytes, network order) on an interface."""

    ifindex: int
    address: bytes


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the kernel's table.

    Attributes:
        mac: link-layer address, b"" while it is not known.
        fixed: somebody has set it by hand or by a routing daemon; it needs no resolving.
        managed: the kernel keeps it resolved (NTF_EXT_MANAGED).
        ours: kubebee asked for that.
    """

    key: NeighbourKey
    mac: bytes
    fixed: bool
    managed: bool
    ours: bool


def lookup_neighbours(keys: Sequence[NeighbourKey]) -> list[Neighbour | None]:
    """Return the entries of `keys`; None where there is none.

    Raises:
        BpfError: netlink failed.
    """
    answers = ask(_RTM_GETNEIGH, 0, [_request(key, 0) for key in keys])
    return [parse_neighbour(answer) if isinstance(answer, bytes) else None for answer in answers]


def our_neighbours() -> Iterator[NeighbourKey]:
    """Yield the entries that kubebee, this or an earlier one, lets the kernel keep resolved.

    Raises:
        BpfError: netlink failed.
    """
    for payload in dump(_RTM_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), RTM_NEWNEIGH):
        neighbour = parse_neighbour(payload)
        if neighbour is not None and neighbour.ours and neighbour.managed:
            yield neighbour.key


def keep_resolved(keys: Collection[NeighbourKey]) -> dict[NeighbourKey, int]:
    """Let the kernel resolve entries and keep them so; returns the errno of each that it refused.

    Kernels before 5.16 resolve once: ask again when an entry is gone. An update by netlink clears the marks
    it does not name, so leave entries alone that are fixed or managed by others.

    Raises:
        BpfError: netlink failed.
    """
    marks = pack_attribute(_NDA_PROTOCOL, _PROTOCOL) + pack_attribute(
        _NDA_FLAGS_EXT, struct.pack("=I", _NTF_EXT_MANAGED)
    )
    answers = ask(RTM_NEWNEIGH, _NLM_F_ACK | _NLM_F_CREATE, [_request(key, _NTF_USE) + marks for key in keys])
    return {
        key: answer for key, answer in zip(keys, answers, strict=True) if isinstance(answer, int) and answer
    }


def stop_keeping(keys: Collection[NeighbourKey]) -> None:
    """Let entries age like any other again; those that are gone are none of our business.

    Raises:
        BpfError: netlink failed.
    """
    ask(RTM_NEWNEIGH, _NLM_F_ACK, [_request(key, _NTF_USE) for key in keys])


def _request(key: NeighbourKey, flags: int) -> bytes:
    family = socket.AF_INET if len(key.address) == 4 else socket.AF_INET6
    return _NDMSG.pack(family, key.ifindex, 0, flags, 0) + pack_attribute(_NDA_DST, key.address)


def parse_neighbour(payload: bytes) -> Neighbour | None:
    """Decode an RTM_NEWNEIGH or RTM_DELNEIGH; None if it is about something else, such as a bridge's."""
    family, ifindex, state, flags, _ = _NDMSG.unpack_from(payload)
    found = attributes(payload[_NDMSG.size :])
    address = found.get(_NDA_DST, b"")
    if family not in (socket.AF_INET, socket.AF_INET6) or not address:
        return None
    return Neighbour(
        key=NeighbourKey(ifindex, address),
        mac=found.get(_NDA_LLADDR, b"") if state & _NUD_VALID else b"",
        fixed=bool(state & (_NUD_NOARP | _NUD_PERMANENT) or flags & _NTF_EXT_LEARNED),
        managed=bool((u32(found, _NDA_FLAGS_EXT) or 0) & _NTF_EXT_MANAGED),
        ours=found.get(_NDA_PROTOCOL) == _PROTOCOL,
    )
