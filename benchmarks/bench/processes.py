"""What processes, and the machine as a whole, take of processors and memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
"""A second; the kernel counts whole ones."""
_REST_SECONDS = 0.5
_REST_SHARE = 0.1
_REST_PATIENCE_SECONDS = 20.0


def cpu_seconds(*pids: int, children: bool = False) -> float:
    """User and system time of processes, also that of their ended children if asked for."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each) for found in fields for each in found[11 : 15 if children else 13]) / _TICKS


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """What a process has resident; `field` VmHWM: what it had at its most."""
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def busy_ns() -> int:
    """What all processors together have worked, interrupts included, to the kernel's tick of 10 ms each."""
    user, nice, system, _idle, _iowait, hard, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + hard + soft) * 1_000_000_000 // _TICKS


def wait_for_rest() -> bool:
    """Wait until the machine hardly works for half a second, so that nothing that was begun is measured too.

    Returns:
        Whether it came to rest within `_REST_PATIENCE_SECONDS`; else something that goes on is measured too.
    """
    end = time.monotonic() + _REST_PATIENCE_SECONDS
    while time.monotonic() < end:
        before = busy_ns()
        time.sleep(_REST_SECONDS)
        if busy_ns() - before < _REST_SHARE * _REST_SECONDS * 1e9:
            return True
    return False
