"""From the loader's state of a unit to what it reports."""

from __future__ import annotations

from collections.abc import Iterable

from kubebee.lb.fill import Fill
from kubebee.loader.interfaces import XdpInterfaces
from kubebee.loader.links import Links
from kubebee.loader.loaded import Loaded
from kubebee.loader.state import UnitState
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Attached, Failure, MapFact, Stage, UnitReport


def unit_report(
    state: UnitState,
    attached: Iterable[Attached],
    notes: tuple[str, ...] = (),
    fill: tuple[Fill, ...] = (),
) -> UnitReport:
    """What a status says of one unit; `notes` are said beside its own, `fill` is that of its tables."""
    failure = state.failure
    if failure is None and state.missing:
        names = ", ".join(state.missing)
        failure = Failure(
            Stage.ATTACH,
            "TargetNotFound",
            f"not there (yet): {names}",
            hint="it is attached as soon as it appears",
            permanent=False,
        )
    active = state.active
    replaced = (f"{name}: by tc, as XDP can't: {why}" for name, why in state.replaced.items())
    return UnitReport(
        key=state.wanted.key,
        generation=state.wanted.generation,
        stage=failure.stage if failure else _stage(state),
        wanted_hash=state.wanted.code_hash,
        running_hash=active.unit.code_hash if active else "",
        attached=tuple(attached),
        maps=tuple(_map_facts(active)) if active else (),
        failure=failure,
        notes=(*state.notes, *replaced, *notes),
        fill=fill,
        compile_seconds=state.compile_seconds,
        load_seconds=active.seconds if active else 0.0,
    )


def _stage(state: UnitState) -> Stage:
    if state.compiling:
        return Stage.COMPILE
    if state.syncing:
        return Stage.MAPS
    return Stage.ATTACH if state.waits else Stage.RUNNING


def attachments(xdp: XdpInterfaces, links: Links) -> dict[ResourceKey, list[Attached]]:
    """Every place where units run, as confirmed from the kernel."""
    found: dict[ResourceKey, list[Attached]] = {}
    for interface, active in sorted(xdp.active.items()):
        for position, stage in enumerate(active.chain.stages):
            there = Attached(
                stage.function, "XDP", interface, active.mode, position, active.prog_id, active.link_id
            )
            found.setdefault(stage.key, []).append(there)
    for (key, _, _), link in links.active.items():
        there = Attached(
            link.function,
            link.type,
            link.target.point,
            link.held.mode,
            link.position,
            link.prog_id,
            link.held.link_id,
        )
        found.setdefault(key, []).append(there)
    return found


def _map_facts(loaded: Loaded) -> Iterable[MapFact]:
    for name, bpf_map in sorted(loaded.maps.items()):
        info = bpf_map.info
        yield MapFact(name, info.id, info.type.name, info.max_entries)
