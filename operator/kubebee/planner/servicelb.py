"""ServiceLBs of a node to one table of frontends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Protocol as Interface

from kubebee.api.v1alpha1 import servicelb as api
from kubebee.api.v1alpha1.attach import XdpMode
from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.errors import KubebeeError
from kubebee.lb.model import (
    Forwarding,
    Frontend,
    FrontendKey,
    LbConfig,
)
from kubebee.lb.sizes import Need, map_sizes
from kubebee.planner.declared import Declared
from kubebee.planner.frontends import Balanced
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


@dataclass(frozen=True)
class Served:
    """A ServiceLB with what its spec came to."""

    declared: Declared
    spec: api.ServiceLBSpec
    balanced: Balanced


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
                _check_overlap(served.balanced.frontends, taken)
                _check_config(served.balanced.config, accepted)
            except KubebeeError as error:
                if served is newest:
                    refuse(served.declared.key, error)
                continue
            taken.update(served.balanced.frontends)
            accepted[served.declared.key] = served
            break
    return (_merge(list(accepted.values()), tuple(taken.values()), sources) if accepted else None), accepted


def _merge(accepted: list[Served], frontends: tuple[Frontend, ...], sources: Sources) -> LbUnit:
    modes = {frontend.forwarding for frontend in frontends}
    dsr, snat = Forwarding.DSR_IPIP in modes, Forwarding.SNAT in modes or not modes
    need = reduce(Need.plus, (served.balanced.need for served in accepted))
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
        config=accepted[0].balanced.config,
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
        if wanted != served.balanced.config:
            raise KubebeeError(
                f"spec.snat differs from that of {key}; a node has one",
                reason="ConflictingSettings",
                where="spec.snat",
                hint="give both the same",
            )
