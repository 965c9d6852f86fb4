"""ServiceLBs of a node to one table of frontends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Protocol as Interface

from kubebee.api.v1alpha1 import servicelb as api
from kubebee.api.v1alpha1.attach import XdpMode
from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.errors import KubebeeError, NotImplementedYetError
from kubebee.lb.model import (
    Backend,
    Forwarding,
    Frontend,
    FrontendKey,
    LbConfig,
    Protocol,
    parse_ipv4,
)
from kubebee.lb.model import (
    check as check_frontend,
)
from kubebee.lb.sizes import Need, map_sizes, need_of
from kubebee.planner.declared import Declared
from kubebee.planner.plan import Bundle, LbUnit, ResourceKey, Toolchain

Refuse = Callable[[ResourceKey, KubebeeError], None]


class Sources(Interface):
    """C text of the load balancer's programs."""

    def servicelb(self, dsr: bool, snat: bool) -> str:
        """The XDP stage, given whether DSR and SNAT are needed."""

    def socketlb(self) -> str:
        """The socket programs."""


class OverlapError(KubebeeError):
    """Two resources claim one thing; the older has it."""

    reason = "DuplicateFrontend"


def frontends_of(owner: str, spec: api.ServiceLBSpec) -> tuple[Frontend, ...]:
    """The frontends of one ServiceLB.

    Raises:
        KubebeeError: one can't be served; `where` is the path of the field.
    """
    return tuple(_frontend(owner, index, item, spec) for index, item in enumerate(spec.frontends))


def _frontend(owner: str, index: int, item: api.Frontend, spec: api.ServiceLBSpec) -> Frontend:
    where = f"spec.frontends[{index}]"
    try:
        _refuse_ipv6(item)
        key = FrontendKey(parse_ipv4(item.address), item.port, Protocol[item.protocol])
        where += ".backends"
        backends = tuple(Backend(parse_ipv4(b.address), b.port, b.weight) for b in item.backends)
        dsr = (item.forwarding or spec.forwarding).mode == "DSR"
        frontend = Frontend(key, backends, Forwarding.DSR_IPIP if dsr else Forwarding.SNAT, owner)
        check_frontend(frontend)
    except KubebeeError as error:
        raise KubebeeError(
            error.message, reason=error.reason, where=f"{where} ({item.name})", hint=error.hint
        ) from error
    return frontend


def _refuse_ipv6(item: api.Frontend) -> None:
    for address in (item.address, *(backend.address for backend in item.backends)):
        if ":" in address:
            raise NotImplementedYetError(
                f"{address}: this version balances IPv4 only", hint="leave IPv6 frontends out for now"
            )


def config_of(spec: api.ServiceLBSpec) -> LbConfig:
    """Node settings of one ServiceLB; an address of 0 is filled in by the node.

    Raises:
        KubebeeError: a value is out of range.
    """
    config = LbConfig()
    if "port_range" in spec.snat.model_fields_set:
        first, _, last = spec.snat.port_range.partition("-")
        config = replace(config, snat_port_first=int(first), snat_port_last=int(last or first))
    if len(spec.snat.addresses) > 1:
        raise NotImplementedYetError("this version uses one SNAT address", where="spec.snat.addresses[1]")
    if spec.snat.addresses:
        config = replace(config, snat_address=parse_ipv4(spec.snat.addresses[0]))
    return config


@dataclass(frozen=True)
class Served:
    """A ServiceLB with what its spec came to."""

    declared: Declared
    spec: api.ServiceLBSpec
    frontends: Mapping[FrontendKey, Frontend]
    need: Need
    config: LbConfig

    @classmethod
    def of(cls, declared: Declared, lb: api.ServiceLB) -> Served:
        """Convert a resource.

        Raises:
            KubebeeError: something of it can't be served.
        """
        frontends = frontends_of(str(declared.key), lb.spec)
        by_key = {frontend.key: frontend for frontend in frontends}
        return cls(declared, lb.spec, by_key, need_of(frontends), config_of(lb.spec))


def unit(
    candidates: Sequence[tuple[Served, Served | None]], sources: Sources, refuse: Refuse
) -> tuple[LbUnit | None, dict[ResourceKey, Served]]:
    """All ServiceLBs of a node as one unit.

    Args:
        candidates: the resources, oldest first: of two that claim one frontend the older has it. With each
            the version that was in force before, which stays if the new one is refused.
        sources: source texts.
        refuse: told of resources that are left out.

    Returns:
        The unit, None without a resource, and what is in force by resource.
    """
    taken: dict[FrontendKey, Frontend] = {}
    accepted: dict[ResourceKey, Served] = {}
    for newest, before in candidates:
        for served in (newest, before):
            if served is None:
                continue
            try:
                _check_overlap(served.frontends, taken)
                _check_config(served.config, accepted)
            except KubebeeError as error:
                if served is newest:
                    refuse(served.declared.key, error)
                continue
            taken.update(served.frontends)
            accepted[served.declared.key] = served
            break
    return (_merge(list(accepted.values()), tuple(taken.values()), sources) if accepted else None), accepted


def _merge(accepted: list[Served], frontends: tuple[Frontend, ...], sources: Sources) -> LbUnit:
    modes = {frontend.forwarding for frontend in frontends}
    dsr, snat = Forwarding.DSR_IPIP in modes, Forwarding.SNAT in modes or not modes
    need = reduce(Need.plus, (served.need for served in accepted))
    cgroups = [served.spec.socket_lb.cgroup for served in accepted if served.spec.socket_lb.enabled]
    return LbUnit(
        owners=tuple((served.declared.key, served.declared.generation) for served in accepted),
        xdp=_bundle(sources.servicelb(dsr, snat), "servicelb.bpf.c"),
        socket=_bundle(sources.socketlb(), "socketlb.bpf.c") if cgroups else None,
        cgroup=cgroups[0] if cgroups else "",
        interfaces=tuple(
            (served.spec.interfaces or Interfaces(primary=True), _xdp_mode(served.spec))
            for served in accepted
        ),
        frontends=frontends,
        config=accepted[0].config,
        map_sizes=map_sizes(need),
    )


def _xdp_mode(spec: api.ServiceLBSpec) -> XdpMode:
    mode = spec.north_south.mode
    return mode if mode in ("Native", "Generic") else "Auto"  # TC and Off are refused by check()


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
        if wanted != served.config:
            raise KubebeeError(
                f"spec.snat differs from that of {key}; a node has one",
                reason="ConflictingSettings",
                where="spec.snat",
                hint="give both the same",
            )
