"""What a node did: the contract between the loader and the planner's status functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from kubebee.lb.fill import Fill
from kubebee.planner.plan import ResourceKey


class Stage(StrEnum):
    """Steps of the loader, in order; a failure names the one it happened in."""

    FETCH = "Fetch"
    COMPILE = "Compile"
    VERIFY = "Verify"
    MAPS = "Maps"
    ATTACH = "Attach"
    CONFIRM = "Confirm"
    RUNNING = "Running"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a unit is not what its resource asks for.

    Attributes:
        errno_name: e.g. "EPERM"; empty where no system call failed.
        log: last 2 KiB of the compiler's or verifier's output.
        permanent: only an edit of the resource can fix it.
        owners: of the resources that the unit serves, those it is about; none: all.
    """

    stage: Stage
    reason: str
    message: str
    errno_name: str = ""
    log: str = ""
    hint: str = ""
    permanent: bool = True
    owners: tuple[ResourceKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Attached:
    """One confirmed attachment, as read back from the kernel.

    Attributes:
        point: e.g. "eth0", "eth0 ingress", "sched/sched_process_exec", "/sys/fs/cgroup connect4".
        mode: XDP: Native or Generic; TC: TCX or Clsact; empty elsewhere.
        position: place in the chain of the interface (0 first), -1 where there is none.
    """

    function: str
    type: str
    point: str
    mode: str = ""
    position: int = -1
    prog_id: int = 0
    link_id: int = 0


@dataclass(frozen=True, slots=True)
class MapFact:
    """A map of a unit as the kernel has it."""

    name: str
    id: int
    type: str
    max_entries: int


@dataclass(frozen=True, slots=True)
class UnitReport:
    """State of one unit on one node.

    Attributes:
        generation: generation of the resource that this report speaks of.
        wanted_hash, running_hash: code hashes; they differ while an old generation is kept.
        notes: what the user should know though nothing failed (a map that was recreated, ...).
        fill: of the load balancer, how full its tables are.
    """

    key: ResourceKey
    generation: int
    stage: Stage
    wanted_hash: str
    running_hash: str = ""
    attached: tuple[Attached, ...] = ()
    maps: tuple[MapFact, ...] = ()
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    fill: tuple[Fill, ...] = ()
    compile_seconds: float = 0.0
    load_seconds: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether all that should run does, in the wanted version."""
        return self.failure is None and self.stage is Stage.RUNNING


@dataclass(frozen=True, slots=True)
class Happening:
    """Something to tell as an Event: reason in CamelCase, one sentence."""

    key: ResourceKey
    warning: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What the loader knows after a pass."""

    node: str
    units: dict[ResourceKey, UnitReport] = field(default_factory=dict)
    happenings: tuple[Happening, ...] = ()

    def of(self, resource: ResourceKey, unit: ResourceKey) -> UnitReport | None:
        """What a unit's report means for one of its resources: another one's failure is not its own."""
        found = self.units.get(unit)
        if found is None or found.failure is None or not found.failure.owners:
            return found
        if resource in found.failure.owners:
            return found
        return replace(found, failure=None, stage=Stage.RUNNING)
