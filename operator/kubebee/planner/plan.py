"""What one node shall run: the contract between the planner and the loader.

Every value is immutable and compares by content, so that a plan equal to the last one is a no-op.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from kubebee.api.v1alpha1.attach import Attach
from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.api.v1alpha1.servicelb import NorthSouthMode
from kubebee.api.v1alpha1.values import FreeValue
from kubebee.lb.features import Features
from kubebee.lb.health.check import Check
from kubebee.lb.model import Frontend, FrontendKey, LbConfig
from kubebee.lb.services.wanted import ServicesWanted
from kubebee.policy.model import Failsafe, Policy
from kubebee.toolchain.diagnostics import SourceLine


class Toolchain(StrEnum):
    """Who turns a bundle's source into an ELF object or loaded program."""

    CLANG = "Clang"
    BCC = "Bcc"
    OBJECT = "Object"


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """Identity of a custom resource; all kinds are cluster-scoped."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Bundle:
    """Immutable, content-addressed code: everything that decides what the compiler makes, and no data.

    Attributes:
        source: C text, or for `Toolchain.OBJECT` the ELF file in base64, or empty when `path` names it.
        filename: what compiler messages call the source; the user's own name for it.
        headers: extra files the source may include, by name.
        line_map: for a rendered template, where each rendered line comes from.
        path, sha256: an object file on the node and its expected digest, for `Toolchain.OBJECT`.
        trusted: shipped with kubebee: warnings are errors.
    """

    toolchain: Toolchain
    source: str
    filename: str
    headers: tuple[tuple[str, str], ...] = ()
    line_map: tuple[SourceLine, ...] = ()
    path: str = ""
    sha256: str = ""
    trusted: bool = False

    @cached_property
    def code_hash(self) -> str:
        """Hex SHA-256 over all that decides the code."""
        digest = hashlib.sha256()
        parts = [self.toolchain.value, self.source, self.filename, self.path, self.sha256, str(self.trusted)]
        for name, text in self.headers:
            parts += [name, text]
        for part in parts:
            raw = part.encode()
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """One function of an object and where it is attached.

    Attributes:
        priority: position among user programs at one hook, lower first.
        optional: another function does its work where it can't run; then that is no failure.
        proceed_on: XDP or TC verdicts (upper-case names) after which the next program still runs.
    """

    name: str
    attach: Attach
    priority: int = 500
    proceed_on: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class ProgramUnit:
    """A BpfProgram as one node shall run it."""

    key: ResourceKey
    generation: int
    bundle: Bundle
    functions: tuple[FunctionPlan, ...]
    globals: Mapping[str, FreeValue] = field(default_factory=dict)


@dataclass(frozen=True)
class PacketCode:
    """What packets of one family meet of the load balancer.

    Attributes:
        xdp, tc: the code of the XDP stage, and of the programs at tc.
        suffix: of the names of their functions.
    """

    xdp: Bundle
    tc: Bundle
    suffix: str = ""


@dataclass(frozen=True)
class LbUnit:
    """All ServiceLBs of a node, merged: one datapath, one table of frontends.

    Attributes:
        owners: the ServiceLBs, with their generations, in order of name.
        features: what of the code is rendered.
        packets: the code that packets meet, by family: IPv4 always, IPv6 where there are frontends of it.
        socket: the code of the socket programs (None: socket LB is off).
        cgroup: path of the cgroup2 directory whose sockets are served; empty = the root of the hierarchy.
        interfaces: where packets are balanced, and how.
        services: which Services of the cluster are served beside the frontends; None: none.
        drain_seconds: how long backends that left a frontend keep their flows; else until the flows end.
        healthz_ports: where the node says whether it serves.
        checks: how the backends of frontends are tried; those that it does not have are not checked.
        hand_back: kube-proxy, once it runs, is to have new connections again.
        map_sizes: max_entries by map; one that exists may be down to half of it.
        fixed_sizes: names of those that users gave: one that exists may be larger, not smaller.
    """

    owners: tuple[tuple[ResourceKey, int], ...]
    packets: tuple[PacketCode, ...]
    socket: Bundle | None
    cgroup: str
    interfaces: tuple[tuple[Interfaces, NorthSouthMode], ...]
    frontends: Mapping[FrontendKey, Frontend]
    config: LbConfig
    map_sizes: Mapping[str, int]
    features: Features
    services: ServicesWanted | None = None
    drain_seconds: Mapping[FrontendKey, int] = field(default_factory=dict)
    healthz_ports: tuple[int, ...] = ()
    checks: Mapping[FrontendKey, Check] = field(default_factory=dict)
    fixed_sizes: frozenset[str] = frozenset()
    hand_back: bool = False
    key: ResourceKey = ResourceKey("ServiceLB", "_all")

    @property
    def translates(self) -> bool:
        """Whether there are flows of packets, not of sockets alone."""
        return any(mode != "Off" for _, mode in self.interfaces)


@dataclass(frozen=True)
class PolicyUnit:
    """HostPolicies for the same interfaces, merged into one rule set.

    Attributes:
        failsafe: what none of the rules can close.
    """

    key: ResourceKey
    owners: tuple[tuple[ResourceKey, int], ...]
    xdp: Bundle
    interfaces: tuple[Interfaces, ...]
    policies: tuple[Policy, ...]
    failsafe: Failsafe


@dataclass(frozen=True)
class NodePlan:
    """Everything one node shall run.

    Attributes:
        held: units whose newest version can't be planned: what runs of them goes on.
    """

    programs: tuple[ProgramUnit, ...] = ()
    lb: LbUnit | None = None
    policies: tuple[PolicyUnit, ...] = ()
    held: frozenset[ResourceKey] = frozenset()
