"""bpf(2) by ctypes: one function, one error type.

Attributes are built by the callers as packed bytes in the layout of `union bpf_attr`. The kernel takes
any length: what is missing at the end counts as zero.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct

from kubebee.bpf.constants import Cmd
from kubebee.errors import KubebeeError

_NR_BPF = {"x86_64": 321, "aarch64": 280}
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_ATTEMPTS = 10
_ENOTSUPP = 524  # kernel-internal errno that bpf(2) lets through; absent from errno.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_INFO_ATTR = struct.Struct("=IIQ")
_HINTS = {
    errno.EPERM: "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
    errno.ENOSYS: "this kernel has no bpf(2)",
}


class BpfError(KubebeeError):
    """A BPF operation that the kernel refused. `reason` is the errno's name, for example "EPERM"."""

    def __init__(self, message: str, err: int, *, where: str = "", hint: str = "") -> None:
        name = errno_name(err)
        super().__init__(
            f"{message}: {_strerror(err)} [{name}]",
            reason=name,
            where=where,
            hint=hint or _HINTS.get(err, ""),
        )
        self.errno = err
        self.errno_name = name


def errno_name(err: int) -> str:
    """Return the name of an errno, "E<number>" if it has none."""
    return "ENOTSUPP" if err == _ENOTSUPP else errno.errorcode.get(err, f"E{err}")


def _strerror(err: int) -> str:
    return "operation not supported by this kernel" if err == _ENOTSUPP else os.strerror(err)


def not_supported(err: int) -> bool:
    """Tell whether an errno means that the kernel does not know the operation at all."""
    return err in (_ENOTSUPP, errno.EOPNOTSUPP, errno.ENOSYS)


def bpf(cmd: Cmd, attr: bytes | bytearray, what: str = "", where: str = "") -> int:
    """Run one BPF command.

    Args:
        cmd: the command.
        attr: the attributes; a bytearray receives what the kernel writes back.
        what: the operation in words, for the error message.
        where: the object operated on, for the error message.

    Returns:
        What the kernel returned: 0 or a new file descriptor (close-on-exec).

    Raises:
        BpfError: the kernel refused.
    """
    result, err = bpf_errno(cmd, attr)
    if result < 0:
        raise BpfError(what or f"bpf {cmd.name}", err, where=where)
    return result


def bpf_errno(cmd: Cmd, attr: bytes | bytearray) -> tuple[int, int]:
    """Call bpf(2) and return (result, errno), for callers to whom some errnos are an answer."""
    buffer = attr if isinstance(attr, bytearray) else bytearray(attr)
    view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    result, err = -1, errno.EINTR
    for _ in range(_ATTEMPTS):
        result = _libc.syscall(
            ctypes.c_long(_number(_NR_BPF)), ctypes.c_int(cmd), ctypes.byref(view), ctypes.c_uint(len(buffer))
        )
        err = ctypes.get_errno() if result < 0 else 0
        # EINTR: a signal came; EAGAIN: the verifier or a batch was asked to yield. Neither did anything.
        if err not in (errno.EINTR, errno.EAGAIN):
            break
    return int(result), err


def perf_event_open(attr: bytes, pid: int, cpu: int) -> int:
    """Open a perf event; returns its file descriptor (close-on-exec).

    Raises:
        BpfError: the kernel refused.
    """
    cloexec = 1 << 3
    fd = _libc.syscall(
        ctypes.c_long(_number(_NR_PERF_EVENT_OPEN)),
        ctypes.c_char_p(attr),
        ctypes.c_int(pid),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(cloexec),
    )
    if fd < 0:
        raise BpfError("cannot open perf event", ctypes.get_errno())
    return int(fd)


def _number(table: dict[str, int]) -> int:
    machine = platform.machine()
    if machine not in table:
        raise KubebeeError(f"no system call numbers for machine {machine}", reason="Unsupported")
    return table[machine]


def address(data: bytes) -> int:
    """Return the address of the bytes, for the kernel to read; the caller keeps `data` alive."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link to a path in a bpffs."""
    name = os.fsencode(path) + b"\0"
    bpf(Cmd.OBJ_PIN, struct.pack("=QII", address(name), fd, 0), "cannot pin", path)


def obj_get(path: str) -> int:
    """Open what is pinned at a path."""
    name = os.fsencode(path) + b"\0"
    return bpf(Cmd.OBJ_GET, struct.pack("=QII", address(name), 0, 0), "cannot open pin", path)


def obj_info(fd: int, size: int, request: bytes = b"") -> bytes:
    """Return `size` bytes of a BPF object's info, zero-filled where the kernel knows less.

    `request` is what the info buffer holds when the kernel gets it (lengths and addresses of arrays).
    """
    info = ctypes.create_string_buffer(request, size)
    bpf(Cmd.OBJ_GET_INFO_BY_FD, _INFO_ATTR.pack(fd, size, ctypes.addressof(info)), "cannot read info")
    return info.raw


def fd_by_id(cmd: Cmd, object_id: int) -> int:
    """Open an object by id with one of the *_GET_FD_BY_ID commands."""
    return bpf(cmd, struct.pack("=III", object_id, 0, 0), f"cannot open {_kind(cmd)} {object_id}")


def next_id(cmd: Cmd, previous: int) -> int | None:
    """Return the id after `previous` by one of the *_GET_NEXT_ID commands, None at the end."""
    attr = bytearray(struct.pack("=III", previous, 0, 0))
    result, err = bpf_errno(cmd, attr)
    if result < 0:
        if err == errno.ENOENT:
            return None
        raise BpfError(f"cannot list {_kind(cmd)} ids", err)
    return int(struct.unpack_from("=I", attr, 4)[0])


def _kind(cmd: Cmd) -> str:
    return cmd.name.partition("_")[0].lower()


def raise_memlock_limit() -> None:
    """Lift RLIMIT_MEMLOCK, which kernels before 5.11 charge maps and programs to.

    Refusal is no error: newer kernels charge the memory cgroup instead.
    """
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (PermissionError, ValueError):
        return


def c_string(data: bytes) -> str:
    """Decode a NUL-terminated name."""
    return data.partition(b"\0")[0].decode(errors="replace")
