"""tc programs by filters on the clsact qdisc, for kernels without tcx (before 6.6).

Raw netlink, as everywhere here. Unlike a link, a filter is held by nothing but its interface: it has no
pin and no descriptor, and stays until it is removed. It is known by its hook, priority and handle.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from kubebee.bpf.netlink import ask, attributes, dump, pack_attribute, u32
from kubebee.bpf.syscall import BpfError
from kubebee.errors import UnsupportedError

NAME_MAX = 255
"""Bytes that the kernel keeps of a filter's name."""

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 44, 45, 46
_NLM_F_ACK, _NLM_F_ECHO, _NLM_F_EXCL, _NLM_F_CREATE = 0x4, 0x8, 0x200, 0x400
_TCMSG = struct.Struct("=B3xiIII")  # family, ifindex, handle, parent, info
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_ACT_DIRECT = 1  # the program's return value is the verdict
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_ALL_PROTOCOLS = socket.htons(0x0003)
_HANDLE = 1  # of the only filter that we put at a priority
_GONE = (errno.ENOENT, errno.ENODEV, errno.EINVAL)  # the filter, the interface, the qdisc


@dataclass(frozen=True, slots=True)
class Hook:
    """One side of an interface: where tc programs run, in an order."""

    ifindex: int
    ingress: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """What the kernel lists at a hook; the empty head of a list has handle 0.

    Attributes:
        priority: lower runs first; `tc` calls it pref.
        kind: of classifier; name and prog_id are those of kind "bpf", else "" and 0.
    """

    priority: int
    handle: int
    kind: str
    name: str = ""
    prog_id: int = 0


def qdisc_of(ifindex: int) -> str | None:
    """Return the kind of qdisc that an interface has for filters, "clsact" or "ingress"; None: none.

    Raises:
        BpfError: netlink refused; ENODEV if there is no such interface.
    """
    # Without an echo only listeners would hear the answer; of a qdisc that was removed there is but the ack.
    (answer,) = ask(_RTM_GETQDISC, _NLM_F_ACK | _NLM_F_ECHO, [_TCMSG.pack(0, ifindex, 0, _CLSACT, 0)])
    if isinstance(answer, bytes):
        return _kind(attributes(answer[_TCMSG.size :]))
    if answer in (0, errno.ENOENT):
        return None
    raise BpfError("cannot look for qdiscs", answer, where=f"interface {ifindex}")


def hooks_with_qdisc() -> list[Hook]:
    """Return the hooks in this network namespace that may have filters.

    Raises:
        BpfError: netlink refused.
    """
    found = []
    for payload in dump(_RTM_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0), _RTM_NEWQDISC):
        _, ifindex, _, parent, _ = _TCMSG.unpack_from(payload)
        if parent == _CLSACT:
            found.append(Hook(ifindex, ingress=True))
            # An ingress qdisc has one list of filters, and shows it as that of either side.
            if _kind(attributes(payload[_TCMSG.size :])) == "clsact":
                found.append(Hook(ifindex, ingress=False))
    return found


def add_clsact(ifindex: int) -> bool:
    """Give an interface a clsact qdisc; False if it has one, or an ingress qdisc, already.

    Raises:
        UnsupportedError: the kernel has no clsact.
        BpfError: netlink refused.
    """
    payload = _TCMSG.pack(0, ifindex, _CLSACT_HANDLE, _CLSACT, 0) + pack_attribute(_TCA_KIND, b"clsact\0")
    err = _request(_RTM_NEWQDISC, _NLM_F_CREATE | _NLM_F_EXCL, payload)
    if err == errno.ENOENT:
        raise UnsupportedError("clsact: the kernel has no such qdisc (CONFIG_NET_SCH_INGRESS)")
    if err not in (0, errno.EEXIST):
        raise BpfError("cannot add a clsact qdisc", err, where=f"interface {ifindex}")
    return err == 0


def remove_clsact(ifindex: int) -> None:
    """Remove an interface's clsact qdisc with all its filters; that it is gone already is no error.

    Raises:
        BpfError: netlink refused.
    """
    payload = _TCMSG.pack(0, ifindex, _CLSACT_HANDLE, _CLSACT, 0) + pack_attribute(_TCA_KIND, b"clsact\0")
    err = _request(_RTM_DELQDISC, 0, payload)
    if err not in (0, *_GONE):
        raise BpfError("cannot remove a clsact qdisc", err, where=f"interface {ifindex}")


