"""How each attach type becomes a kernel link: what to load the function as, where to, and the call.

XDP is not here: its programs go through chains (loader.chain, loader.interfaces).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from kubebee.api.v1alpha1 import attach as api
from kubebee.bpf import attach as kernel
from kubebee.bpf.clsact import Hook
from kubebee.bpf.constants import AttachType, ProgType
from kubebee.bpf.features import feature
from kubebee.bpf.link import Link
from kubebee.bpf.symbols import file_offset
from kubebee.bpf.syscall import BpfError
from kubebee.errors import NotImplementedYetError
from kubebee.loader.host import Host


@dataclass(frozen=True, slots=True)
class LoadAs:
    """What the verifier must know of a function before it is loaded.

    Attributes:
        expected: None leaves what libbpf derived from the section.
        target: kernel function, tracepoint, hook or iterator that it is typed by.
    """

    type: ProgType
    expected: AttachType | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One place to attach to.

    Attributes:
        key: names the place in pins; equal keys are one place.
        point: what the status calls it.
        hook: for types whose programs at one hook run in order of priority.
        position: for those, where among the programs at the hook to attach now.
    """

    key: str
    point: str
    hook: Hook | None = None
    position: kernel.Position | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """Places found now, and what is asked for but not there yet."""

    found: tuple[Target, ...]
    missing: tuple[str, ...] = ()


class Driver(Protocol):
    """One attach type."""

    @property
    def in_place(self) -> bool:
        """Whether links exchange their program atomically."""

    def load_as(self, attach: api.Attach) -> LoadAs:
        """What to load the function as."""

    def targets(self, attach: api.Attach, host: Host) -> Targets:
        """Where to attach it on this host."""

    def attach(self, prog_fd: int, attach: api.Attach, target: Target, host: Host) -> Link:
        """Attach a loaded program.

        Raises:
            BpfError: the kernel refuses.
            UnsupportedError: this kernel lacks the attach type; names what is missing.
        """


@dataclass(frozen=True, slots=True)
class _Traced:
    """Attach types with one target in the kernel, named by one or two words of the manifest."""

    type: ProgType
    link: Callable[[int, api.Attach], Link]
    names: tuple[str, ...]
    expected: AttachType | None = None
    typed: bool = False  # the verifier needs the target to type the arguments
    in_place: bool = False

    def _point(self, attach: api.Attach) -> str:
        return "/".join(str(getattr(attach, name)) for name in self.names)

    def load_as(self, attach: api.Attach) -> LoadAs:
        return LoadAs(self.type, self.expected, self._point(attach) if self.typed else "")

    def targets(self, attach: api.Attach, host: Host) -> Targets:  # noqa: ARG002 (same everywhere)
        return Targets((Target(f"{attach.type}:{self._point(attach)}", self._point(attach)),))

    def attach(self, prog_fd: int, attach: api.Attach, target: Target, host: Host) -> Link:  # noqa: ARG002
        return self.link(prog_fd, attach)


def _text(attach: api.Attach, field: str) -> str:
    return str(getattr(attach, field))


class _Tc:
    """By tcx; where the host has none, loader.filters attaches instead."""

    in_place = True

    def load_as(self, attach: api.Attach) -> LoadAs:
        ingress = cast("api.TcAttach", attach).direction == "Ingress"
        return LoadAs(ProgType.SCHED_CLS, AttachType.TCX_INGRESS if ingress else AttachType.TCX_EGRESS)

    def targets(self, attach: api.Attach, host: Host) -> Targets:
        tc = cast("api.TcAttach", attach)
        selected = host.select(tc.interfaces)
        side = tc.direction.lower()
        found = (
            Target(f"tc:{index}:{side}", f"{name} {side}", Hook(index, tc.direction == "Ingress"))
            for name, index in selected.found.items()
        )
        return Targets(tuple(found), selected.missing)

    def attach(self, prog_fd: int, attach: api.Attach, target: Target, host: Host) -> Link:  # noqa: ARG002
        assert target.hook is not None
        return kernel.attach_tcx(prog_fd, target.hook.ifindex, target.hook.ingress, target.position)


