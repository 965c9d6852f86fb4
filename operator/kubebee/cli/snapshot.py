"""What there is to show of a folder of manifests at one moment: statuses, Events and counters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kubebee.api.parse import parse_resource
from kubebee.api.v1alpha1.hostpolicy import HostPolicy
from kubebee.api.v1alpha1.servicelb import ServiceLB, ports_of
from kubebee.errors import KubebeeError
from kubebee.lb.model import FrontendKey, Protocol, parse_address
from kubebee.loader.pinned import Attached, Counters, PinnedReader
from kubebee.loader.pins import PinRoot
from kubebee.planner import hostpolicy
from kubebee.planner.declared import Declared
from kubebee.planner.plan import LbUnit, PolicyUnit, ResourceKey
from kubebee.store.state import Accepted, EventRecord, ServicesRecord, StateDirectory


class NoStatusError(KubebeeError):
    """Nothing was ever reported for a folder."""

    reason = "NoStatus"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function of a resource is attached.

    Attributes:
        mode: XDP: Native or Generic; TC: TCX or Clsact; else empty.
    """

    function: str
    type: str
    point: str
    mode: str


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource's status document, as `kubectl get -o yaml` shows it.

    Attributes:
        generation: of the resource; what its status speaks of may be older.
    """

    kind: str
    name: str
    generation: int
    status: dict[str, Any]

    @property
    def key(self) -> ResourceKey:
        """Identity of the resource."""
        return ResourceKey(self.kind, self.name)

    @property
    def condition(self) -> dict[str, Any]:
        """The Ready condition, {} if there is none yet."""
        return next((c for c in self.status.get("conditions", ()) if c.get("type") == "Ready"), {})

    @property
    def ready(self) -> bool:
        """Whether the newest generation is in force."""
        current = int(self.status.get("observedGeneration", 0)) >= self.generation
        return current and self.condition.get("status") == "True"

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it runs, in the order of the status."""
        return tuple(
            Place(str(a["function"]), str(a["type"]), str(a["point"]), str(a.get("mode", "")))
            for a in self.status.get("attachments", ())
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment.

    Attributes:
        at: monotonic seconds.
        units: the unit that runs the functions of a resource.
        frontends: names, as the manifests have them.
        counters_missing: why there are no counters, "" if there are.
        services: what there is to say of Services, None where nobody wants any.
    """

    at: float
    resources: tuple[Resource, ...]
    events: tuple[EventRecord, ...]
    units: Mapping[ResourceKey, ResourceKey]
    frontends: Mapping[FrontendKey, str]
    counters: Counters
    counters_missing: str
    services: ServicesRecord | None = None


class Observer:
    """Looks at a folder and at what runs for it.

    Args:
        directory: folder of manifests.
        bpffs: where the instance that runs it pins.
        names: resources to look at; all if empty.
        events: False: leave Events out.
    """

    def __init__(
        self, directory: Path, bpffs: Path, names: Sequence[str] = (), *, events: bool = True
    ) -> None:
        self._directory = directory
        self._state = StateDirectory(directory / ".kubebee")
        self._bpffs = bpffs
        self._reader = PinnedReader(PinRoot(bpffs))
        self._names = frozenset(names)
        self._with_events = events
        self._known: dict[tuple[str, str], Accepted] = {}
        self._declared: tuple[Declared, ...] = ()

    def look(self) -> Snapshot:
        """Read everything now.

        Raises:
            NoStatusError: there are no resources, or not of the names asked for.
        """
        resources = self._resources()
        self._refresh()
        shown = {resource.key for resource in resources}
        balancers = [(d, d.resource) for d in self._declared if isinstance(d.resource, ServiceLB)]
        policies = [(d, d.resource) for d in self._declared if isinstance(d.resource, HostPolicy)]
        firewalls = _policy_units(policies)
        units = {resource.key: resource.key for resource in resources}
        units |= {declared.key: LbUnit.key for declared, _ in balancers}
        units |= {owner: unit.key for unit in firewalls for owner, _ in unit.owners}
        names = {key: name for d, lb in balancers if d.key in shown for key, name in _frontends(lb)}
        wanted = [unit for unit in firewalls if any(owner in shown for owner, _ in unit.owners)]
        counters, missing = self._counters(resources, units, names, wanted)
        return Snapshot(
            at=time.monotonic(),
            resources=tuple(resources),
            events=self._events({key for resource in shown for key in (resource, units[resource])}),
            units=units,
            frontends=names,
            counters=counters,
            counters_missing=missing,
            services=self._state.load_services(),
        )

    def _events(self, wanted: set[ResourceKey]) -> tuple[EventRecord, ...]:
        every = self._state.load_events() if self._with_events else []
        return tuple(e for e in every if not self._names or ResourceKey(e.kind, e.name) in wanted)

    def _counters(
        self,
        resources: Sequence[Resource],
        units: Mapping[ResourceKey, ResourceKey],
        frontends: Mapping[FrontendKey, str],
        policies: Sequence[PolicyUnit],
    ) -> tuple[Counters, str]:
        attached = {
            (units[resource.key], place.function): Attached(
                units[resource.key], place.function, place.type, ()
            )
            for resource in resources
            for place in resource.places
        }
        try:
            if not self._reader.pins.root.is_dir():
                return Counters(), f"nothing is pinned in {self._bpffs}: --bpffs names another place"
            services = self._state.load_services()
            count = len(frontends) + (services.frontends if services is not None else 0)
            counters = self._reader.read(list(attached.values()), LbUnit.key, count, policies)
        except PermissionError:
            return Counters(), f"{self._bpffs} can't be read: run as root"
        except KubebeeError as error:
            return Counters(), error.message
        if self._names:
            served = tuple(each for each in counters.frontends if each.key in frontends)
            counters = replace(counters, frontends=served)
        return counters, ""

    def _resources(self) -> list[Resource]:
        found = [
            Resource(
                body["kind"], body["metadata"]["name"], body["metadata"]["generation"], body.get("status", {})
            )
            for body in self._state.statuses()
        ]
        missing = self._names - {resource.name for resource in found}
        if missing or not found:
            raise NoStatusError(
                f"no resource is called {', '.join(sorted(missing))}"
                if missing
                else "no status was written here",
                where=str(self._directory),
                hint=f"`kubebee run -f {self._directory}` writes it",
            )
        return [resource for resource in found if not self._names or resource.name in self._names]

    def _refresh(self) -> None:
        """Parse the resources in force anew if one of them changed."""
        accepted = self._state.load_accepted()
        if accepted != self._known:
            self._known = accepted
            self._declared = tuple(_declared(accepted.values()))


def _declared(records: Iterable[Accepted]) -> Iterator[Declared]:
    for record in records:
        try:
            resource = parse_resource(record.manifest, record.source)
        except KubebeeError:
            continue  # accepted by another version of kubebee
        yield Declared(ResourceKey(record.kind, record.name), resource, record.generation, record.created)


def _policy_units(policies: Sequence[tuple[Declared, HostPolicy]]) -> list[PolicyUnit]:
    """The firewall's units, without their code: it is not needed to read them."""
    understood = []
    for declared, policy in policies:
        try:
            understood.append((declared, policy, hostpolicy.policy_of(declared.key.name, policy.spec)))
        except KubebeeError:
            continue  # refused: its status says why
    return hostpolicy.units(understood, source="")


def _frontends(lb: ServiceLB) -> Iterator[tuple[FrontendKey, str]]:
    for item in lb.spec.frontends:
        address, protocol = parse_address(item.address), Protocol[item.protocol]
        for port in ports_of(item.port):
            yield FrontendKey(address, port, protocol), f"{lb.metadata.name}/{item.name}"
