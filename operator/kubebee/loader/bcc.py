"""Programs in BCC's dialect: BCC loads what it compiles, so there is no object, only descriptors to keep."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubebee.bpf.constants import ProgType
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program
from kubebee.errors import NotImplementedYetError
from kubebee.loader.carry_over import carry_over
from kubebee.loader.drivers import driver_for
from kubebee.loader.pins import PinRoot
from kubebee.loader.unit import CodeObject
from kubebee.planner.plan import FunctionPlan, ResourceKey
from kubebee.toolchain import bcc

_TYPES = frozenset(
    {
        *(ProgType.XDP, ProgType.SCHED_CLS, ProgType.KPROBE, ProgType.TRACEPOINT, ProgType.RAW_TRACEPOINT),
        *(ProgType.CGROUP_SKB, ProgType.SOCK_OPS),
    }
)


class MadeByBcc:
    """Descriptors of loaded programs and their maps, closed when nobody refers to this any more.

    Attributes:
        programs, maps: descriptors by name; duplicate those that shall stay.
    """

    def __init__(self, result: bcc.BccResult) -> None:
        self.programs: Mapping[str, int] = result.programs
        self.maps: Mapping[str, int] = result.maps
        self.seconds = result.seconds
        # The compiler may be given up while BCC is at work: then the result arrives and nobody takes it.
        weakref.finalize(self, _close, (*result.programs.values(), *result.maps.values()))


@dataclass(frozen=True, slots=True)
class Kept:
    """Open, pinned programs and maps by name, and what to tell the user of them."""

    programs: dict[str, Program]
    maps: dict[str, Map]
    notes: tuple[str, ...] = ()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


async def make(code: CodeObject) -> MadeByBcc:
    """Have BCC compile and load the functions of a source.

    Raises:
        UnsupportedError: BCC or kernel headers are missing.
        NotImplementedYetError: BCC can't load what an attach type needs.
        CompileError: clang or the verifier refuses it.
    """
    types = {plan.name: int(_type_of(plan)) for plan in code.functions}
    source, filename = code.bundle.source, code.bundle.filename
    return await asyncio.to_thread(lambda: MadeByBcc(bcc.load(source, types, filename)))


def _type_of(plan: FunctionPlan) -> ProgType:
    if plan.attach.type == "XDP":
        return ProgType.XDP
    load_as = driver_for(plan.attach).load_as(plan.attach) if plan.attach.type != "StructOps" else None
    if load_as is None or load_as.type not in _TYPES:
        raise NotImplementedYetError(
            f"BCC can't load functions for attach type {plan.attach.type}",
            where=plan.name,
            hint="use toolchain Clang",
        )
    return load_as.type


def keep(key: ResourceKey, made: MadeByBcc, digest: str, pins: PinRoot) -> Kept:
    """Pin what BCC made under its load hash; entries of the version before are copied where they fit."""
    before = pins.maps_of(key)
    maps, notes = {}, []
    for name, fd in made.maps.items():
        maps[name] = Map(os.dup(fd))
        path = pins.map(key, name, digest)
        note = carry_over(maps[name], [pin for pin in before.get(name, []) if pin != path], name)
        notes += [note] if note else []
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        maps[name].pin(path)
    programs = {}
    for name, fd in made.programs.items():
        programs[name] = Program(os.dup(fd))
        path = pins.program(key, name, digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        programs[name].pin(path)  # after its maps: what is pinned is whole
    return Kept(programs, maps, tuple(notes))


def adopt(key: ResourceKey, functions: Iterable[str], digest: str, pins: PinRoot) -> Kept | None:
    """What `keep` pinned under this load hash; None unless every function and all of its maps are there."""
    wanted = {name: pins.program(key, name, digest) for name in functions}
    if not all(path.exists() for path in wanted.values()):
        return None
    programs = {name: Program.from_pin(path) for name, path in wanted.items()}
    pinned = pins.maps_of(key)
    maps = {name: Map.from_pin(path) for name in pinned if (path := pins.map(key, name, digest)).exists()}
    kept = Kept(programs, maps)
    used = {map_id for program in programs.values() for map_id in program.info.map_ids}
    if used <= {bpf_map.info.id for bpf_map in maps.values()}:
        return kept
    release(kept)
    return None


def release(kept: Kept) -> None:
    """Close descriptors; pins stay."""
    for program in kept.programs.values():
        program.close()
    for bpf_map in kept.maps.values():
        bpf_map.close()
