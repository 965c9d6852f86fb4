"""Reads HostPolicy's counters by the names that the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubebee.bpf.map import Map, split_percpu
from kubebee.policy import layout
from kubebee.policy.compile import CompiledPolicy
from kubebee.policy.model import Action


@dataclass(frozen=True, slots=True)
class RuleStats:
    """What one rule decided, summed over CPUs; bytes are whole frames.

    Attributes:
        policy, rule: names; BUILTIN and DEFAULT of kubebee.policy.compile stand for what nobody wrote.
        audit: whether the rule's policy is in audit mode now.
        packets, bytes: decided by the rule.
        audit_packets, audit_bytes: would have been, while in audit mode.
    """

    policy: str
    rule: str
    action: Action
    audit: bool
    packets: int
    bytes: int
    audit_packets: int
    audit_bytes: int


def read(maps: Mapping[str, Map], compiled: CompiledPolicy) -> list[RuleStats]:
    """Return the counters of all rules in order of matching, then of the default action.

    Raises:
        BpfError: if the map cannot be read.
    """
    hits, value_size = maps[layout.HITS_MAP], layout.HITS.size
    by_slot = {
        layout.INDEX.unpack(key)[0]: _sum(split_percpu(value, value_size)) for key, value in hits.items()
    }
    return [
        RuleStats(rule.key.policy, rule.key.rule, rule.action, rule.audit, *by_slot[rule.slot])
        for rule in compiled.rules
    ]


def _sum(values: Iterable[bytes]) -> tuple[int, int, int, int]:
    packets = size = audit_packets = audit_size = 0
    for value in values:
        one = layout.HITS.unpack(value)
        packets, size = packets + one[0], size + one[1]
        audit_packets, audit_size = audit_packets + one[2], audit_size + one[3]
    return packets, size, audit_packets, audit_size
