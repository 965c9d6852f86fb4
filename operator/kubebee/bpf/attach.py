"""Attach a program to its hook. Each function returns an open link; pin it to keep it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from kubebee.bpf import features
from kubebee.bpf.constants import AttachFlag, AttachType, Cmd, MapFlag, XdpFlag
from kubebee.bpf.link import Link
from kubebee.bpf.object import ObjectMap
from kubebee.bpf.syscall import BpfError, address, bpf, perf_event_open
from kubebee.bpf.tracefs import tracepoint_id

XdpMode = Literal["native", "generic"]

_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTR = struct.Struct("=IIQQQQQIIQQ48x")  # struct perf_event_attr, 120 bytes
_PMU = Path("/sys/bus/event_source/devices")
_UPROBE_MULTI_RETURN = 1  # enum of bpf_attr.link_create.uprobe_multi.flags


@dataclass(frozen=True, slots=True)
class Position:
    """Where among the programs of a tcx hook a new one goes."""

    flags: int = 0
    relative_id: int = 0

    @classmethod
    def first(cls) -> Self:
        """Before all others."""
        return cls(AttachFlag.BEFORE)

    @classmethod
    def last(cls) -> Self:
        """After all others."""
        return cls(AttachFlag.AFTER)

    @classmethod
    def before_link(cls, link_id: int) -> Self:
        """Right before a link of the same hook."""
        return cls(AttachFlag.BEFORE | AttachFlag.ID | MapFlag.LINK, link_id)

    @classmethod
    def after_link(cls, link_id: int) -> Self:
        """Right after a link of the same hook."""
        return cls(AttachFlag.AFTER | AttachFlag.ID | MapFlag.LINK, link_id)

    @classmethod
    def before_program(cls, prog_id: int) -> Self:
        """Right before a program that was attached without a link."""
        return cls(AttachFlag.BEFORE | AttachFlag.ID, prog_id)

    @classmethod
    def after_program(cls, prog_id: int) -> Self:
        """Right after a program that was attached without a link."""
        return cls(AttachFlag.AFTER | AttachFlag.ID, prog_id)


def attach_xdp(prog_fd: int, ifindex: int, mode: XdpMode) -> Link:
    """Attach to an interface's XDP hook.

    Raises:
        BpfError: EBUSY if another program is there, EOPNOTSUPP if the driver has no native mode.
    """
    flags = XdpFlag.DRV_MODE if mode == "native" else XdpFlag.SKB_MODE
    return _link(
        prog_fd,
        ifindex,
        AttachType.XDP,
        flags,
        what=f"cannot attach XDP in {mode} mode",
        where=f"interface {ifindex}",
    )


def attach_tcx(prog_fd: int, ifindex: int, ingress: bool, position: Position | None = None) -> Link:
    """Attach to an interface's tcx hook; without a position after all others.

    Raises:
        UnsupportedError: kernel before 6.6; kubebee.bpf.clsact is for those.
    """
    features.require("tcx")
    hook = AttachType.TCX_INGRESS if ingress else AttachType.TCX_EGRESS
    place = position or Position()
    extra = struct.pack("=I4xQ", place.relative_id, 0)
    return _link(
        prog_fd,
        ifindex,
        hook,
        place.flags,
        extra,
        what=f"cannot attach {hook.name.lower()}",
        where=f"interface {ifindex}",
    )


def attach_tracepoint(prog_fd: int, category: str, name: str) -> Link:
    """Attach to a tracepoint such as sched/sched_process_exec, on all CPUs.

    Raises:
        NoSuchTracepointError: this kernel does not have it.
    """
    attr = _perf_attr(_PERF_TYPE_TRACEPOINT, tracepoint_id(category, name))
    return _perf_link(prog_fd, attr, f"tracepoint {category}/{name}")


def attach_raw_tracepoint(prog_fd: int, name: str) -> Link:
    """Attach to a tracepoint by its bare name such as sched_process_exec, with raw arguments.

    Raises:
        BpfError: ENOENT if this kernel does not have it.
    """
    text = name.encode() + b"\0"
    attr = struct.pack("=QI4xQ", address(text), prog_fd, 0)
    return Link(bpf(Cmd.RAW_TRACEPOINT_OPEN, attr, "cannot attach", f"raw tracepoint {name}"))


def attach_tracing(prog_fd: int) -> Link:
    """Attach a tp_btf, fentry, fexit or lsm program to the target that it was loaded for.

    A kernel that lacks what fentry, fexit or lsm need refuses at load already: ask
    features.require_for_program() before.
    """
    return Link(bpf(Cmd.RAW_TRACEPOINT_OPEN, struct.pack("=QI4xQ", 0, prog_fd, 0), "cannot attach"))


def attach_uprobe(prog_fd: int, path: str | Path, offset: int, pid: int = -1, retprobe: bool = False) -> Link:
    """Attach to an instruction of an executable or library.

    Args:
        prog_fd: a program of type KPROBE.
        path: the file.
        offset: bytes into the file; see kubebee.bpf.symbols.file_offset().
        pid: only in this process; -1 for all, those that start later too.
        retprobe: on return from the function instead of on entry.
    """
    name = os.fsencode(path) + b"\0"
    attr = _perf_attr(_pmu_type("uprobe"), int(retprobe), address(name), offset)
    return _perf_link(prog_fd, attr, f"{'uretprobe' if retprobe else 'uprobe'} {path}+{offset:#x}", pid)


def attach_uprobe_multi(
    prog_fd: int, path: str | Path, offset: int, pid: int = 0, retprobe: bool = False
) -> Link:
    """As `attach_uprobe`, without a perf event, for which the kernel asks for CAP_SYS_ADMIN: PERFMON does.

    Args:
        prog_fd: a program of type KPROBE, loaded for TRACE_UPROBE_MULTI.
        path: the file.
        offset: bytes into the file.
        pid: only in this process; 0 for all.
        retprobe: on return from the function instead of on entry.

    Raises:
        BpfError: EINVAL for a program that was loaded for a perf event.
        UnsupportedError: kernel before 6.6.
    """
    features.require("uprobe_multi")
    name, offsets = os.fsencode(path) + b"\0", struct.pack("=Q", offset)
    one, flags = 1, _UPROBE_MULTI_RETURN if retprobe else 0
    return _link(
        prog_fd,
        0,
        AttachType.TRACE_UPROBE_MULTI,
        extra=struct.pack("=QQQQIII4x", address(name), address(offsets), 0, 0, one, flags, pid),
        what="cannot attach",
        where=f"{'uretprobe' if retprobe else 'uprobe'} {path}+{offset:#x}",
    )


def attach_kprobe(prog_fd: int, function: str, offset: int = 0, retprobe: bool = False) -> Link:
    """Attach to a kernel function, on entry plus `offset` bytes or on return.

    Raises:
        UnsupportedError: kernel without kprobes.
    """
    name = function.encode() + b"\0"
    attr = _perf_attr(_pmu_type("kprobe"), int(retprobe), address(name), offset)
    return _perf_link(prog_fd, attr, f"{'kretprobe' if retprobe else 'kprobe'} {function}")


def attach_cgroup(prog_fd: int, cgroup_path: str | Path, attach_type: AttachType) -> Link:
    """Attach to a hook of a cgroup (version 2) and all below it; others' programs there stay."""
    where = f"cgroup {cgroup_path}"
    try:
        fd = os.open(cgroup_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BpfError("cannot open", error.errno or 0, where=where) from error
    try:
        return _link(prog_fd, fd, attach_type, what=f"cannot attach {attach_type.name.lower()}", where=where)
    finally:
        os.close(fd)


def attach_iter(prog_fd: int, map_fd: int | None = None) -> Link:
    """Make an iterator; read it by read_iter(), or pin the link and read the pin as a file.

    Args:
        prog_fd: the program.
        map_fd: for iterators over what a map holds, which map.
    """
    which = b"" if map_fd is None else struct.pack("=I", map_fd)  # union bpf_iter_link_info
    extra = struct.pack("=QI", address(which), len(which)) if which else b""
    return _link(prog_fd, 0, AttachType.TRACE_ITER, extra=extra, what="cannot attach iterator")


def read_iter(link: Link) -> bytes:
    """Run an iterator from start to end and return what its program wrote."""
    with os.fdopen(
        bpf(Cmd.ITER_CREATE, struct.pack("=II", link.fd, 0), "cannot run iterator"), "rb"
    ) as output:
        return output.read()


def attach_struct_ops(operations: ObjectMap) -> Link:
    """Register the kernel operations of a loaded map in section ".struct_ops.link".

    Raises:
        LoadError: EEXIST if operations of that name are registered, EINVAL if the kernel refuses them.
    """
    return Link(operations.attach_struct_ops())


def replace_struct_ops(link: Link, operations: ObjectMap) -> None:
    """Put a loaded map's operations in place of those of a link, which must have the same name.

    Raises:
        LoadError: the kernel refused; what was registered stays.
    """
    operations.replace_struct_ops(link.fd)


def _link(
    prog_fd: int,
    target: int,
    attach_type: AttachType,
    flags: int = 0,
    extra: bytes = b"",
    *,
    what: str,
    where: str = "",
) -> Link:
    attr = struct.pack("=IIII", prog_fd, target, attach_type, flags) + extra
    return Link(bpf(Cmd.LINK_CREATE, attr, what, where))


def _perf_attr(kind: int, config: int, config1: int = 0, config2: int = 0) -> bytes:
    return _PERF_ATTR.pack(kind, _PERF_ATTR.size, config, 0, 0, 0, 0, 0, 0, config1, config2)


def _perf_link(prog_fd: int, attr: bytes, where: str, pid: int = -1) -> Link:
    features.require("perf_link")
    # Which CPU is opened does not matter: a program on a tracepoint or probe runs on all.
    try:
        fd = perf_event_open(attr, pid, 0 if pid < 0 else -1)
    except BpfError as error:
        raise BpfError("cannot open perf event", error.errno, where=where) from error
    try:
        return _link(prog_fd, fd, AttachType.PERF_EVENT, what="cannot attach", where=where)
    finally:
        os.close(fd)


def _pmu_type(name: Literal["uprobe", "kprobe"]) -> int:
    features.require(name)
    return int((_PMU / name / "type").read_text())
