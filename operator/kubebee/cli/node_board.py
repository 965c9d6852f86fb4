"""What the agent publishes of its node as a whole: looked at rarely and in a thread, as it walks /proc."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from kubebee.api.v1alpha1.bpfnode import BpfNodeStatus, Feature, ForeignProgram
from kubebee.bpf import features, inventory
from kubebee.bpf.syscall import BpfError
from kubebee.planner.node_status import Outcome, node_status

LOOK_SECONDS = 30.0
SHOW_SECONDS = 300.0
"""With every pod container runtimes load programs and drop them: no write by every node each time."""


@dataclass
class NodeBoard:
    """The node's status, and when others' programs were last looked at.

    Attributes:
        seen: others' programs at the last look, None before the first.
        foreign: those of them that are shown, changed at most every 5 minutes.
    """

    status: BpfNodeStatus | None = None
    features: tuple[Feature, ...] = ()
    foreign: tuple[ForeignProgram, ...] = ()
    seen: tuple[ForeignProgram, ...] | None = None
    looked_at: float = float("-inf")
    shown_at: float = float("-inf")
    kernel: str = field(default_factory=lambda: os.uname().release)

    async def look(self) -> bool:
        """Look at the kernel and all its programs if the last look is long ago; returns whether it did."""
        clock = monotonic()
        if clock - self.looked_at < LOOK_SECONDS:
            return False
        self.looked_at = clock
        self.features = self.features or await asyncio.to_thread(kernel_features)
        now = await asyncio.to_thread(foreign_programs)
        show = now if self.seen is None else lasting(self.foreign, self.seen, now)
        self.seen = now
        if show != self.foreign and self.looked_at - self.shown_at >= SHOW_SECONDS:
            self.foreign, self.shown_at = show, self.looked_at
        return True

    def update(self, outcomes: Sequence[Outcome], now: str) -> BpfNodeStatus:
        """The node's status after a pass or a look."""
        self.status = node_status(outcomes, self.kernel, self.features, self.foreign, self.status, now)
        return self.status


def lasting(
    shown: Sequence[ForeignProgram], before: Sequence[ForeignProgram], now: Sequence[ForeignProgram]
) -> tuple[ForeignProgram, ...]:
    """Programs to show: what comes and goes between two looks is no news worth a write by every node.

    Args:
        shown: what was shown so far; stays as it is while the program lives and is not seen to differ twice.
        before: the look before.
        now: this look.
    """
    twice, known = set(before), {program.id: program for program in shown}
    chosen = (program if program in twice else known.get(program.id) for program in now)
    return tuple(program for program in chosen if program is not None)


def kernel_features() -> tuple[Feature, ...]:
    """What this kernel has."""
    return tuple(
        Feature(name=one.name, available=one.available, detail=one.why[:253]) for one in features.features()
    )


def foreign_programs() -> tuple[ForeignProgram, ...]:
    """Programs of this machine that kubebee did not load; none where we may not list them."""
    try:
        records = inventory.programs()
    except BpfError as error:
        if error.errno == errno.EPERM:  # needs CAP_SYS_ADMIN; the feature ProgramInventory says so
            return ()
        raise
    return tuple(
        ForeignProgram(
            id=record.id,
            name=record.name,
            type=record.type.name,
            point=", ".join(f"{p.hook} {p.target}".strip() for p in record.attach_points)[:253],
            owner=record.owner,
        )
        for record in records
        if record.owner != "kubebee"
    )
