"""What is loaded together: a resource's objects, whatever its kind.

The three kinds differ in where their code and data come from; from here on they are alike: objects whose
functions are attached, over one set of maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from kubebee.api.v1alpha1.attach import (
    CgroupSockAddrAttach,
    CgroupSockAttach,
    Direction,
    SockAddrHook,
    SockHook,
    TcAttach,
    XdpAttach,
    XdpMode,
)
from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.api.v1alpha1.values import FreeValue
from kubebee.planner.plan import Bundle, FunctionPlan, LbUnit, NodePlan, PolicyUnit, ResourceKey


class Rank(IntEnum):
    """Place of a unit's XDP stages in every chain; user programs come in order of priority after these."""

    POLICY = 0
    LB = 1
    USER = 2


_TOLD = 5
"""A hundred resources that are one unit need no hundred Events of what happens to it."""
_LB = ResourceKey("ServiceLB", "_all")
_SHARED = frozenset({"kb_lb_rev", "kb_lb_flow"})
"""The firewall finds answers to connections that the load balancer translated in that one's own maps."""


@dataclass(frozen=True)
class CodeObject:
    """One source and the functions of it that are attached."""

    bundle: Bundle
    functions: tuple[FunctionPlan, ...]
    globals: Mapping[str, FreeValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """Objects over one set of maps: maps of the same name in two of them are one map.

    Attributes:
        map_sizes: max_entries by map, in place of the source's; one that exists may be down to half of it.
        fixed_sizes: names of those of which one that exists may be larger, not smaller.
    """

    key: ResourceKey
    generation: int
    rank: Rank
    objects: tuple[CodeObject, ...]
    map_sizes: Mapping[str, int] = field(default_factory=dict)
    fixed_sizes: frozenset[str] = frozenset()

    @property
    def functions(self) -> tuple[FunctionPlan, ...]:
        """Every attached function of every object."""
        return tuple(function for code in self.objects for function in code.functions)

    @property
    def code_hash(self) -> str:
        """Hash of all sources: what the status calls the version."""
        return hashlib.sha256("".join(code.bundle.code_hash for code in self.objects).encode()).hexdigest()


def owner_of(map_name: str, unit: Unit) -> ResourceKey:
    """The unit whose map it is that `unit` has by this name."""
    return _LB if unit.rank is Rank.POLICY and map_name in _SHARED else unit.key


def resources_of(plan: NodePlan) -> dict[ResourceKey, tuple[ResourceKey, ...]]:
    """The first resources that each unit of several is made of: what happens to it is told of them."""
    shared: list[LbUnit | PolicyUnit] = [*plan.policies, *([plan.lb] if plan.lb else [])]
    return {unit.key: tuple(key for key, _ in unit.owners[:_TOLD]) for unit in shared}


def units_of(plan: NodePlan) -> list[Unit]:
    """Everything of a plan that has code."""
    units = [
        Unit(p.key, p.generation, Rank.USER, (CodeObject(p.bundle, p.functions, p.globals),))
        for p in plan.programs
    ]
    balanced = plan.lb.fixed_sizes if plan.lb is not None else frozenset[str]()
    shared = {name: plan.lb.map_sizes[name] for name in sorted(_SHARED & balanced)} if plan.lb else {}
    for policy in plan.policies:
        selectors: list[tuple[Interfaces, XdpMode]] = [(one, "Auto") for one in policy.interfaces]
        functions = _on_interfaces("kb_hostpolicy", selectors)
        objects = [CodeObject(policy.xdp, functions)]
        units.append(
            Unit(policy.key, _generation(policy), Rank.POLICY, tuple(objects), shared, frozenset(shared))
        )
    if plan.lb is not None:
        lb = plan.lb
        objects = []
        for code in lb.packets:
            objects.append(CodeObject(code.xdp, tuple(_lb_stages(lb, code.suffix))))
            objects.append(CodeObject(code.tc, tuple(_lb_filters(lb, code.suffix))))
        if lb.socket is not None:
            objects.append(CodeObject(lb.socket, _at_sockets(lb)))
        units.append(Unit(lb.key, _generation(lb), Rank.LB, tuple(objects), lb.map_sizes, lb.fixed_sizes))
    return units


def _lb_stages(lb: LbUnit, suffix: str) -> Iterator[FunctionPlan]:
    """The balancer at XDP; where it may be anything, tc is enough."""
    for one, mode in lb.interfaces:
        if mode == "TC" or mode == "Off":
            continue
        attach = XdpAttach(interfaces=one, mode=mode)
        yield FunctionPlan(f"kb_servicelb{suffix}", attach, optional=mode == "Auto")


def _lb_filters(lb: LbUnit, suffix: str) -> Iterator[FunctionPlan]:
    """The balancer at tc: the first to see what comes in, the last to see what goes out."""
    for one, mode in lb.interfaces:
        if mode != "Off":
            come, leave = (TcAttach(interfaces=one, direction=side) for side in _SIDES)
            yield FunctionPlan(f"kb_lb_ingress{suffix}", come, _TC_FIRST)
            yield FunctionPlan(f"kb_lb_egress{suffix}", leave, _TC_LAST)


def _on_interfaces(
    function: str, selectors: Sequence[tuple[Interfaces, XdpMode]]
) -> tuple[FunctionPlan, ...]:
    return tuple(FunctionPlan(function, XdpAttach(interfaces=one, mode=mode)) for one, mode in selectors)


def _at_sockets(lb: LbUnit) -> tuple[FunctionPlan, ...]:
    hooks = (*_CALLS, *(_CALLS_OF_IPV6 if lb.features.ipv6 else ()))
    calls = (
        FunctionPlan(f"kb_{hook.lower()}", CgroupSockAddrAttach(hook=hook, cgroup=lb.cgroup))
        for hook in hooks
    )
    binds = (FunctionPlan(name, CgroupSockAttach(hook=hook, cgroup=lb.cgroup)) for name, hook in _BINDS)
    return (*calls, *binds)


def _generation(unit: LbUnit | PolicyUnit) -> int:
    """Of all resources together: grows with every edit of one of them."""
    return sum(generation for _, generation in unit.owners)


_SIDES: tuple[Direction, Direction] = ("Ingress", "Egress")
_TC_FIRST, _TC_LAST = -1, 1 << 16
"""Before and after all priorities that users can give."""

_CALLS: tuple[SockAddrHook, ...] = (
    *("Connect4", "Sendmsg4", "Recvmsg4", "Getpeername4"),
    # IPv6 sockets reach IPv4 frontends as ::ffff:a.b.c.d; what they send there passes Sendmsg4.
    *("Connect6", "Recvmsg6", "Getpeername6"),
)
_CALLS_OF_IPV6: tuple[SockAddrHook, ...] = ("Sendmsg6",)
_BINDS: tuple[tuple[str, SockHook], ...] = (("kb_post_bind4", "PostBind4"), ("kb_post_bind6", "PostBind6"))
