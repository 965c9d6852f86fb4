"""Chains that stay as they are, because a stage of theirs can't be made right now.

Within one process the version that ran is at hand. After a restart it must be made anew to be linked, and
that may fail for a reason that passes: a machine without time or room for the compiler. Until it is tried
again, the kernel's program is all there is of that stage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf.link import Link
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program
from kubebee.loader.chain import ENTRY
from kubebee.loader.pins import CHAIN, PinRoot
from kubebee.planner.plan import ResourceKey


@dataclass(frozen=True, slots=True)
class UndecidedChain:
    """What an earlier process attached to an interface.

    Attributes:
        pins: of the link, the program and its object.
    """

    ifindex: int
    pins: frozenset[Path]


def undecided_chains(pins: PinRoot, undecided: Collection[ResourceKey]) -> list[UndecidedChain]:
    """Chains that have a stage of one of these units, as the kernel knows by the maps they use.

    Raises:
        BpfError: a pin can't be read.
    """
    if not undecided:
        return []
    theirs = [path for key in undecided for each in pins.maps_of(key).values() for path in each]
    maps = {_id(Map.from_pin(path)) for path in theirs}
    # What BCC made is attached as it is.
    alone = [path for key in undecided for each in pins.programs_of(key).values() for path in each]
    programs = {_id(Program.from_pin(path)) for path in alone}
    found = []
    for pin in pins.links_of(CHAIN):
        program = pins.program(CHAIN, ENTRY, pin.load_hash)
        with Link.from_pin(pin.path) as link:
            info = link.info
        if info.prog_id in programs or maps & _maps_of(program):
            kept = pins.chain_object(CHAIN, pin.load_hash)
            found.append(UndecidedChain(info.ifindex or 0, frozenset({pin.path, program, kept})))
    return found


def _id(opened: Map | Program) -> int:
    with opened:
        return opened.info.id


def _maps_of(program: Path) -> set[int]:
    if not program.exists():
        return set()
    with Program.from_pin(program) as opened:
        return set(opened.info.map_ids)