class _Cgroup:
    in_place = True

    def __init__(self, type_: ProgType, hook: Callable[[api.Attach], AttachType]) -> None:
        self._type = type_
        self._hook = hook

    def load_as(self, attach: api.Attach) -> LoadAs:
        return LoadAs(self._type, self._hook(attach))

    def targets(self, attach: api.Attach, host: Host) -> Targets:
        path = host.cgroup(cast("api.SockOpsAttach", attach).cgroup)
        if not path.is_dir():
            return Targets((), (str(path),))
        hook = self._hook(attach).name.lower().removeprefix("cgroup_")
        return Targets((Target(f"cgroup:{path}:{hook}", f"{path} {hook}"),))

    def attach(self, prog_fd: int, attach: api.Attach, target: Target, host: Host) -> Link:  # noqa: ARG002
        path = host.cgroup(cast("api.SockOpsAttach", attach).cgroup)
        return kernel.attach_cgroup(prog_fd, path, self._hook(attach))


class _UserProbe:
    in_place = False

    def __init__(self, retprobe: bool) -> None:
        self._retprobe = retprobe

    def load_as(self, attach: api.Attach) -> LoadAs:  # noqa: ARG002 (same everywhere)
        multi = feature("uprobe_multi").available
        return LoadAs(ProgType.KPROBE, AttachType.TRACE_UPROBE_MULTI if multi else None)

    def targets(self, attach: api.Attach, host: Host) -> Targets:
        probe = cast("api.UserProbe", attach)
        path = _probed_file(probe, host)
        host.files.file(path)  # it must be there
        place = f"{probe.symbol or ''}{f'+{probe.offset}' if probe.offset else ''}"
        suffix = f" pid {probe.pid}" if probe.pid else ""
        return Targets((Target(f"{attach.type}:{path}:{place}{suffix}", f"{path}:{place}{suffix}"),))

    def attach(self, prog_fd: int, attach: api.Attach, target: Target, host: Host) -> Link:  # noqa: ARG002
        probe = cast("api.UserProbe", attach)
        path = host.files.file(_probed_file(probe, host))
        offset = (file_offset(path, probe.symbol) if probe.symbol else 0) + (probe.offset or 0)
        if feature("uprobe_multi").available:
            try:
                return kernel.attach_uprobe_multi(prog_fd, path, offset, probe.pid or 0, self._retprobe)
            except BpfError as error:
                # BCC, and versions of kubebee before this one, load programs for perf events.
                if error.errno != errno.EINVAL:
                    raise
        return kernel.attach_uprobe(prog_fd, path, offset, probe.pid or -1, self._retprobe)


def _probed_file(probe: api.UserProbe, host: Host) -> str:
    """Path on the node."""
    return probe.path or host.files.library(probe.library or "")


class _Iter:
    in_place = True

    def load_as(self, attach: api.Attach) -> LoadAs:
        return LoadAs(ProgType.TRACING, AttachType.TRACE_ITER, cast("api.IterAttach", attach).target)

    def targets(self, attach: api.Attach, host: Host) -> Targets:  # noqa: ARG002 (same everywhere)
        target = cast("api.IterAttach", attach).target
        return Targets((Target(f"iter:{target}", target),))

    def attach(self, prog_fd: int, attach: api.Attach, target: Target, host: Host) -> Link:  # noqa: ARG002
        return kernel.attach_iter(prog_fd)


