"""ServiceLBs of a node to one table of frontends."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from typing import Protocol as Interface

from kubebee.api.v1alpha1 import servicelb as api
from kubebee.api.v1alpha1.selectors import Interfaces, LabelSelector
from kubebee.errors import KubebeeError
from kubebee.lb.family import IPV6
from kubebee.lb.features import Features
from kubebee.lb.model import (
    Forwarding,
    Frontend,
    FrontendKey,
    LbConfig,
)
from kubebee.lb.services.claims import Shape
from kubebee.lb.services.wanted import Requirement, Selection, ServicesWanted
from kubebee.lb.sizes import Limits, Needs, fixed_sizes, map_sizes
from kubebee.planner.declared import Declared
from kubebee.planner.frontends import Balanced, dispatch_of, mode_of
from kubebee.planner.plan import Bundle, LbUnit, PacketCode, ResourceKey, Toolchain

Refuse = Callable[[ResourceKey, KubebeeError], None]
_NO_SERVICES = Shape()


class Sources(Interface):
    """C text of the load balancer's programs."""

    def servicelb(self, features: Features, tc: bool, six: bool) -> str:
        """What packets of one family meet, with what is needed of it: the XDP stage, or tc's programs."""

    def socketlb(self, features: Features) -> str:
        """The socket programs."""


class OverlapError(KubebeeError):
    """Two resources claim one thing; the older has it."""

    reason = "DuplicateFrontend"


@dataclass(frozen=True)
class Served:
    """A ServiceLB with what its spec came to."""

    declared: Declared
    spec: api.ServiceLBSpec
    balanced: Balanced


Candidate = tuple[Served, Served | None]
"""The newest version of a resource, and the one in force before, which stays if the new one is refused."""


@dataclass(frozen=True)
class Merged:
    """What the ServiceLBs of a node come to.

    Attributes:
        unit: all of them as one; None without a resource.
        in_force: by resource, in order of seniority.
        whole: all of them are in force in their newest version.
    """

    unit: LbUnit | None = None
    in_force: Mapping[ResourceKey, Served] = field(default_factory=dict)
    whole: bool = True


def unit(
    candidates: Sequence[Candidate],
    sources: Sources,
    refuse: Refuse,
    last: Merged | None = None,
    services: Shape = _NO_SERVICES,
) -> Merged:
    """All ServiceLBs of a node as one unit.

    Args:
        candidates: the resources, oldest first: of two that claim one frontend the older has it.
        sources: source texts.
        refuse: told of resources that are left out.
        last: the result before this one; saves work and changes no result.
        services: what is needed for Services, if one of the resources wants some.
    """
    merged = _with_new_values(candidates, last or Merged())
    if merged is not None:
        in_force = {newest.declared.key: newest for newest, _ in candidates}
        return Merged(_unit(list(in_force.values()), merged, sources, services), in_force)
    taken: dict[FrontendKey, Frontend] = {}
    accepted: dict[ResourceKey, Served] = {}
    whole = True
    for newest, before in candidates:
        for served in (newest, before):
            if served is None:
                continue
            try:
                _check_overlap(served.balanced.frontends, taken)
                _check_config(served.balanced.config, accepted)
                _check_sockets(served.spec.socket_lb, accepted)
            except KubebeeError as error:
                whole = False
                if served is newest:
                    refuse(served.declared.key, error)
                continue
            taken.update(served.balanced.frontends)
            accepted[served.declared.key] = served
            break
    made = _unit(list(accepted.values()), taken, sources, services) if accepted else None
    return Merged(made, accepted, whole)


def _with_new_values(candidates: Sequence[Candidate], last: Merged) -> Mapping[FrontendKey, Frontend] | None:
    """The last table with other backends in it, if nothing changed that could make a resource refused."""
    if last.unit is None or not last.whole or len(candidates) != len(last.in_force):
        return None
    changed: list[Balanced] = []
    for (newest, _), (key, known) in zip(candidates, last.in_force.items(), strict=True):
        own, its = newest.balanced, known.balanced
        if own is its and newest.declared.key == key:
            continue
        same = newest.declared.key == key and own.config == its.config
        same &= newest.spec.socket_lb == known.spec.socket_lb
        same &= own.references == its.references
        if not same or list(own.frontends) != list(its.frontends):
            return None
        changed.append(own)
    if not changed:
        return last.unit.frontends
    frontends = dict(last.unit.frontends)
    for balanced in changed:
        frontends.update(balanced.frontends)
    return frontends


