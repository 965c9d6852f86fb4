"""Ends UDP sockets that are connected to backends that left: the user-space half of socketcut.bpf.c.j2."""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from kubebee.bpf import netns
from kubebee.bpf.attach import attach_iter, read_iter
from kubebee.bpf.handle import Handle
from kubebee.bpf.link import Link
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.lb.reports import Left

STORAGES = ("kb_lb_sk", "kb_lb_sk6")
_KEY = struct.Struct("=16sI2sH")  # the port as bytes: in network order
_AT_A_TIME = 32768
"""Half of what kb_lb_left holds: plain hashes of that kind take more room than entries while they change."""


class CutReport(NamedTuple):
    """What became of sockets that were connected to backends that left.

    Attributes:
        cut: sockets that were ended.
        missed: sockets that were not, as their network namespace can't be entered, or has no file here.
        why: what stood in the way, "" if nothing did.
    """

    cut: int = 0
    missed: int = 0
    why: str = ""

    def plus(self, other: CutReport) -> CutReport:
        """Both together."""
        return CutReport(self.cut + other.cut, self.missed + other.missed, self.why or other.why)


class SocketCut:
    """The two iterators, loaded over the maps of the socket programs. Owns its descriptors."""

    def __init__(self, left: Map, finders: Sequence[Link], cutter: Link) -> None:
        self._left = left
        self._finders = finders
        self._cutter = cutter

    @classmethod
    def load(cls, elf: bytes, maps: Mapping[str, Map]) -> Self:
        """Load them.

        Args:
            elf: socketcut.bpf.c.j2, compiled for the families that `maps` has.
            maps: those of the socket programs.

        Raises:
            LoadError: the verifier refuses, or the kernel has no bpf_sock_destroy.
            BpfError: an iterator can't be made.
        """
        with contextlib.ExitStack() as stack, BpfObject.open(elf, "socketcut") as loaded:
            for name, declared in loaded.maps.items():
                if name in maps:
                    declared.reuse_fd(maps[name].fd)
            loaded.load()
            left = stack.enter_context(loaded.maps["kb_lb_left"].duplicate())
            finder, cutter = loaded.programs["kb_find_stale"].fd, loaded.programs["kb_cut_stale"].fd
            storages = [maps[name].fd for name in STORAGES if name in maps]
            finders = [stack.enter_context(attach_iter(finder, storage)) for storage in storages]
            made = cls(left, finders, stack.enter_context(attach_iter(cutter)))
            stack.pop_all()
            return made

    def close(self) -> None:
        """Unload them."""
        owned: list[Handle] = [self._left, *self._finders, self._cutter]
        for handle in owned:
            handle.close()

    def cut(self, left: Sequence[Left]) -> CutReport:
        """End sockets of all network namespaces that are connected to these backends.

        Raises:
            BpfError: an iterator failed.
        """
        report = CutReport()
        for start in range(0, len(left), _AT_A_TIME):
            keys = [pack_left(each) for each in left[start : start + _AT_A_TIME]]
            self._left.update_batch(b"".join(keys), b"\1" * len(keys), len(keys))
            try:
                report = report.plus(self._cut_everywhere())
            finally:
                self._left.delete_batch(b"".join(keys), len(keys))
        return report

    def _cut_everywhere(self) -> CutReport:
        stale = Counter(number for finder in self._finders for number in _words(read_iter(finder)))
        report = CutReport()
        here = stale.pop(netns.own_inode(), 0)
        if here:
            report = report.plus(self._cut_here())
        files = netns.find(stale.keys())
        for namespace, count in stale.items():
            report = report.plus(self._cut_in(files.get(namespace), count))
        return report

    def _cut_in(self, file: Path | None, count: int) -> CutReport:
        if file is None:
            return CutReport(missed=count, why="no file of their network namespace is to be seen here")
        try:
            return netns.run_in(file, self._cut_here)
        except FileNotFoundError:
            return CutReport()  # the pod ended
        except OSError as error:
            needs = ", which takes CAP_SYS_ADMIN" if error.errno == errno.EPERM else ""
            why = f"their network namespace can't be entered{needs}: {error.strerror}"
            return CutReport(missed=count, why=why)

    def _cut_here(self) -> CutReport:
        """In the network namespace of this thread."""
        errors = list(_words(read_iter(self._cutter)))
        failed = [error for error in errors if error]
        why = f"the kernel refuses: error {-_signed(failed[0])}" if failed else ""
        return CutReport(len(errors) - len(failed), len(failed), why)


def pack_left(left: Left) -> bytes:
    """Return the key of kb_lb_left."""
    family = 4 if len(left.address) == 4 else 6
    return _KEY.pack(left.address.ljust(16, b"\0"), left.number, left.port.to_bytes(2), family)


def _words(output: bytes) -> Iterator[int]:
    return (number for (number,) in struct.iter_unpack("=I", output))


def _signed(number: int) -> int:
    return int.from_bytes(number.to_bytes(4, sys.byteorder), sys.byteorder, signed=True)
