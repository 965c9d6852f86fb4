"""What keeps a program at its place in the kernel when this process ends, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubebee.bpf.link import Link
from kubebee.bpf.syscall import BpfError
from kubebee.loader.drivers import Target
from kubebee.loader.tcx_order import Rank


class Held(Protocol):
    """A program's hold on its place: a pinned link, or a filter of tc."""

    @property
    def mode(self) -> str:
        """What the status calls the way of attaching; empty where there is but one."""

    @property
    def link_id(self) -> int:
        """Id of the link; 0 without one."""

    @property
    def pin(self) -> Path | None:
        """The pin that keeps it; None: it needs none, or has none yet."""

    def prog_id(self) -> int | None:
        """Id of the program that runs there now, 0 for struct_ops; None: it was detached behind our back."""

    def exchange(self, prog_fd: int) -> None:
        """Run another program, with no moment without one.

        Raises:
            BpfError: the kernel refuses; the one before goes on.
        """

    def keep(self, pin: Path) -> None:
        """Outlive this process, under a name that says what runs."""

    def release(self, successor: Path | None = None) -> None:
        """Detach; a pin that the successor has taken over stays."""


class HeldLink:
    """A link, held by its pin."""

    def __init__(self, link: Link, mode: str = "", pin: Path | None = None) -> None:
        self.mode = mode
        self.link = link
        self.link_id = link.info.id
        self.pin = pin

    def prog_id(self) -> int | None:
        """As `Held` has it: the kernel zeroes what a detached link was attached to."""
        try:
            info = self.link.info
        except BpfError:
            return None
        attached = info.ifindex != 0 and info.cgroup_id != 0 and info.map_id != 0
        return info.prog_id if attached else None

    def exchange(self, prog_fd: int) -> None:
        """As `Held` has it."""
        self.link.update(prog_fd)

    def keep(self, pin: Path) -> None:
        """As `Held` has it."""
        if self.pin is not None and self.pin.exists():
            if self.pin != pin:
                self.pin.rename(pin)
        else:
            pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            pin.unlink(missing_ok=True)
            self.link.pin(pin)
        self.pin = pin

    def release(self, successor: Path | None = None) -> None:
        """As `Held` has it."""
        if self.pin is not None and self.pin != successor:
            self.pin.unlink(missing_ok=True)
        self.link.close()


@dataclass
class ActiveLink:
    """One attachment, as confirmed from the kernel.

    Attributes:
        prog_id: 0 for struct_ops.
        program: pin of it; opening it by id would take CAP_SYS_ADMIN.
        rank: its place among ours, where the target has an order.
        position: that it has there, counted from 0 over ours; -1 elsewhere.
    """

    function: str
    type: str
    target: Target
    held: Held
    prog_id: int
    program: Path = Path()
    rank: Rank = (0, "", "")
    position: int = -1

    @property
    def alive(self) -> bool:
        """Whether the program is still attached."""
        return self.held.prog_id() is not None
