"""Attachments of everything but XDP: attach, exchange in place, adopt, confirm."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from kubebee.api.v1alpha1.attach import Attach
from kubebee.bpf.clsact import Hook
from kubebee.bpf.link import Link
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.loader import tcx_order
from kubebee.loader.drivers import Target, driver_for
from kubebee.loader.filters import Filters, HeldFilter
from kubebee.loader.held import ActiveLink, Held, HeldLink
from kubebee.loader.host import Host
from kubebee.loader.loaded import Loaded
from kubebee.loader.pins import LinkPin, PinRoot, pinned_place
from kubebee.loader.tc_hook import links_of, priorities_of, reorder
from kubebee.planner.plan import FunctionPlan, ResourceKey

_Place = tuple[ResourceKey, str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What attaching a unit came to: places asked for that don't exist, and how each failed place failed."""

    missing: tuple[str, ...]
    failures: tuple[Exception, ...]


class Links:
    """All links of this instance but those of XDP."""

    def __init__(self, pins: PinRoot) -> None:
        self._pins = pins
        self._filters = Filters(pins)
        self.active: dict[_Place, ActiveLink] = {}

    def apply(self, loaded: Loaded, host: Host) -> Outcome:
        """Attach a unit where it belongs now, and nowhere else.

        A place that can't be attached doesn't keep the others from it.
        """
        pinned = self._pins.links_by_place(loaded.unit.key)
        wanted: set[_Place] = set()
        missing: list[str] = []
        failures: list[Exception] = []
        for plan in loaded.unit.functions:
            if plan.attach.type == "XDP":
                continue
            try:
                targets = _targets(plan, host)
            except KubebeeError as error:
                failures.append(error)
                continue
            missing.extend(targets[1])
            for target in targets[0]:
                place = (loaded.unit.key, plan.name, target.key)
                wanted.add(place)
                try:
                    at = pinned.get(pinned_place(plan.name, target.key))
                    self._place(place, plan, target, loaded, host, at)
                except (KubebeeError, OSError) as error:
                    failures.append(error)
        if not failures:  # else the version before may have to go on where it is
            for place in [p for p in self.active if p[0] == loaded.unit.key and p not in wanted]:
                self._drop(place)
        return Outcome(tuple(missing), tuple(failures))

    def _place(
        self,
        place: _Place,
        plan: FunctionPlan,
        target: Target,
        loaded: Loaded,
        host: Host,
        pinned: LinkPin | None,
    ) -> None:
        before = self.active.get(place) or self._adopt(place, plan.attach, target, host, pinned)
        if before is not None and not before.alive:
            self._drop(place)
            before = None
        if plan.attach.type == "StructOps":
            active = self._place_struct_ops(place, plan, target, loaded, before)
        else:
            active = self._place_program(place, plan, target, loaded, host, before)
        active.rank, active.target = _rank(place, plan), target  # the interface may have a new name
        active.program = self._pins.program(place[0], plan.name, loaded.load_hash)
        self.active[place] = active
        active.held.keep(
            self._pins.link(place[0], plan.name, target.key, loaded.load_hash, loaded.unit.generation)
        )
        if before is not None and before is not active:
            before.held.release(active.held.pin)  # only now: whenever we are killed, one of the two is held

    def _place_program(
        self,
        place: _Place,
        plan: FunctionPlan,
        target: Target,
        loaded: Loaded,
        host: Host,
        active: ActiveLink | None,
    ) -> ActiveLink:
        program = loaded.programs[plan.name]
        prog_id = program.info.id
        if active is not None and active.prog_id != prog_id and driver_for(plan.attach).in_place:
            active.held.exchange(program.fd)
            active.prog_id = active.held.prog_id() or 0
        if active is None or active.prog_id != prog_id:
            held = self._attach(place, plan, target, program.fd, host)
            active = ActiveLink(plan.name, plan.attach.type, target, held, held.prog_id() or 0)
        if active.prog_id != prog_id:
            raise KubebeeError(
                f"the kernel runs program {active.prog_id}, not {prog_id}",
                reason="NotConfirmed",
                where=target.point,
            )
        return active

    def _attach(self, place: _Place, plan: FunctionPlan, target: Target, prog_fd: int, host: Host) -> Held:
        key, function, _ = place
        driver = driver_for(plan.attach)
        if target.hook is None:
            return HeldLink(driver.attach(prog_fd, plan.attach, target, host))
        rank, others = _rank(place, plan), self._others(place, target.hook)
        if host.tc_mode == "Clsact":
            there = priorities_of(others)
            return self._filters.attach(prog_fd, key, function, target.hook, rank, there)
        position = tcx_order.position(rank, links_of(others))
        link = driver.attach(prog_fd, plan.attach, replace(target, position=position), host)
        return HeldLink(link, "TCX")

    def _place_struct_ops(
        self, place: _Place, plan: FunctionPlan, target: Target, loaded: Loaded, active: ActiveLink | None
    ) -> ActiveLink:
        if not loaded.struct_ops:
            if active is None:
                raise KubebeeError(
                    "its operations were unregistered behind our back", reason="LinkLost", where=plan.name
                )
            return active
        if active is not None:
            self._drop(place)  # the kernel refuses two operations of one name
        opened = loaded.struct_ops.pop()
        try:
            held = HeldLink(Link(opened.maps[plan.name].attach_struct_ops()))
        finally:
            opened.close()
        return ActiveLink(plan.name, plan.attach.type, target, held, held.prog_id() or 0)

    def _adopt(
        self, place: _Place, attach: Attach, target: Target, host: Host, pinned: LinkPin | None
    ) -> ActiveLink | None:
        """What an earlier process left here; of tc only what is attached as it is now, the rest is swept."""
        held: Held | None = None
        if target.hook is not None and host.tc_mode == "Clsact":
            held = self._filters.find(place[0], place[1], target.hook)
        elif pinned is not None and pinned.path.exists():
            with contextlib.suppress(BpfError):
                link = Link.from_pin(pinned.path)
                held = HeldLink(link, host.tc_mode if target.hook else "", pinned.path)
        if held is None:
            return None
        active = ActiveLink(place[1], attach.type, target, held, held.prog_id() or 0)
        self.active[place] = active
        return active

    def reorder(self) -> list[tuple[ResourceKey, KubebeeError]]:
        """Bring programs of one hook into their order.

        Returns:
            Resources whose program is not at its place.
        """
        hooks: dict[Hook, list[_Place]] = {}
        for place, active in self.active.items():
            if active.target.hook is not None:
                hooks.setdefault(active.target.hook, []).append(place)
        failures = []
        for hook, places in hooks.items():
            of_active = {id(self.active[place]): place for place in places}
            for active, error in reorder(hook, [self.active[place] for place in places]):
                place = of_active[id(active)]
                failures.append((place[0], error))
                if not active.alive:
                    del self.active[place]
        return failures

    def _others(self, place: _Place, hook: Hook) -> list[ActiveLink]:
        """Our other programs on a hook that has an order."""
        return [
            active for other, active in self.active.items() if active.target.hook == hook and other != place
        ]

    def sweep(self, kept: Collection[str]) -> None:
        """Remove filters that nobody refers to, and qdiscs that we made for filters that are gone.

        Args:
            kept: directories of units whose filters stay, as it is not known yet what is wanted of them.

        Raises:
            BpfError: netlink refuses.
        """
        held = [active.held for active in self.active.values()]
        self._filters.sweep({(one.hook, one.priority) for one in held if isinstance(one, HeldFilter)}, kept)

    def drop_unit(self, key: ResourceKey) -> None:
        """Detach everything of a unit."""
        for place in [p for p in self.active if p[0] == key]:
            self._drop(place)

    def _drop(self, place: _Place) -> None:
        self.active.pop(place).held.release()

    def of_unit(self, key: ResourceKey) -> list[ActiveLink]:
        """Attachments of a unit."""
        return [active for place, active in self.active.items() if place[0] == key]

    def lost(self) -> list[tuple[ResourceKey, ActiveLink]]:
        """Attachments that were detached behind our back."""
        return [(place[0], active) for place, active in self.active.items() if not active.alive]

    def pins(self) -> set[Path]:
        """Every pin that is in use."""
        return {active.held.pin for active in self.active.values() if active.held.pin is not None}


def _rank(place: _Place, plan: FunctionPlan) -> tcx_order.Rank:
    return (plan.priority, place[0].name, plan.name)


def _targets(plan: FunctionPlan, host: Host) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    if plan.attach.type == "StructOps":
        return (Target(f"struct_ops:{plan.name}", plan.name),), ()
    targets = driver_for(plan.attach).targets(plan.attach, host)
    return targets.found, targets.missing
