"""Network namespaces of this machine: told apart by the inodes of their files, entered by threads."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
OWN = Path("/proc/thread-self/ns/net")
"""That of the calling thread."""
_NAMED = (Path("/run/netns"), Path("/run/docker/netns"))
"""Where container runtimes and ip-netns keep the namespaces that no process need be in."""
_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


def own_inode() -> int:
    """The namespace of the calling thread."""
    return OWN.stat().st_ino


def find(wanted: Set[int]) -> dict[int, Path]:
    """Files of namespaces by inode, of those that can be found: runtimes' first, then those of processes."""
    found: dict[int, Path] = {}
    for path in _candidates():
        if len(found) == len(wanted):
            break
        try:
            inode = path.stat().st_ino
        except OSError:
            continue  # it ended, or is another user's
        if inode in wanted:
            found.setdefault(inode, path)
    return found


def _candidates() -> Iterator[Path]:
    for folder in _NAMED:
        try:
            yield from folder.iterdir()
        except OSError:
            continue
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            yield process / "ns" / "net"


def run_in(path: Path, function: Callable[[], _T]) -> _T:
    """Run `function` in a thread that is in another network namespace, and wait for it.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; what opening the file says.
        Exception: what `function` raises.
    """
    result: list[_T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(path)
            result.append(function())
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=enter, name="in-netns")  # it never comes back to its own
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _enter(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            err = ctypes.get_errno()
            raise OSError(err, os.strerror(err), str(path))
    finally:
        os.close(fd)
