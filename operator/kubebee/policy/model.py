"""What the host firewall shall do, as plain values: policies, their rules, and ports that stay open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from itertools import combinations
from typing import NamedTuple, Self

from kubebee.errors import KubebeeError

ICMP, TCP, UDP = 1, 6, 17
MAX_PORT = 65535


class PolicyError(KubebeeError):
    """A policy that no datapath could enforce; `where` names the policy and rule."""

    reason = "InvalidPolicy"


class Action(StrEnum):
    """What happens to a packet."""

    ALLOW = "Allow"
    DENY = "Deny"


class RuleKey(NamedTuple):
    """Identity of a rule: its counters follow it wherever it moves."""

    policy: str
    rule: str

    @property
    def identity(self) -> int:
        """64-bit hash that the maps carry in place of the names; never 0."""
        digest = hashlib.blake2b(f"{self.policy}\0{self.rule}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1


@dataclass(frozen=True, slots=True)
class PortRange:
    """Destination ports, both ends included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last <= MAX_PORT:
            raise PolicyError(f"{self.first}-{self.last} is no range of ports between 0 and {MAX_PORT}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "80" or "8000-8010".

        Raises:
            PolicyError: for anything else.
        """
        first, dash, last = text.partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise PolicyError(f"{text!r} is no port or range", hint='write "80" or "8000-8010"')
        return cls(int(first), int(last or first))


@dataclass(frozen=True, slots=True)
class Source:
    """Senders: a prefix without some parts of it."""

    network: IPv4Network
    excepts: tuple[IPv4Network, ...] = ()

    @classmethod
    def parse(cls, cidr: str, excepts: Iterable[str] = ()) -> Self:
        """Read a CIDR and the parts of it that are not meant.

        Raises:
            PolicyError: if one is no IPv4 prefix, has host bits, or an exception is not inside.
        """
        network = _network(cidr)
        parts = tuple(_network(part) for part in excepts)
        for part in parts:
            if not part.subnet_of(network):
                raise PolicyError(f"except {part} is not inside {network}")
        return cls(network, parts)


@dataclass(frozen=True, slots=True)
class L4Match:
    """A protocol, and ports (TCP, UDP) or one kind of message (ICMP) of it.

    Attributes:
        protocol: IP protocol number.
        ports: any of them; empty = all.
        icmp_type, icmp_code: None = any.
    """

    protocol: int
    ports: tuple[PortRange, ...] = ()
    icmp_type: int | None = None
    icmp_code: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.protocol <= 255:
            raise PolicyError(f"{self.protocol} is no IP protocol number")
        if self.ports and self.protocol not in (TCP, UDP):
            raise PolicyError(f"protocol {self.protocol} cannot be matched by port", reason="NotImplemented")
        if self.icmp_type is not None and self.protocol != ICMP:
            raise PolicyError("an ICMP type needs the protocol ICMP")
        if self.icmp_code is not None and self.icmp_type is None:
            raise PolicyError("an ICMP code needs an ICMP type")
        if not all(octet is None or 0 <= octet <= 255 for octet in (self.icmp_type, self.icmp_code)):
            raise PolicyError("an ICMP type or code is not between 0 and 255")

    @property
    def whole_protocol(self) -> bool:
        """Whether it can be told from the IP header alone."""
        return not self.ports and self.icmp_type is None


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule; no sources means from anywhere, no protocols means all."""

    name: str
    action: Action
    sources: tuple[Source, ...] = ()
    protocols: tuple[L4Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One HostPolicy: rules of which the first match decides.

    Attributes:
        order: lower comes first; among equals the name decides.
        default: for packets that no rule of any policy matches; one Deny is enough.
        audit: count what its rules would do and let the other policies decide.
    """

    name: str
    order: int
    rules: tuple[PolicyRule, ...] = ()
    default: Action = Action.ALLOW
    audit: bool = False

    def __post_init__(self) -> None:
        names: set[str] = set()
        for rule in self.rules:
            if rule.name in names:
                raise PolicyError("two rules have this name", where=f"{self.name}/{rule.name}")
            names.add(rule.name)


def _match(protocol: int, *ports: str) -> L4Match:
    return L4Match(protocol, tuple(PortRange.parse(port) for port in ports))


@dataclass(frozen=True, slots=True)
class Failsafe:
    """What no rule can close, so that a mistake locks nobody out.

    The default: SSH, BGP, etcd, the Kubernetes API, the kubelet, DHCP answers, IGMP and VRRP.
    """

    protocols: tuple[L4Match, ...] = (
        _match(TCP, "22", "179", "2379-2380", "6443", "10250"),
        _match(UDP, "68"),
        _match(2),
        _match(112),
    )


class Overlap(NamedTuple):
    """Two rules of policies of the same order that match the same and act differently: the name decides."""

    first: RuleKey
    second: RuleKey

    def __str__(self) -> str:
        return f"{'/'.join(self.first)} hides {'/'.join(self.second)}, which says the opposite"


def in_order(policies: Iterable[Policy]) -> list[Policy]:
    """Return the policies in the order in which their rules are tried."""
    return sorted(policies, key=lambda policy: (policy.order, policy.name))


def overlaps(policies: Iterable[Policy]) -> list[Overlap]:
    """Find rules that contradict each other across policies of the same order."""
    by_match: dict[tuple[int, frozenset[Source], frozenset[L4Match]], list[tuple[RuleKey, Action]]] = {}
    for policy in in_order(policies):
        for rule in policy.rules:
            match = (policy.order, frozenset(rule.sources), frozenset(rule.protocols))
            by_match.setdefault(match, []).append((RuleKey(policy.name, rule.name), rule.action))
    return [
        Overlap(first, second)
        for same in by_match.values()
        for (first, action), (second, other) in combinations(same, 2)
        if action != other and first.policy != second.policy
    ]


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise PolicyError(
            f"{text!r} is no IPv4 prefix: {error}", hint="write an address and a length, as 192.0.2.0/24"
        ) from error