def _unit(
    accepted: list[Served], frontends: Mapping[FrontendKey, Frontend], sources: Sources, services: Shape
) -> LbUnit:
    modes = frozenset[Forwarding]().union(*(served.balanced.modes for served in accepted))
    needs = reduce(Needs.plus, (served.balanced.needs for served in accepted))
    affinity = any(served.balanced.affinity for served in accepted)
    wanted = services_wanted(accepted)
    if wanted is not None:
        # SNAT in any case: a Service gets it where DSR can't serve it.
        modes |= {Forwarding.SNAT} | services.dsr
        needs, affinity = needs.plus(services.needs), affinity or services.affinity
    fixed = fixed_sizes(needs, reduce(Limits.largest, (_limits(served.spec.limits) for served in accepted)))
    sockets = next((served.spec.socket_lb for served in accepted if served.spec.socket_lb.enabled), None)
    features = Features(
        dsr=any(mode.is_dsr for mode in modes),
        ip_option=Forwarding.DSR_IP_OPTION in modes,
        ipv6=IPV6 in needs.families,
        affinity=affinity,
        cut_over=any(served.spec.cut_over is not None for served in accepted),
        random=any(served.spec.algorithm == "Random" for served in accepted),
        host_only=sockets is not None and sockets.host_namespace_only,
    )
    return LbUnit(
        owners=tuple((served.declared.key, served.declared.generation) for served in accepted),
        packets=tuple(
            PacketCode(
                _bundle(sources.servicelb(features, tc=False, six=six), f"servicelb{'6' * six}.bpf.c"),
                _bundle(sources.servicelb(features, tc=True, six=six), f"servicelb{'6' * six}_tc.bpf.c"),
                "6" * six,
            )
            for six in ((False, True) if features.ipv6 else (False,))
        ),
        socket=_bundle(sources.socketlb(features), "socketlb.bpf.c") if sockets else None,
        cgroup=sockets.cgroup if sockets else "",
        interfaces=tuple(  # each once: many ServiceLBs name the same
            dict.fromkeys(
                (served.spec.interfaces or Interfaces(primary=True), served.spec.north_south.mode)
                for served in accepted
            )
        ),
        frontends=_own(frontends, accepted),
        config=accepted[0].balanced.config,
        map_sizes=map_sizes(needs) | fixed,
        fixed_sizes=frozenset(fixed),
        features=features,
        services=wanted,
        drain_seconds=dict(ChainMap(*(dict(served.balanced.drain_seconds) for served in accepted))),
        healthz_ports=tuple(served.spec.healthz_port for served in accepted if served.spec.healthz_port),
        checks=dict(ChainMap(*(dict(served.balanced.checks) for served in accepted))),
        hand_back=any(
            served.spec.cut_over is not None and served.spec.cut_over.hand_back for served in accepted
        ),
    )


def _limits(wanted: api.Limits) -> Limits:
    return Limits(wanted.frontends or 0, wanted.backends or 0, wanted.slots or 0, wanted.flows or 0)


def services_wanted(accepted: Sequence[Served]) -> ServicesWanted | None:
    """Services that ServiceLBs ask for, those of the oldest first; None: they ask for none."""
    selections = tuple(
        _selection(served.declared.key.name, served.spec, served.spec.services)
        for served in accepted
        if served.spec.services is not None and (served.spec.services.all or served.spec.services.selector)
    )
    references = tuple(one for served in accepted for one in served.balanced.references.values())
    return ServicesWanted(selections, references) if selections or references else None


def _own(
    frontends: Mapping[FrontendKey, Frontend], accepted: Sequence[Served]
) -> Mapping[FrontendKey, Frontend]:
    """Frontends without those that get their backends from Services, and come with these."""
    referring = frozenset().union(*(served.balanced.references for served in accepted))
    return {key: each for key, each in frontends.items() if key not in referring} if referring else frontends


def _selection(owner: str, spec: api.ServiceLBSpec, wanted: api.ServicesSelector) -> Selection:
    classes = wanted.load_balancer_classes
    return Selection(
        owner,
        _requirements(wanted.selector),
        mode_of(spec.forwarding),
        dispatch_of(spec.forwarding),
        host_ports=bool(wanted.all),
        namespaces=frozenset(wanted.namespaces),
        classes=None if classes is None else frozenset(classes),
        random=spec.algorithm == "Random",
    )


def _requirements(selector: LabelSelector | None) -> tuple[Requirement, ...]:
    if selector is None:
        return ()
    equal = [Requirement(key, "In", frozenset({value})) for key, value in selector.match_labels.items()]
    more = [Requirement(one.key, one.operator, frozenset(one.values)) for one in selector.match_expressions]
    return (*equal, *more)


def _bundle(source: str, filename: str) -> Bundle:
    return Bundle(Toolchain.CLANG, source, filename, trusted=True)


def _check_overlap(own: Mapping[FrontendKey, Frontend], taken: dict[FrontendKey, Frontend]) -> None:
    if taken.keys().isdisjoint(own):
        return
    key = next(key for key in own if key in taken)
    raise OverlapError(
        f"frontend {key} already belongs to {taken[key].owner}, which is older",
        where="spec.frontends",
        hint="remove it from one of the two, or give it another port",
    )


def _check_config(wanted: LbConfig, accepted: Mapping[ResourceKey, Served]) -> None:
    for key, served in islice(accepted.items(), 1):  # all others agree with the first
        if wanted != served.balanced.config:
            raise KubebeeError(
                f"spec.snat differs from that of {key}; a node has one",
                reason="ConflictingSettings",
                where="spec.snat",
                hint="give both the same",
            )


def _check_sockets(wanted: api.SocketLB, accepted: Mapping[ResourceKey, Served]) -> None:
    for key, served in accepted.items():
        if not sockets_agree(wanted, served.spec.socket_lb):
            raise KubebeeError(
                f"spec.socketLB differs from that of {key}; a node has one",
                reason="ConflictingSettings",
                where="spec.socketLB",
                hint="give both the same, or switch it off in one of them",
            )


def sockets_agree(one: api.SocketLB, other: api.SocketLB) -> bool:
    """Whether two can be served by one set of socket programs, which reads one table."""
    return one == other or not (one.enabled and other.enabled)
