"""ServiceLBs of a node to one table of frontends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
from kubebee.planner.declared import Declared
from kubebee.planner.plan import Bundle, LbUnit, ResourceKey, Toolchain

Refuse = Callable[[ResourceKey, KubebeeError], None]


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


def unit(
    declared: Sequence[tuple[Declared, api.ServiceLB]],
    frontends: Callable[[Declared, api.ServiceLB], tuple[Frontend, ...]],
    xdp: Callable[[bool, bool], str],
    socket: Callable[[], str],
    refuse: Refuse,
) -> LbUnit | None:
    """All ServiceLBs of a node as one unit.

    Args:
        declared: the resources, oldest first: of two that claim one frontend the older has it.
        frontends: `frontends_of`, possibly remembered.
        xdp: source of the XDP stage, given whether DSR and SNAT are needed.
        socket: source of the socket programs.
        refuse: told of resources that are left out.
    """
    taken: dict[FrontendKey, Frontend] = {}
    owners: list[tuple[ResourceKey, int]] = []
    selectors: list[tuple[Interfaces, XdpMode]] = []
    socket_cgroup: str | None = None
    config: LbConfig | None = None
    for item, lb in declared:
        try:
            own = frontends(item, lb)
            wanted = config_of(lb.spec)
            _check_overlap(own, taken)
            _check_config(wanted, config, owners)
        except KubebeeError as error:
            refuse(item.key, error)
            continue
        config = wanted
        taken.update((frontend.key, frontend) for frontend in own)
        owners.append((item.key, item.generation))
        selectors.append((lb.spec.interfaces or Interfaces(primary=True), _xdp_mode(lb.spec)))
        if lb.spec.socket_lb.enabled:
            socket_cgroup = lb.spec.socket_lb.cgroup if socket_cgroup is None else socket_cgroup
    if config is None:
        return None
    modes = {frontend.forwarding for frontend in taken.values()}
    return LbUnit(
        owners=tuple(owners),
        xdp=_bundle(
            xdp(Forwarding.DSR_IPIP in modes, Forwarding.SNAT in modes or not modes), "servicelb.bpf.c"
        ),
        socket=None if socket_cgroup is None else _bundle(socket(), "socketlb.bpf.c"),
        cgroup=socket_cgroup or "",
        interfaces=tuple(selectors),
        frontends=tuple(taken.values()),
        config=config,
    )


def _xdp_mode(spec: api.ServiceLBSpec) -> XdpMode:
    mode = spec.north_south.mode
    return mode if mode in ("Native", "Generic") else "Auto"  # TC and Off are refused by check()


def _bundle(source: str, filename: str) -> Bundle:
    return Bundle(Toolchain.CLANG, source, filename, trusted=True)


def _check_overlap(own: tuple[Frontend, ...], taken: dict[FrontendKey, Frontend]) -> None:
    for frontend in own:
        other = taken.get(frontend.key)
        if other is not None:
            raise OverlapError(
                f"frontend {frontend.key} already belongs to {other.owner}, which is older",
                where="spec.frontends",
                hint="remove it from one of the two, or give it another port",
            )


def _check_config(wanted: LbConfig, config: LbConfig | None, owners: list[tuple[ResourceKey, int]]) -> None:
    if config is not None and wanted != config:
        raise KubebeeError(
            f"spec.snat differs from that of {owners[0][0]}; a node has one",
            reason="ConflictingSettings",
            where="spec.snat",
            hint="give both the same",
        )
