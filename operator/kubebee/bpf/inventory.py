"""Every BPF program on this machine, ours and others': what it is, where it is attached, who holds it."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf.clsact import filters_at, hooks_with_qdisc
from kubebee.bpf.constants import AttachType, Cmd, LinkType, ProgType
from kubebee.bpf.link import Link, LinkInfo, link_ids
from kubebee.bpf.netlink import Interface, dump_interfaces
from kubebee.bpf.program import ProgInfo, Program, program_ids
from kubebee.bpf.syscall import BpfError, bpf_errno, obj_get

_QUERY = struct.Struct("=IIIIQI4xQQQQ")  # target, attach_type, 2 flags, prog_ids, count, 3 arrays, revision
_COUNT_OFFSET = 24
_QUERY_ROOM = 64  # the kernel's limit of programs on one tcx hook (BPF_MPROG_MAX)
_MAX_PINS = 20_000
_OWNER_OF_NAME = (("cil_", "cilium"), ("tail_", "cilium"), ("sd_", "systemd"), ("xdp_dispatcher", "libxdp"))
_SHARED_FOLDERS = frozenset({"tc", "xdp", "ip"})  # in a bpffs: made by iproute2 for anybody
_HOLDING = ("anon_inode:bpf-prog", "anon_inode:bpf_link")
_FDINFO_ID = re.compile(r"^prog_id:\s*(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """One place that a program is attached to.

    Attributes:
        hook: "xdp", "tcx_ingress", "clsact_egress", "cgroup_inet_ingress", "tracepoint" and so on.
        target: interface, tracepoint, probed file, cgroup inode ..., as text; "" if unknown.
        position: from 0, where a hook runs several in order; None elsewhere.
        link_id: None if attached without a link.
    """

    hook: str
    target: str
    position: int | None = None
    link_id: int | None = None


@dataclass(frozen=True, slots=True)
class _Pin:
    """A pinned program or link; `owner` is its first folder in the file system, "" if there is none."""

    path: str
    owner: str


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """A program on this machine.

    Attributes:
        owner: best guess at the software it belongs to, "" if there is none.
        pids: processes that hold the program or a link to it.
        pins: paths in the BPF file systems mounted here.
    """

    id: int
    type: ProgType
    name: str
    tag: str
    run_cnt: int
    run_time_ns: int
    load_time: int
    created_by_uid: int
    map_ids: tuple[int, ...]
    owner: str
    attach_points: tuple[AttachPoint, ...]
    pids: tuple[int, ...]
    pins: tuple[str, ...]


def programs() -> list[ProgramRecord]:
    """List all programs by id. Interfaces are those of this network namespace.

    Raises:
        BpfError: EPERM without the privilege to list them.
    """
    infos = list(_program_infos())
    points = _attach_points(dump_interfaces())
    pins = _pins()
    holders = _holders()
    return [_record(info, points[info.id], holders[info.id], pins[info.id]) for info in infos]


def tcx_programs(ifindex: int, ingress: bool) -> list[tuple[int, int]]:
    """Return (program id, link id or 0) on an interface's tcx hook in the order they run.

    Empty on kernels without tcx.
    """
    prog_ids, links = (ctypes.c_uint32 * _QUERY_ROOM)(), (ctypes.c_uint32 * _QUERY_ROOM)()
    hook = AttachType.TCX_INGRESS if ingress else AttachType.TCX_EGRESS
    attr = bytearray(
        _QUERY.pack(
            *(ifindex, hook, 0, 0, ctypes.addressof(prog_ids), _QUERY_ROOM),
            *(0, ctypes.addressof(links), 0, 0),
        )
    )
    result, err = bpf_errno(Cmd.PROG_QUERY, attr)
    if result < 0:
        if err in (errno.EINVAL, errno.ENOENT, errno.ENODEV):
            return []
        raise BpfError("cannot list tcx programs", err, where=f"interface {ifindex}")
    count = struct.unpack_from("=I", attr, _COUNT_OFFSET)[0]
    return list(zip(prog_ids[:count], links[:count], strict=True))


def _program_infos() -> Iterator[ProgInfo]:
    for prog_id in program_ids():
        try:
            with Program.from_id(prog_id) as program:
                yield program.info
        except BpfError as error:
            if error.errno != errno.ENOENT:  # ENOENT: gone meanwhile
                raise


def _link_infos() -> Iterator[LinkInfo]:
    for link_id in link_ids():
        try:
            with Link.from_id(link_id) as link:
                yield link.info
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise


def _attach_points(interfaces: Sequence[Interface]) -> defaultdict[int, list[AttachPoint]]:
    """Collect attach points by program id: all links, then what is attached without one."""
    points: defaultdict[int, list[AttachPoint]] = defaultdict(list)
    names = {interface.index: interface.name for interface in interfaces}
    positions: dict[int, int] = {}
    for interface in interfaces:
        for ingress in (True, False):
            for position, (prog_id, link_id) in enumerate(tcx_programs(interface.index, ingress)):
                if link_id:
                    positions[link_id] = position
                else:
                    hook = "tcx_ingress" if ingress else "tcx_egress"
                    points[prog_id].append(AttachPoint(hook, interface.name, position))
    for clsact in hooks_with_qdisc():
        running = [one.prog_id for one in filters_at(clsact) if one.prog_id]
        for position, prog_id in enumerate(running):
            hook = "clsact_ingress" if clsact.ingress else "clsact_egress"
            points[prog_id].append(AttachPoint(hook, names.get(clsact.ifindex, ""), position))
    for info in _link_infos():
        point = AttachPoint(_hook(info), _target(info, names), positions.get(info.id), info.id)
        points[info.prog_id].append(point)
    for interface in interfaces:
        xdp = interface.xdp
        if xdp and not any(p.hook == "xdp" and p.target == interface.name for p in points[xdp.prog_id]):
            points[xdp.prog_id].append(AttachPoint("xdp", interface.name))
    return points


def _hook(info: LinkInfo) -> str:
    if info.perf_type is not None:
        return info.perf_type.name.lower()
    if info.attach_type is not None:
        return info.attach_type.name.lower()
    return info.type.name.lower()


def _target(info: LinkInfo, names: dict[int, str]) -> str:
    if info.ifindex is not None:
        # An index that is not here belongs to another network namespace; 0 means that it was detached.
        return names.get(info.ifindex, f"ifindex {info.ifindex}" if info.ifindex else "detached")
    if info.type is LinkType.CGROUP:
        return f"cgroup {info.cgroup_id}"
    if info.target and info.offset is not None:
        return f"{info.target}+{info.offset:#x}"
    return info.target or ""


def _record(info: ProgInfo, points: list[AttachPoint], pids: set[int], pins: list[_Pin]) -> ProgramRecord:
    return ProgramRecord(
        id=info.id,
        type=info.type,
        name=info.name,
        tag=info.tag,
        run_cnt=info.run_cnt,
        run_time_ns=info.run_time_ns,
        load_time=info.load_time,
        created_by_uid=info.created_by_uid,
        map_ids=info.map_ids,
        owner=_owner(info.name, pids, pins),
        attach_points=tuple(points),
        pids=tuple(sorted(pids)),
        pins=tuple(pin.path for pin in pins),
    )


def _owner(name: str, pids: set[int], pins: list[_Pin]) -> str:
    """Guess: the folder it is pinned in, then a known prefix of its name, then a process that holds it."""
    for pin in pins:
        if pin.owner:
            return pin.owner
    for prefix, owner in _OWNER_OF_NAME:
        if name.startswith(prefix):
            return owner
    for pid in sorted(pids):
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
    return ""


def _holders() -> defaultdict[int, set[int]]:
    """Return the processes by the ids of programs that their descriptors (programs, links) hold."""
    holders: defaultdict[int, set[int]] = defaultdict(set)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # gone, or not ours to see
            continue
        for descriptor in descriptors:
            prog_id = _held_program(descriptor)
            if prog_id:
                holders[prog_id].add(int(process.name))
    return holders


def _held_program(descriptor: Path) -> int:
    """Return the id of the program that /proc/PID/fd/N holds, itself or by a link; 0 if none."""
    try:
        if str(descriptor.readlink()) not in _HOLDING:
            return 0
        found = _FDINFO_ID.search((descriptor.parents[1] / "fdinfo" / descriptor.name).read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _pins() -> defaultdict[int, list[_Pin]]:
    """Return what is pinned in the BPF file systems mounted here, by program id."""
    pins: defaultdict[int, list[_Pin]] = defaultdict(list)
    for path, owner in itertools.islice(_pinned_paths(), _MAX_PINS):
        try:
            fd = obj_get(path)
        except BpfError:
            continue
        try:
            prog_id = _held_program(Path(f"/proc/thread-self/fd/{fd}"))
        finally:
            os.close(fd)
        if prog_id:
            pins[prog_id].append(_Pin(path, owner))
    return pins


def _pinned_paths() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/thread-self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[fields.index("-") + 1] != "bpf":
            continue
        root = Path(fields[4].replace("\\040", " "))
        for folder, _, files in os.walk(root):
            parts = Path(folder).relative_to(root).parts
            owner = parts[0] if parts and parts[0] not in _SHARED_FOLDERS else ""
            for file in files:
                yield str(Path(folder, file)), owner
