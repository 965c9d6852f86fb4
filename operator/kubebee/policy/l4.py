"""The table of L4 keys: from protocol and port (ICMP: type and code) to the class of rules that accept it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubebee.policy.classes import Classes
from kubebee.policy.layout import L4_FRAGMENT, L4_ICMP, L4_KEYS, L4_OTHER, L4_TCP, L4_UDP
from kubebee.policy.model import ICMP, TCP, UDP, Action, L4Match, PolicyRule

_KEYED = {TCP: L4_TCP, UDP: L4_UDP, ICMP: L4_ICMP}
_SPAN = 65536


@dataclass(frozen=True, slots=True)
class L4Tables:
    """Contents of the tables l4 and l4_bits."""

    keys: bytes
    bits: bytes


class _Rules:
    """Sets of rules (bit i) by what they accept of each protocol."""

    def __init__(self, rules: Sequence[PolicyRule]) -> None:
        self.any_protocol = 0
        self.whole: dict[int, int] = {}
        self.denied_part: dict[int, int] = {}
        self.toggles: dict[int, dict[int, int]] = {protocol: {} for protocol in _KEYED}
        for index, rule in enumerate(rules):
            self._add(1 << index, rule)

    def _add(self, bit: int, rule: PolicyRule) -> None:
        if not rule.protocols:
            self.any_protocol |= bit
        spans: dict[int, list[tuple[int, int]]] = {}
        for match in rule.protocols:
            protocol = match.protocol
            if match.whole_protocol:
                self.whole[protocol] = self.whole.get(protocol, 0) | bit
                continue
            spans.setdefault(protocol, []).extend(_spans(match))
            if rule.action is Action.DENY:
                self.denied_part[protocol] = self.denied_part.get(protocol, 0) | bit
        for protocol, ranges in spans.items():
            toggles = self.toggles[protocol]
            for first, end in _merge(ranges):
                toggles[first] = toggles.get(first, 0) ^ bit
                toggles[end] = toggles.get(end, 0) ^ bit

    def whole_of(self, protocol: int) -> int:
        """Rules that accept all of a protocol."""
        return self.any_protocol | self.whole.get(protocol, 0)


def compile_l4(rules: Sequence[PolicyRule]) -> L4Tables:
    """Build the table of L4 keys of rules; rule i has bit i.

    A later fragment, whose ports nobody knows, is accepted by rules that need none, and by every
    Deny rule that might have meant it: never let through by guessing.

    Raises:
        PolicyError: reason PolicyTooLarge, if the ports fall into too many classes.
    """
    sets = _Rules(rules)
    classes = Classes("groups of ports")
    keys = array("H", bytes(2 * L4_KEYS))
    for protocol, base in _KEYED.items():
        whole = sets.whole_of(protocol)
        toggles = {0: 0, **sets.toggles[protocol]}
        starts = sorted(toggles)
        partial = 0
        for start, end in zip(starts, [*starts[1:], _SPAN], strict=True):
            partial ^= toggles[start]
            if start < end:
                number = classes.number(whole | partial)
                keys[base + start : base + end] = array("H", [number]) * (end - start)
    for protocol in range(256):
        whole = sets.whole_of(protocol)
        keys[L4_OTHER + protocol] = classes.number(whole)
        keys[L4_FRAGMENT + protocol] = classes.number(whole | sets.denied_part.get(protocol, 0))
    return L4Tables(keys.tobytes(), classes.pack())


def _spans(match: L4Match) -> Iterable[tuple[int, int]]:
    """Half-open ranges of keys within the protocol."""
    if match.icmp_type is not None:
        first = match.icmp_type << 8
        if match.icmp_code is None:
            return [(first, first + 256)]
        return [(first + match.icmp_code, first + match.icmp_code + 1)]
    return [(ports.first, ports.last + 1) for ports in match.ports]


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch or overlap: toggling a rule twice would switch it off."""
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((first, end))
    return merged
