"""Links of everything but XDP: attach, exchange in place, adopt, confirm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kubebee.api.v1alpha1.attach import Attach
from kubebee.bpf.link import Link
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.loader.drivers import Target, driver_for
from kubebee.loader.host import Host
from kubebee.loader.loaded import Loaded
from kubebee.loader.pins import LinkPin, PinRoot
from kubebee.planner.plan import FunctionPlan, ResourceKey

_Place = tuple[ResourceKey, str, str]


@dataclass
class ActiveLink:
    """One attachment, as confirmed from the kernel."""

    function: str
    type: str
    target: Target
    mode: str
    link: Link
    link_id: int
    prog_id: int
    pin: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What attaching a unit came to: places asked for that don't exist, and how each failed place failed."""

    missing: tuple[str, ...]
    failures: tuple[KubebeeError, ...]


class Links:
    """All links of this instance but those of XDP."""

    def __init__(self, pins: PinRoot) -> None:
        self._pins = pins
        self.active: dict[_Place, ActiveLink] = {}

    def apply(self, loaded: Loaded, host: Host) -> Outcome:
        """Attach a unit where it belongs now, and nowhere else.

        A place that can't be attached doesn't keep the others from it.
        """
        pinned = {(pin.function, pin.target): pin for pin in self._pins.links_of(loaded.unit.key)}
        wanted: set[_Place] = set()
        missing: list[str] = []
        failures: list[KubebeeError] = []
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
                    self._place(place, plan, target, loaded, host, pinned.get((plan.name, target.key)))
                except KubebeeError as error:
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
            active = self._place_program(plan, target, loaded, host, before)
        self.active[place] = active
        self._name_pin(place, active, loaded)
        if before is not None and before is not active:
            if before.pin.name and before.pin != active.pin:
                before.pin.unlink(missing_ok=True)
            before.link.close()  # only now: whenever we are killed, one of the two is pinned

    def _place_program(
        self,
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
            link = driver.attach(program.fd, plan.attach, target, host)
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
