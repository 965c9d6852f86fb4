"""Waiting until no program run that saw an old table is still under way."""

from __future__ import annotations

import ctypes
import os
import time

from kubebee.errors import UnsupportedError

_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_CMD_GLOBAL = 1
_LONGEST_RUN = 0.05
"""Seconds. A program run takes microseconds; a preempted virtual CPU may add a few time slices."""

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for_readers() -> None:
    """Return when every BPF program run that began before the call has ended.

    membarrier(2)'s global command waits for an RCU grace period, and programs run within RCU read
    sections. Kernels booted with nohz_full refuse the command; there time has to do.
    """
    number = _MEMBARRIER.get(os.uname().machine)
    if number is None:
        raise UnsupportedError(f"no system call numbers for machine {os.uname().machine}")
    if _libc.syscall(number, _CMD_GLOBAL, 0, 0) != 0:
        time.sleep(_LONGEST_RUN)
