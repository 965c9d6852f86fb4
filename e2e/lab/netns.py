"""Network namespaces of our own: uniquely named, entered by threads or commands, always removed."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

NETNS_DIR = Path("/run/netns")
PREFIX = "kb"

_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_libc = ctypes.CDLL(None, use_errno=True)
_counter = itertools.count()
_T = TypeVar("_T")


def unique_name(role: str) -> str:
    """``kb-<pid>-<n>-<role>``: the pid lets a later run see whose leftovers may go."""
    return f"{PREFIX}-{os.getpid()}-{next(_counter)}-{role}"


def owner_is_dead(name: str) -> bool:
    """Whether `name` is one of `unique_name` whose process is gone."""
    match = re.fullmatch(rf"{PREFIX}-(\d+)-\d+-.+", name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


def private_mounts() -> None:
    """Give this process a mount namespace: what it mounts from now on goes with it, even after kill -9."""
    if _libc.unshare(_CLONE_NEWNS) or _libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "no mount namespace for the run: is this root?")


def run(argv: Sequence[str], *, check: bool = True, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a command; its stderr is part of the error, for a bare exit code tells nobody anything."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {said}")
    return done


class Namespace:
    """A named network namespace with loopback up; a context manager that removes it."""

    def __init__(self, role: str) -> None:
        self.name = unique_name(role)
        run(["ip", "netns", "add", self.name])
        try:
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.delete()
            raise

    @property
    def path(self) -> Path:
        """The file that pins the namespace."""
        return NETNS_DIR / self.name

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return `argv` as it runs in this network namespace, the caller's mounts unchanged."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace and wait for it."""
        return run(self.command(argv), check=check, timeout=timeout)

    def ip(self, *args: str) -> str:
        """``ip`` in the namespace; returns what it prints."""
        return run(["ip", "-n", self.name, *args]).stdout

    def sysctl(self, key: str, value: int | str) -> None:
        """Set a network sysctl of this namespace, e.g. ``net.ipv4.ip_forward``."""
        path = Path("/proc/sys") / key.replace(".", "/")
        self.call(lambda: path.write_text(str(value)))

    def call(self, function: Callable[[], _T]) -> _T:
        """Run `function` in a thread that is in the namespace; what it opens stays there."""
        result: list[_T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                enter_netns(self.path)
                result.append(function())
            except BaseException as error:  # handed to the caller below
                failure.append(error)

        thread = threading.Thread(target=enter, name=f"in-{self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(
        self, kind: int = socket.SOCK_STREAM, proto: int = 0, family: int = socket.AF_INET
    ) -> socket.socket:
        """Open a socket in this namespace; any thread may use it."""
        return self.call(lambda: socket.socket(family, kind, proto))

    def ifindex(self, interface: str) -> int:
        """Index of an interface in this namespace."""
        return self.call(lambda: socket.if_nametoindex(interface))

    def delete(self) -> None:
        """Remove the namespace and, with it, its interfaces; nothing happens if it is gone."""
        run(["ip", "netns", "delete", self.name], check=False)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete()


def enter_netns(path: Path) -> None:
    """Move the calling thread into a network namespace, for good."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), str(path))
    finally:
        os.close(fd)


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Put the calling thread into `namespace` for a block: for code that opens netlink by itself."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_netns(namespace.path)
        yield
    finally:
        if _libc.setns(home, _CLONE_NEWNET) != 0:
            raise SystemExit(
                "the thread cannot return to its network namespace"
            )  # nothing after it could be trusted
        os.close(home)


def veth(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    """Make a pair of virtual interfaces, both up, one end in each namespace."""
    peer = ["peer", "name", right_name, "netns", right.name]
    run(["ip", "link", "add", left_name, "netns", left.name, "type", "veth", *peer])
    left.ip("link", "set", left_name, "up")
    right.ip("link", "set", right_name, "up")


def remove_leftovers() -> list[str]:
    """Remove the namespaces of runs that were killed; returns their names."""
    names = [entry.name for entry in NETNS_DIR.iterdir()] if NETNS_DIR.is_dir() else []
    dead = [name for name in names if owner_is_dead(name)]
    for name in dead:
        run(["ip", "netns", "delete", name], check=False)
        with contextlib.suppress(OSError):
            (NETNS_DIR / name).unlink()
    return dead
