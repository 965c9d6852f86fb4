"""What the loader knows of each unit, and of the pass at hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubebee.loader.host import Host
from kubebee.loader.loaded import Loaded
from kubebee.loader.undecided import UndecidedChain
from kubebee.loader.unit import Unit
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Failure


@dataclass
class UnitState:
    """What the loader knows of one unit.

    Attributes:
        waits: a chain that it shall be part of stays as it is, as another stage of it is undecided.
        done: a pass came to its end with it; one that broke off may not have attached what it had made.
        syncing: Services that it shall serve are not all known yet.
        replaced: interfaces where something else does its work, and why it can't.
    """

    wanted: Unit
    active: Loaded | None = None
    failure: Failure | None = None
    compiling: bool = False
    waits: bool = False
    done: bool = False
    syncing: bool = False
    no_interface: tuple[str, ...] = ()
    no_target: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    replaced: dict[str, str] = field(default_factory=dict)
    compile_seconds: float = 0.0

    @property
    def missing(self) -> tuple[str, ...]:
        """Places that its resource names and that are not there (yet)."""
        return tuple(dict.fromkeys((*self.no_interface, *self.no_target)))

    @property
    def settled(self) -> bool:
        """Whether another pass over the same unit would change nothing."""
        if self.compiling or self.waits:
            return False
        if self.failure is not None:
            return self.failure.permanent
        return self.active is not None and self.done and not self.missing


@dataclass
class Pass:
    """One run of apply: the version of each unit that shall be attached.

    Attributes:
        prepared: whether any of them was looked for, or made, anew.
    """

    host: Host
    versions: dict[ResourceKey, Loaded] = field(default_factory=dict)
    fresh: set[ResourceKey] = field(default_factory=set)
    prepared: bool = False
    undecided: list[UndecidedChain] = field(default_factory=list)
