"""Links: the attachment of a program to a hook, which lives as long as a descriptor or pin holds it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from kubebee.bpf.constants import AttachFlag, AttachType, Cmd, LinkType
from kubebee.bpf.handle import Handle
from kubebee.bpf.syscall import bpf, c_string, next_id, obj_info

_INFO_SIZE = 64  # struct bpf_link_info up to the end of every member read here
_DETAILS = 16  # offset of its union
_NAME_ROOM = 256
_PATH_ROOM = 4096
_RETURNS = 1  # BPF_F_UPROBE_MULTI_RETURN


class PerfLinkType(IntEnum):
    """What a link sits on (enum bpf_perf_event_type)."""

    UNSPEC = 0
    UPROBE = 1
    URETPROBE = 2
    KPROBE = 3
    KRETPROBE = 4
    TRACEPOINT = 5
    EVENT = 6


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says about a link; fields that its type does not have are None.

    Attributes:
        ifindex: XDP, TCX and NETKIT; 0 once the interface is gone.
        attach_type: hook, for types that serve several.
        cgroup_id: CGROUP; the inode number of its folder.
        map_id: STRUCT_OPS.
        netns_ino: NETNS.
        target_btf_id: TRACING; the function or tracepoint in the kernel's BTF.
        perf_type: PERF_EVENT, on kernels from 6.6; UPROBE_MULTI.
        target: name of the tracepoint, iterator, function, or path of the probed file.
        offset: probes; bytes into the function or file. UPROBE_MULTI: the first of several; from 6.8.
    """

    id: int
    type: LinkType
    prog_id: int
    ifindex: int | None = None
    attach_type: AttachType | None = None
    cgroup_id: int | None = None
    map_id: int | None = None
    netns_ino: int | None = None
    target_btf_id: int | None = None
    perf_type: PerfLinkType | None = None
    target: str | None = None
    offset: int | None = None


class Link(Handle):
    """An open link. Owns its file descriptor; use as a context manager or call close()."""

    open_by_id = Cmd.LINK_GET_FD_BY_ID

    @property
    def info(self) -> LinkInfo:
        """What the kernel says about the link now."""
        return link_info(self._fd)

    def update(self, prog_fd: int, expected_prog_fd: int | None = None) -> None:
        """Replace the program in one step: no packet or event sees neither.

        Args:
            prog_fd: the new program.
            expected_prog_fd: refuse (EPERM) unless this is the program that is attached now.

        Raises:
            BpfError: EINVAL for another program type or a link type without replacement
                (tracing, perf events), ENOLINK when the link was detached.
        """
        flags = 0 if expected_prog_fd is None else AttachFlag.REPLACE
        attr = struct.pack("=IIII", self._fd, prog_fd, flags, expected_prog_fd or 0)
        bpf(Cmd.LINK_UPDATE, attr, "cannot replace the program of a link")

    def detach(self) -> None:
        """Take the program off its hook while the link stays.

        Raises:
            BpfError: EOPNOTSUPP for tracing and perf-event links: closing and unpinning detaches those.
        """
        bpf(Cmd.LINK_DETACH, struct.pack("=I", self._fd), "cannot detach a link")


def link_info(fd: int) -> LinkInfo:
    """Read the info of an open link."""
    raw = obj_info(fd, _INFO_SIZE)
    kind, link_id, prog_id = struct.unpack_from("=III", raw)
    first, second, third = struct.unpack_from("=III", raw, _DETAILS)
    base = LinkInfo(link_id, LinkType(kind), prog_id)
    match base.type:
        case LinkType.XDP:
            return replace(base, ifindex=first, attach_type=AttachType.XDP)
        case LinkType.TCX | LinkType.NETKIT:
            return replace(base, ifindex=first, attach_type=AttachType(second))
        case LinkType.CGROUP:
            return replace(base, cgroup_id=first | second << 32, attach_type=AttachType(third))
        case LinkType.NETNS:
            return replace(base, netns_ino=first, attach_type=AttachType(second))
        case LinkType.STRUCT_OPS:
            return replace(base, map_id=first)
        case LinkType.TRACING:
            return replace(base, attach_type=AttachType(first), target_btf_id=third)
        case LinkType.RAW_TRACEPOINT | LinkType.ITER:
            return replace(base, target=_name(fd, b""))
        case LinkType.PERF_EVENT:
            return _perf_info(fd, base, raw)
        case LinkType.UPROBE_MULTI:
            return _uprobe_multi_info(fd, base)
    return base


def _perf_info(fd: int, base: LinkInfo, raw: bytes) -> LinkInfo:
    kind, offset = struct.unpack_from("=I16xI", raw, _DETAILS)
    perf_type = PerfLinkType(kind)
    if perf_type in (PerfLinkType.UNSPEC, PerfLinkType.EVENT):
        return replace(base, perf_type=perf_type)
    return replace(
        base,
        perf_type=perf_type,
        target=_name(fd, raw[_DETAILS : _DETAILS + 8]),
        offset=None if perf_type is PerfLinkType.TRACEPOINT else offset,
    )


def _uprobe_multi_info(fd: int, base: LinkInfo) -> LinkInfo:
    # struct { u64 path, offsets, ref_ctr_offsets, cookies; u32 path_size, count, flags, pid; }: the kernel
    # fills what the addresses point to.
    path, offsets = ctypes.create_string_buffer(_PATH_ROOM), ctypes.c_uint64()
    asked = struct.pack("=QQQQII", ctypes.addressof(path), ctypes.addressof(offsets), 0, 0, _PATH_ROOM, 1)
    raw = obj_info(fd, _INFO_SIZE, b"\0" * _DETAILS + asked)
    (flags,) = struct.unpack_from("=I", raw, _DETAILS + 40)
    return replace(
        base,
        perf_type=PerfLinkType.URETPROBE if flags & _RETURNS else PerfLinkType.UPROBE,
        target=c_string(path.raw),
        offset=offsets.value,
    )


def _name(fd: int, before: bytes) -> str:
    """Read the name whose address and length stand in the union after the bytes `before`."""
    room = ctypes.create_string_buffer(_NAME_ROOM)
    address_and_length = struct.pack("=QI", ctypes.addressof(room), _NAME_ROOM)
    obj_info(fd, _INFO_SIZE, b"\0" * _DETAILS + before + address_and_length)
    return c_string(room.raw)


def link_ids() -> Iterator[int]:
    """Yield the ids of all links on the machine."""
    current: int | None = 0
    while (current := next_id(Cmd.LINK_GET_NEXT_ID, current or 0)) is not None:
        yield current