_SOCK_ADDR_HOOKS = {
    "Bind4": AttachType.CGROUP_INET4_BIND,
    "Bind6": AttachType.CGROUP_INET6_BIND,
    "Connect4": AttachType.CGROUP_INET4_CONNECT,
    "Connect6": AttachType.CGROUP_INET6_CONNECT,
    "Sendmsg4": AttachType.CGROUP_UDP4_SENDMSG,
    "Sendmsg6": AttachType.CGROUP_UDP6_SENDMSG,
    "Recvmsg4": AttachType.CGROUP_UDP4_RECVMSG,
    "Recvmsg6": AttachType.CGROUP_UDP6_RECVMSG,
    "Getpeername4": AttachType.CGROUP_INET4_GETPEERNAME,
    "Getpeername6": AttachType.CGROUP_INET6_GETPEERNAME,
    "Getsockname4": AttachType.CGROUP_INET4_GETSOCKNAME,
    "Getsockname6": AttachType.CGROUP_INET6_GETSOCKNAME,
}
_SOCK_HOOKS = {
    "Create": AttachType.CGROUP_INET_SOCK_CREATE,
    "Release": AttachType.CGROUP_INET_SOCK_RELEASE,
    "PostBind4": AttachType.CGROUP_INET4_POST_BIND,
    "PostBind6": AttachType.CGROUP_INET6_POST_BIND,
}


def _skb_hook(attach: api.Attach) -> AttachType:
    ingress = cast("api.CgroupSkbAttach", attach).direction == "Ingress"
    return AttachType.CGROUP_INET_INGRESS if ingress else AttachType.CGROUP_INET_EGRESS


def _tracing(expected: AttachType, field: str) -> Driver:
    return _Traced(
        ProgType.LSM if expected is AttachType.LSM_MAC else ProgType.TRACING,
        lambda fd, _attach: kernel.attach_tracing(fd),
        (field,),
        expected=expected,
        typed=True,
    )


_DRIVERS: Mapping[str, Driver] = {
    "TC": _Tc(),
    "Tracepoint": _Traced(
        ProgType.TRACEPOINT,
        lambda fd, a: kernel.attach_tracepoint(fd, _text(a, "category"), _text(a, "name")),
        ("category", "name"),
    ),
    "RawTracepoint": _Traced(
        ProgType.RAW_TRACEPOINT, lambda fd, a: kernel.attach_raw_tracepoint(fd, _text(a, "name")), ("name",)
    ),
    "TpBtf": _tracing(AttachType.TRACE_RAW_TP, "name"),
    "Fentry": _tracing(AttachType.TRACE_FENTRY, "function"),
    "Fexit": _tracing(AttachType.TRACE_FEXIT, "function"),
    "Lsm": _tracing(AttachType.LSM_MAC, "hook"),
    "Kprobe": _Traced(
        ProgType.KPROBE,
        lambda fd, a: kernel.attach_kprobe(
            fd, _text(a, "symbol"), cast("api.KprobeAttach", a).offset or 0, retprobe=False
        ),
        ("symbol",),
    ),
    "Kretprobe": _Traced(
        ProgType.KPROBE,
        lambda fd, a: kernel.attach_kprobe(fd, _text(a, "symbol"), 0, retprobe=True),
        ("symbol",),
    ),
    "Uprobe": _UserProbe(retprobe=False),
    "Uretprobe": _UserProbe(retprobe=True),
    "CgroupSkb": _Cgroup(ProgType.CGROUP_SKB, _skb_hook),
    "CgroupSockAddr": _Cgroup(
        ProgType.CGROUP_SOCK_ADDR, lambda a: _SOCK_ADDR_HOOKS[cast("api.CgroupSockAddrAttach", a).hook]
    ),
    "CgroupSock": _Cgroup(ProgType.CGROUP_SOCK, lambda a: _SOCK_HOOKS[cast("api.CgroupSockAttach", a).hook]),
    "SockOps": _Cgroup(ProgType.SOCK_OPS, lambda _a: AttachType.CGROUP_SOCK_OPS),
    "Iter": _Iter(),
}
IMPLEMENTED = frozenset({*_DRIVERS, "XDP", "StructOps"})


def driver_for(attach: api.Attach) -> Driver:
    """The driver of an attach type.

    Raises:
        NotImplementedYetError: the API has the type, this version doesn't attach it.
    """
    driver = _DRIVERS.get(attach.type)
    if driver is None:
        raise NotImplementedYetError(
            f"attach type {attach.type} is not built yet", hint=f"one of {', '.join(sorted(IMPLEMENTED))} is"
        )
    return driver
