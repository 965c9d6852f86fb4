"""The spec of one ServiceLB to frontends, backends and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kubebee.api.v1alpha1 import servicelb as api
from kubebee.errors import KubebeeError
from kubebee.lb.health.check import Check, Probe
from kubebee.lb.model import (
    Backend,
    Forwarding,
    Frontend,
    FrontendKey,
    LbConfig,
    Protocol,
    parse_address,
)
from kubebee.lb.model import check as check_frontend
from kubebee.lb.services.wanted import Reference
from kubebee.lb.sizes import Needs, needs_of

MAX_FRONTENDS = 65536
"""Of one ServiceLB, a port each."""
_DISPATCH = {
    "IPIP": Forwarding.DSR_IPIP,
    "L2": Forwarding.DSR_L2,
    "IPOption": Forwarding.DSR_IP_OPTION,
}
Made = tuple[Frontend, ...]
"""What one item of spec.frontends comes to: a frontend for each of its ports."""


def frontends_of(owner: str, spec: api.ServiceLBSpec, known: Mapping[int, Made]) -> tuple[Made, ...]:
    """The frontends of one ServiceLB, by item.

    Args:
        owner: of the frontends, for messages.
        spec: what to convert.
        known: what some items came to before, by their `id`.

    Raises:
        KubebeeError: one can't be served; `where` is the path of the field.
    """
    count = sum(len(api.ports_of(item.port)) for item in spec.frontends)
    if count > MAX_FRONTENDS:
        raise KubebeeError(
            f"{count} ports of all frontends together, at most {MAX_FRONTENDS} are served",
            reason="InvalidFrontend",
            where="spec.frontends",
            hint="make the ranges smaller",
        )
    return tuple(
        known.get(id(item)) or _frontends(owner, index, item, spec)
        for index, item in enumerate(spec.frontends)
    )


def _frontends(owner: str, index: int, item: api.Frontend, spec: api.ServiceLBSpec) -> Made:
    where = f"spec.frontends[{index}]"
    _check_algorithm(index, item, spec)
    try:
        address = parse_address(item.address)
        where += ".backends"
        servers = tuple((parse_address(b.address), b.port, b.weight) for b in item.backends)
        fixed = tuple(Backend(at, port, weight) for at, port, weight in servers if port is not None)
        mode = mode_of(item.forwarding or spec.forwarding)
        made = []
        for port in api.ports_of(item.port):
            backends = fixed
            if len(fixed) < len(servers):
                backends = tuple(Backend(at, its or port, weight) for at, its, weight in servers)
            frontend = Frontend(
                FrontendKey(address, port, Protocol[item.protocol]),
                backends,
                forwarding=mode,
                affinity_seconds=_affinity_seconds(item.session_affinity or spec.session_affinity),
                random=spec.algorithm == "Random",
                owner=f"{owner}:{item.name}",
            )
            check_frontend(frontend)
            made.append(frontend)
    except KubebeeError as error:
        raise KubebeeError(
            error.message, reason=error.reason, where=f"{where} ({item.name})", hint=error.hint
        ) from error
    _check_probes(index, item)
    return tuple(made)


def _check_algorithm(index: int, item: api.Frontend, spec: api.ServiceLBSpec) -> None:
    if spec.algorithm == "Random" and mode_of(item.forwarding or spec.forwarding).is_dsr:
        raise KubebeeError(
            "spec.algorithm Random can't be had with DSR, which finds the backend of each packet by its hash",
            reason="InvalidFrontend",
            where=f"spec.frontends[{index}].forwarding ({item.name})",
            hint="use mode SNAT, or give the frontend to a ServiceLB with algorithm Maglev",
        )


def _check_probes(index: int, item: api.Frontend) -> None:
    """Each port that backends are tried on is a connection an interval."""
    several = len(api.ports_of(item.port)) > 1 and any(each.port is None for each in item.backends)
    if item.health_check is not None and item.health_check.port is None and several:
        raise KubebeeError(
            "backends of a range of ports are tried on one port, and none is named",
            reason="InvalidFrontend",
            where=f"spec.frontends[{index}].healthCheck.port ({item.name})",
            hint="name one that all of them listen on",
        )


def _affinity_seconds(wanted: api.SessionAffinity | None) -> int:
    return wanted.timeout_seconds if wanted is not None and wanted.type == "ClientIP" else 0


def mode_of(wanted: api.Forwarding) -> Forwarding:
    """How packets get to backends."""
    return Forwarding.SNAT if wanted.mode == "SNAT" else dispatch_of(wanted)


def dispatch_of(wanted: api.Forwarding) -> Forwarding:
    """How they do by DSR."""
    return _DISPATCH[wanted.dispatch]


def check_of(item: api.Frontend) -> Check | None:
    """How the backends of a frontend are tried."""
    wanted = item.health_check
    if wanted is None:
        return None
    return Check(
        probe=Probe(wanted.protocol),
        port=wanted.port or 0,
        path=wanted.path if wanted.protocol in ("HTTP", "HTTPS") else "/",
        interval=float(wanted.interval_seconds),
        timeout=float(wanted.timeout_seconds),
        failures=wanted.failures,
        successes=wanted.successes,
    )


def config_of(spec: api.ServiceLBSpec) -> LbConfig:
    """Node settings of one ServiceLB; an address that is empty is filled in by the node.

    Raises:
        KubebeeError: a value is out of range.
    """
    config = LbConfig()
    if "port_range" in spec.snat.model_fields_set:
        first, _, last = spec.snat.port_range.partition("-")
        config = replace(config, snat_port_first=int(first), snat_port_last=int(last or first))
    addresses = list(dict.fromkeys(map(parse_address, spec.snat.addresses)))
    sources, sources6 = ([one for one in addresses if len(one) == length] for length in (4, 16))
    return config.with_sources(sources, sources6)


def _inherited(spec: api.ServiceLBSpec) -> tuple[object, ...]:
    """What frontends take from the spec where they say nothing."""
    return spec.forwarding, spec.session_affinity, spec.algorithm


@dataclass(frozen=True)
class Balanced:
    """What the spec of a ServiceLB comes to.

    Attributes:
        items: by item of spec.frontends.
        frontends: by key, in the order of the spec; those that refer to a Service without backends.
        references: those that refer to a Service.
        modes: ways of forwarding among them.
        affinity: whether clients of some come back to the backend they had.
        checks, drain_seconds: of the frontends that have one.
    """

    spec: api.ServiceLBSpec
    items: tuple[Made, ...]
    frontends: Mapping[FrontendKey, Frontend]
    needs: Needs
    config: LbConfig
    modes: frozenset[Forwarding]
    affinity: bool
    checks: Mapping[FrontendKey, Check] = field(default_factory=dict)
    drain_seconds: Mapping[FrontendKey, int] = field(default_factory=dict)
    references: Mapping[FrontendKey, Reference] = field(default_factory=dict)

    @classmethod
    def of(cls, lb: api.ServiceLB, before: Balanced | None = None) -> Balanced:
        """Convert a resource.

        Args:
            lb: the resource.
            before: what an earlier version of it came to; what became of equal items is taken from there.

        Raises:
            KubebeeError: something of it can't be served.
        """
        known: dict[int, Made] = {}
        if before is not None and _inherited(before.spec) == _inherited(lb.spec):
            known = dict(zip(map(id, before.spec.frontends), before.items, strict=True))
        items = frontends_of(f"ServiceLB/{lb.metadata.name}", lb.spec, known)
        frontends = tuple(frontend for made in items for frontend in made)
        return cls(
            spec=lb.spec,
            items=items,
            frontends={frontend.key: frontend for frontend in frontends},
            needs=needs_of(frontends),
            config=config_of(lb.spec),
            modes=frozenset(frontend.forwarding for frontend in frontends),
            affinity=any(frontend.affinity_seconds for frontend in frontends),
            checks={
                frontend.key: check
                for made, item in zip(items, lb.spec.frontends, strict=True)
                if (check := check_of(item)) is not None
                for frontend in made
            },
            drain_seconds={
                frontend.key: item.drain_seconds
                for made, item in zip(items, lb.spec.frontends, strict=True)
                if item.drain_seconds is not None
                for frontend in made
            },
            references={
                frontend.key: _reference(item.service, frontend)
                for made, item in zip(items, lb.spec.frontends, strict=True)
                if item.service is not None
                for frontend in made
            },
        )


def _reference(wanted: api.ServiceReference, frontend: Frontend) -> Reference:
    return Reference((wanted.namespace, wanted.name), wanted.port or "", frontend)
