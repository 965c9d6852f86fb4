"""Our tc programs on clsact: attach, exchange in place, adopt, and leave nothing.

A filter has no pin that would tell whose it is. Its name does: `kubebee:<instance>:<unit>:<function>`,
where the instance is that of the bpf file system's path, so that what a killed process left behind is found
even if its pins are gone. Filters with other names are never touched.

A qdisc has no name. That we made it is noted beside the pins before it is made; only then it is removed
with the last filter.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf import clsact
from kubebee.bpf.clsact import Filter, Hook
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.loader import filter_order
from kubebee.loader.pins import HASH_CHARS, PinRoot, escape, unit_directory
from kubebee.loader.tcx_order import Rank
from kubebee.planner.plan import ResourceKey

_ATTEMPTS = 5
_FUNCTION_MAX = 100  # with the longest unit it is less than clsact.NAME_MAX


class ForeignQdiscError(KubebeeError):
    """Somebody's ingress qdisc is in the place of clsact, and has no egress side."""

    reason = "ForeignQdisc"


@dataclass
class HeldFilter:
    """A filter of ours; nothing but the interface holds it."""

    hook: Hook
    priority: int
    name: str
    filters: Filters
    mode: str = "Clsact"
    link_id: int = 0
    pin: Path | None = None

    def prog_id(self) -> int | None:
        """Id of its program; None if it is gone, or another filter is in its place."""
        found = clsact.filter_at(self.hook, self.priority)
        return found.prog_id if found is not None and found.name == self.name else None

    def exchange(self, prog_fd: int) -> None:
        """Run another program, with no moment without one."""
        clsact.replace_filter(prog_fd, self.hook, self.priority, self.name)

    def keep(self, pin: Path) -> None:
        """It stays without a pin."""

    def release(self, successor: Path | None = None) -> None:  # noqa: ARG002 (there is no pin to leave)
        """Detach."""
        if self.prog_id() is not None:  # at this place may be somebody else's by now
            clsact.remove_filter(self.hook, self.priority)

    def move(self, prog_fd: int, priority: int) -> None:
        """Take another priority: for some microseconds packets see the program twice, none miss it."""
        self.filters.suspect = True
        clsact.attach_filter(prog_fd, self.hook, priority, self.name)
        self.release()
        self.priority = priority


class Filters:
    """All filters of one instance.

    Attributes:
        suspect: there may be filters of ours that nobody holds, as after the start.
    """

    def __init__(self, pins: PinRoot) -> None:
        self._pins = pins
        instance = hashlib.sha256(str(pins.bpffs.absolute()).encode()).hexdigest()[:8]
        self._prefix = f"kubebee:{instance}:"
        self.suspect = True

    def find(self, key: ResourceKey, function: str, hook: Hook) -> HeldFilter | None:
        """The filter of a function, which an earlier process left."""
        name = self._name(key, function)
        for found in clsact.filters_at(hook):
            if found.name == name and found.handle:
                return HeldFilter(hook, found.priority, name, self)
        return None

    def attach(
        self,
        prog_fd: int,
        key: ResourceKey,
        function: str,
        hook: Hook,
        rank: Rank,
        others: Sequence[tuple[Rank, int]],
    ) -> HeldFilter:
        """Attach a function where its rank wants it.

        Args:
            prog_fd: its program, of type SCHED_CLS.
            key: its unit.
            function: its name.
            hook: where.
            rank: lower runs first.
            others: rank and priority of ours that are at the hook.

        Raises:
            UnsupportedError: the kernel has no clsact, or no classifier for BPF.
            ForeignQdiscError: somebody's qdisc is in the way.
            BpfError: netlink refuses.
        """
        self._need_qdisc(hook)
        name = self._name(key, function)
        tried: set[int] = set()
        while True:
            taken = tried | {found.priority for found in clsact.filters_at(hook)}
            priority = filter_order.between(rank, others, taken)
            try:
                clsact.attach_filter(prog_fd, hook, priority, name)
            except BpfError as error:
                # Somebody may have been quicker; a filter for some protocol only shows as EINVAL.
                if error.errno not in (errno.EEXIST, errno.EINVAL) or len(tried) == _ATTEMPTS:
                    raise
                tried.add(priority)
            else:
                return HeldFilter(hook, priority, name, self)

    def _need_qdisc(self, hook: Hook) -> None:
        kind = clsact.qdisc_of(hook.ifindex)
        if kind is None:
            mark = self._pins.qdisc(hook.ifindex)
            if not mark.is_symlink():
                mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                mark.symlink_to("clsact")  # a file that a bpf file system lets us make
            if clsact.add_clsact(hook.ifindex):
                return
            mark.unlink()  # somebody was quicker
            kind = clsact.qdisc_of(hook.ifindex)
        if kind == "ingress" and not hook.ingress:
            raise ForeignQdiscError(
                "has an ingress qdisc that is not ours, which has no egress side",
                where=f"{(name := _interface(hook.ifindex))} egress",
                hint=f"if nobody needs it: tc qdisc del dev {name} ingress",
            )

    def _name(self, key: ResourceKey, function: str) -> str:
        text = escape(function)
        if len(text) > _FUNCTION_MAX:
            digest = hashlib.sha256(function.encode()).hexdigest()[:HASH_CHARS]
            text = f"{text[: _FUNCTION_MAX - HASH_CHARS - 1]}-{digest}"
        return f"{self._prefix}{unit_directory(key)}:{text}"

    def sweep(self, used: Collection[tuple[Hook, int]], kept: Collection[str]) -> None:
        """Remove filters of ours that nobody holds, and then qdiscs of ours without filters.

        Args:
            used: hook and priority of those that are held.
            kept: directories of units whose filters stay, as it is not known yet what is wanted of them.

        Raises:
            BpfError: netlink refuses.
        """
        if self.suspect:
            unsure = False
            for hook in clsact.hooks_with_qdisc():
                for found in self._unheld(hook, used):
                    if found.name.split(":")[2] in kept:
                        unsure = True
                    else:
                        clsact.remove_filter(hook, found.priority)
            self.suspect = unsure
        busy = {hook.ifindex for hook, _ in used}
        for mark in self._pins.qdiscs():
            ifindex = int(mark.name)
            sides = (Hook(ifindex, ingress=True), Hook(ifindex, ingress=False))
            if ifindex not in busy and not any(clsact.filters_at(hook) for hook in sides):
                clsact.remove_clsact(ifindex)
                mark.unlink(missing_ok=True)

    def _unheld(self, hook: Hook, used: Collection[tuple[Hook, int]]) -> Iterator[Filter]:
        for found in clsact.filters_at(hook):
            ours = found.handle and found.name.startswith(self._prefix)
            if ours and (hook, found.priority) not in used:
                yield found


def _interface(ifindex: int) -> str:
    """Name of an interface; of one that went at this moment its number."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)
