"""Tracepoint numbers from tracefs, mounted or not."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

from kubebee.bpf.syscall import BpfError, errno_name
from kubebee.errors import KubebeeError, UnsupportedError

_MOUNTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
# The new mount calls have the same numbers on all architectures.
_NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6
_CLOEXEC = 1
_NAME = re.compile(r"[A-Za-z0-9_.-]+")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class NoSuchTracepointError(KubebeeError):
    """The kernel has no tracepoint of this name."""

    reason = "NoSuchTracepoint"


def tracepoint_id(category: str, name: str) -> int:
    """Return the number of a tracepoint, for perf_event_open().

    Raises:
        NoSuchTracepointError: this kernel does not have it.
        UnsupportedError: tracefs can neither be found nor opened.
    """
    where = f"tracepoint {category}/{name}"
    if not all(_NAME.fullmatch(part) and part.strip(".") for part in (category, name)):
        raise NoSuchTracepointError("not a tracepoint's name", where=where)
    root = _open_tracefs()
    try:
        fd = os.open(f"events/{category}/{name}/id", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise BpfError("cannot read its number", error.errno or 0, where=where) from error
        hint = "see /sys/kernel/tracing/available_events"
        raise NoSuchTracepointError("this kernel has no such tracepoint", where=where, hint=hint) from error
    finally:
        os.close(root)
    with os.fdopen(fd) as file:
        return int(file.read())


def _open_tracefs() -> int:
    """Return a descriptor of tracefs' root: of a mount, else of a detached one that nobody sees."""
    for mount in _MOUNTS:
        if Path(mount, "events").is_dir():
            return os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    context = _call(_NR_FSOPEN, ctypes.c_char_p(b"tracefs"), ctypes.c_uint(_CLOEXEC))
    try:
        zero = ctypes.c_void_p(None)
        _call(
            _NR_FSCONFIG,
            ctypes.c_int(context),
            ctypes.c_uint(_FSCONFIG_CMD_CREATE),
            zero,
            zero,
            ctypes.c_int(0),
        )
        return _call(_NR_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_CLOEXEC), ctypes.c_uint(0))
    finally:
        os.close(context)


def _call(number: int, *arguments: ctypes.c_char_p | ctypes.c_void_p | ctypes.c_int | ctypes.c_uint) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise UnsupportedError(
            f"tracefs is not mounted and cannot be opened [{errno_name(ctypes.get_errno())}]",
            hint=f"mount -t tracefs tracefs {_MOUNTS[0]}",
        )
    return int(result)
