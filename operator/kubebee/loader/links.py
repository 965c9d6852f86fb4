"""Links of everything but XDP: attach, exchange in place, adopt, confirm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kubebee.api.v1alpha1.attach import Attach
from kubebee.bpf.attach import attach_tcx
from kubebee.bpf.inventory import tcx_programs
from kubebee.bpf.link import Link
from kubebee.bpf.program import Program
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.loader import tcx_order
from kubebee.loader.drivers import Target, driver_for
from kubebee.loader.host import Host
from kubebee.loader.loaded import Loaded
from kubebee.loader.pins import LinkPin, PinRoot, pinned_place
from kubebee.planner.plan import FunctionPlan, ResourceKey

_Place = tuple[ResourceKey, str, str]


@dataclass
class ActiveLink:
    """One attachment, as confirmed from the kernel.

    Attributes:
        rank: its place among ours, where the target has an order.
        position: that it has there, counted from 0 over ours; -1 elsewhere.
    """

    function: str
    type: str
    target: Target
    mode: str
    link: Link
    link_id: int
    prog_id: int
    pin: Path
    rank: tcx_order.Rank = (0, "", "")
    position: int = -1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What attaching a unit came to: places asked for that don't exist, and how each failed place failed."""

    missing: tuple[str, ...]
    failures: tuple[Exception, ...]


class Links:
    """All links of this instance but those of XDP."""

    def __init__(self, pins: PinRoot) -> None:
        self._pins = pins
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
        before = self.active.get(place) or self._adopt(place, plan.attach, target, pinned)
        if before is not None and not _alive(before):
            self._drop(place)
            before = None
        if plan.attach.type == "StructOps":
            active = self._place_struct_ops(place, plan, target, loaded, before)
        else:
            active = self._place_program(place, plan, target, loaded, host, before)
        active.rank, active.target = _rank(place, plan), target  # the interface may have a new name
        self.active[place] = active
        self._name_pin(place, active, loaded)
        if before is not None and before is not active:
            if before.pin.name and before.pin != active.pin:
                before.pin.unlink(missing_ok=True)
            before.link.close()  # only now: whenever we are killed, one of the two is pinned

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
        driver = driver_for(plan.attach)
        if active is not None and active.prog_id != prog_id and driver.in_place:
            active.link.update(program.fd)
            active.prog_id = active.link.info.prog_id
        if active is None or active.prog_id != prog_id:
            position = tcx_order.position(_rank(place, plan), self._others(place, target))
            link = driver.attach(program.fd, plan.attach, replace(target, position=position), host)
            info = link.info
            mode = "TCX" if plan.attach.type == "TC" else ""
            active = ActiveLink(
                plan.name, plan.attach.type, target, mode, link, info.id, info.prog_id, Path()
            )
        if active.prog_id != prog_id:
            raise KubebeeError(
                f"the kernel runs program {active.prog_id}, not {prog_id}",
                reason="NotConfirmed",
                where=target.point,
            )
        return active

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
            link = Link(opened.maps[plan.name].attach_struct_ops())
        finally:
            opened.close()
        info = link.info
        return ActiveLink(plan.name, plan.attach.type, target, "", link, info.id, info.prog_id, Path())

    def _adopt(
        self, place: _Place, attach: Attach, target: Target, pinned: LinkPin | None
    ) -> ActiveLink | None:
        if pinned is None or not pinned.path.exists():
            return None
        try:
            link = Link.from_pin(pinned.path)
        except BpfError:
            return None
        info = link.info
        mode = "TCX" if attach.type == "TC" else ""
        active = ActiveLink(place[1], attach.type, target, mode, link, info.id, info.prog_id, pinned.path)
        self.active[place] = active
        return active

    def _name_pin(self, place: _Place, active: ActiveLink, loaded: Loaded) -> None:
        """Pin the link under the name that says what it runs now."""
        key, function, target = place
        wanted = self._pins.link(key, function, target, loaded.load_hash, loaded.unit.generation)
        if active.pin.name and active.pin.exists():
            if active.pin != wanted:
                active.pin.rename(wanted)
        else:
            wanted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted.unlink(missing_ok=True)
            active.link.pin(wanted)
        active.pin = wanted

    def reorder(self) -> list[tuple[ResourceKey, KubebeeError]]:
        """Bring programs of one hook into their order.

        A link can't change its place: a program that must move is off its hook for some microseconds.

        Returns:
            Resources whose program could not be attached again.
        """
        hooks: dict[str, list[_Place]] = {}
        for place, active in self.active.items():
            if active.target.order:
                hooks.setdefault(active.target.order, []).append(place)
        failures = []
        for places in hooks.values():
            places.sort(key=lambda place: self.active[place].rank)
            wanted = {self.active[place].link_id: place for place in places}
            first = self.active[places[0]]
            ingress = first.target.point.endswith("ingress")
            actual = [link for _, link in tcx_programs(first.target.ifindex, ingress) if link in wanted]
            for link_id in tcx_order.to_move(list(wanted), actual) if len(actual) == len(wanted) else ():
                try:
                    self._move(wanted[link_id], ingress)
                except KubebeeError as error:
                    failures.append((wanted[link_id][0], error))
            for position, place in enumerate(place for place in places if place in self.active):
                self.active[place].position = position
        return failures

    def _move(self, place: _Place, ingress: bool) -> None:
        """Attach a program anew where its rank wants it; the kernel refuses it twice on one hook."""
        active = self.active[place]
        with Program.from_id(active.prog_id) as program:
            self._drop(place)
            position = tcx_order.position(active.rank, self._others(place, active.target))
            active.link = attach_tcx(program.fd, active.target.ifindex, ingress, position)
        active.link.pin(active.pin)
        active.link_id = active.link.info.id
        self.active[place] = active

    def _others(self, place: _Place, target: Target) -> list[tuple[tcx_order.Rank, int]]:
        """Our other programs on a hook that has an order."""
        return [
            (active.rank, active.link_id)
            for other, active in self.active.items()
            if target.order and active.target.order == target.order and other != place and _alive(active)
        ]

    def drop_unit(self, key: ResourceKey) -> None:
        """Detach everything of a unit."""
        for place in [p for p in self.active if p[0] == key]:
            self._drop(place)

    def _drop(self, place: _Place) -> None:
        active = self.active.pop(place)
        if active.pin.name:
            active.pin.unlink(missing_ok=True)
        active.link.close()

    def of_unit(self, key: ResourceKey) -> list[ActiveLink]:
        """Attachments of a unit."""
        return [active for place, active in self.active.items() if place[0] == key]

    def lost(self) -> list[tuple[ResourceKey, ActiveLink]]:
        """Attachments that were detached behind our back."""
        return [(place[0], active) for place, active in self.active.items() if not _alive(active)]

    def pins(self) -> set[Path]:
        """Every pin that is in use."""
        return {active.pin for active in self.active.values()}


def _rank(place: _Place, plan: FunctionPlan) -> tcx_order.Rank:
    return (plan.priority, place[0].name, plan.name)


def _targets(plan: FunctionPlan, host: Host) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    if plan.attach.type == "StructOps":
        return (Target(f"struct_ops:{plan.name}", plan.name),), ()
    targets = driver_for(plan.attach).targets(plan.attach, host)
    return targets.found, targets.missing


def _alive(active: ActiveLink) -> bool:
    """Whether the link is still attached; the kernel zeroes what a detached one was attached to."""
    try:
        info = active.link.info
    except BpfError:
        return False
    return info.ifindex != 0 and info.cgroup_id != 0 and (info.map_id != 0)