def filters_at(hook: Hook) -> list[Filter]:
    """List the filters at a hook, those of others too, in the order they run.

    Raises:
        BpfError: netlink refused.
    """
    wanted = _TCMSG.pack(0, hook.ifindex, 0, _parent(hook), 0)
    return [_filter(payload) for payload in dump(_RTM_GETTFILTER, wanted, _RTM_NEWTFILTER)]


def filter_at(hook: Hook, priority: int) -> Filter | None:
    """Return the filter that attach() put at a priority; None if it or its interface is gone.

    Raises:
        BpfError: netlink refused.
    """
    (answer,) = ask(_RTM_GETTFILTER, _NLM_F_ACK, [_place(hook, priority)])
    if isinstance(answer, bytes):
        return _filter(answer)
    if answer in (0, *_GONE):
        return None
    raise BpfError("cannot read a tc filter", answer, where=_where(hook))


def attach_filter(prog_fd: int, hook: Hook, priority: int, name: str) -> None:
    """Let a program of type SCHED_CLS decide about packets at a hook with a qdisc.

    Args:
        prog_fd: the program; its return value is the verdict (direct action).
        hook: where.
        priority: 1 to 65535, lower runs first; no filter may be there.
        name: what `tc filter show` calls it, up to `NAME_MAX` bytes.

    Raises:
        UnsupportedError: the kernel has no BPF classifier.
        BpfError: EEXIST or EINVAL if something is at this priority.
    """
    _write(prog_fd, hook, priority, name, _NLM_F_CREATE | _NLM_F_EXCL)


def replace_filter(prog_fd: int, hook: Hook, priority: int, name: str) -> None:
    """Let a filter of attach_filter() run another program: no packet sees neither or both.

    Raises:
        BpfError: netlink refused; what ran goes on.
    """
    _write(prog_fd, hook, priority, name, _NLM_F_CREATE)


def remove_filter(hook: Hook, priority: int) -> None:
    """Remove a filter; that it or its interface is gone already is no error.

    Raises:
        BpfError: netlink refused.
    """
    payload = _place(hook, priority) + pack_attribute(_TCA_KIND, b"bpf\0")
    err = _request(_RTM_DELTFILTER, 0, payload)
    if err not in (0, *_GONE):
        raise BpfError("cannot remove a tc filter", err, where=_where(hook))


def _write(prog_fd: int, hook: Hook, priority: int, name: str, flags: int) -> None:
    options = (
        pack_attribute(_TCA_BPF_FD, struct.pack("=I", prog_fd))
        + pack_attribute(_TCA_BPF_NAME, name.encode() + b"\0")
        + pack_attribute(_TCA_BPF_FLAGS, struct.pack("=I", _ACT_DIRECT))
    )
    payload = _place(hook, priority) + pack_attribute(_TCA_KIND, b"bpf\0")
    err = _request(_RTM_NEWTFILTER, flags, payload + pack_attribute(_TCA_OPTIONS, options))
    if err == errno.ENOENT:
        raise UnsupportedError("clsact: the kernel has no BPF classifier (CONFIG_NET_CLS_BPF)")
    if err:
        raise BpfError("cannot attach to clsact", err, where=_where(hook))


def _request(kind: int, flags: int, payload: bytes) -> int:
    """Make a request and return its errno, 0 if it was done."""
    (answer,) = ask(kind, flags | _NLM_F_ACK, [payload])
    return answer if isinstance(answer, int) else 0


def _place(hook: Hook, priority: int) -> bytes:
    return _TCMSG.pack(0, hook.ifindex, _HANDLE, _parent(hook), priority << 16 | _ALL_PROTOCOLS)


def _filter(payload: bytes) -> Filter:
    _, _, handle, _, info = _TCMSG.unpack_from(payload)
    found = attributes(payload[_TCMSG.size :])
    kind = _kind(found)
    if kind != "bpf":
        return Filter(info >> 16, handle, kind)
    options = attributes(found.get(_TCA_OPTIONS, b""))
    name = options.get(_TCA_BPF_NAME, b"").rstrip(b"\0").decode(errors="replace")
    return Filter(info >> 16, handle, kind, name, u32(options, _TCA_BPF_ID) or 0)


def _kind(found: dict[int, bytes]) -> str:
    return found.get(_TCA_KIND, b"").rstrip(b"\0").decode(errors="replace")


def _parent(hook: Hook) -> int:
    return _INGRESS if hook.ingress else _EGRESS


def _where(hook: Hook) -> str:
    return f"interface {hook.ifindex} {'ingress' if hook.ingress else 'egress'}"
