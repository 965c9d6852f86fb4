"""From policies to the bytes of the maps: pure, so that it can be tested and asked without a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubebee.policy import layout
from kubebee.policy.l4 import compile_l4
from kubebee.policy.model import (
    ICMP,
    Action,
    Failsafe,
    L4Match,
    Policy,
    PolicyError,
    PolicyRule,
    RuleKey,
    in_order,
)
from kubebee.policy.sources import compile_sources

BUILTIN = "(builtin)"
"""Stands for the policy of rules that nobody wrote; no HostPolicy can have this name."""
DEFAULT = "(default)"
"""Stands for the rule of a policy's default action."""

FAILSAFE = RuleKey(BUILTIN, "failsafe")
ESTABLISHED = RuleKey(BUILTIN, "established")
ECHO_REPLY = RuleKey(BUILTIN, "icmp-echo-reply")
NO_MATCH = RuleKey(BUILTIN, DEFAULT)

MAX_USER_RULES = layout.RULES - 2


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule as the datapath has it."""

    key: RuleKey
    action: Action
    audit: bool
    slot: int


@dataclass(frozen=True)
class CompiledPolicy:
    """A rule set ready for the maps.

    Attributes:
        tables: contents by name of layout.TABLES; may be shorter than the table, the rest is not referred to.
        flags: POLICY_ENFORCED and POLICY_AUDITED of layout.
        rules: in order of matching, then the entries for no match and for established flows.
        slots: counter slot by RuleKey.identity; give it to the next compile_policies().
    """

    tables: Mapping[str, bytes]
    flags: int
    rules: tuple[CompiledRule, ...]
    slots: Mapping[int, int]


def compile_policies(
    policies: Iterable[Policy],
    previous_slots: Mapping[int, int] | None = None,
    failsafe: Failsafe | None = None,
) -> CompiledPolicy:
    """Compile policies into one rule set.

    Order: failsafe, the policies' rules, echo replies (harmless, and ping sockets cannot be looked up),
    the default action.

    Args:
        policies: in any order.
        previous_slots: slots in use (CompiledPolicy.slots or PolicyState.slots): rules keep theirs.
        failsafe: what no rule can close; default: Failsafe().

    Raises:
        PolicyError: reason PolicyTooLarge with the limit that was passed.
    """
    ordered = in_order(policies)
    entries = _entries(ordered, failsafe or Failsafe())
    rules = [rule for _, rule, _ in entries]
    extra = _default_entries(ordered)
    keys = [key for key, _, _ in entries] + [key for key, _, _ in extra if key is not None]
    slots = assign_slots(keys, previous_slots or {})

    table = bytearray(layout.RULE.size * layout.RULE_ENTRIES)
    compiled: list[CompiledRule] = []
    enforced = 0
    for index, (key, rule, audit) in enumerate(entries):
        compiled.append(CompiledRule(key, rule.action, audit, slots[key.identity]))
        _pack_rule(table, index, compiled[-1])
        if not audit:
            enforced |= 1 << index
    for offset, (default_key, action, audit) in enumerate(extra):
        if default_key is not None:
            compiled.append(CompiledRule(default_key, action, audit, slots[default_key.identity]))
            _pack_rule(table, layout.RULE_DEFAULT + offset, compiled[-1])

    flags = 0
    if any(not policy.audit for policy in ordered):
        flags |= layout.POLICY_ENFORCED
    if any(policy.audit for policy in ordered):
        flags |= layout.POLICY_AUDITED
    sources = compile_sources(rules)
    keys_table = compile_l4(rules)
    return CompiledPolicy(
        tables={
            "enforced": layout.pack_bits(enforced),
            "rules": bytes(table),
            "root": sources.root,
            "chunks": sources.chunks,
            "src_bits": sources.bits,
            "l4": keys_table.keys,
            "l4_bits": keys_table.bits,
        },
        flags=flags,
        rules=tuple(compiled),
        slots=slots,
    )


def assign_slots(keys: Iterable[RuleKey], previous: Mapping[int, int]) -> dict[int, int]:
    """Return the counter slot of each rule by identity.

    A known rule keeps its slot. A new one gets a slot that no rule had before as long as there is one,
    so that packets still in flight under the old rules do not count for it.

    Raises:
        PolicyError: if two names have the same hash.
    """
    by_identity: dict[int, RuleKey] = {}
    for key in keys:
        other = by_identity.setdefault(key.identity, key)
        if other != key:
            raise PolicyError(
                f"its name collides with {'/'.join(other)}", where="/".join(key), hint="rename it"
            )
    kept = {identity: previous[identity] for identity in by_identity if identity in previous}
    used = set(previous.values())
    free = (slot for slot in range(layout.HIT_NONE + 1, layout.HIT_SLOTS) if slot not in used)
    return {identity: kept[identity] if identity in kept else next(free) for identity in by_identity}


def _entries(policies: Iterable[Policy], failsafe: Failsafe) -> list[tuple[RuleKey, PolicyRule, bool]]:
    entries: list[tuple[RuleKey, PolicyRule, bool]] = []
    if failsafe.protocols:
        rule = PolicyRule(FAILSAFE.rule, Action.ALLOW, protocols=failsafe.protocols)
        entries.append((FAILSAFE, rule, False))
    wanted = 0
    for policy in policies:
        wanted += len(policy.rules)
        entries += [(RuleKey(policy.name, rule.name), rule, policy.audit) for rule in policy.rules]
    if wanted > MAX_USER_RULES:
        raise PolicyError(
            f"{wanted} rules on one node, at most {MAX_USER_RULES} are possible",
            reason="PolicyTooLarge",
            hint="one rule may have many prefixes and ports: merge rules that act alike",
        )
    echo = PolicyRule(ECHO_REPLY.rule, Action.ALLOW, protocols=(L4Match(ICMP, icmp_type=0),))
    return [*entries, (ECHO_REPLY, echo, False)]


def _default_entries(policies: Iterable[Policy]) -> list[tuple[RuleKey | None, Action, bool]]:
    """What follows the rules: default, audited default, established; a key of None is not in use."""
    denying = [policy for policy in policies if policy.default is Action.DENY]
    enforced = next((policy for policy in denying if not policy.audit), None)
    audited = next((policy for policy in denying if policy.audit), None)
    if enforced:
        default = (RuleKey(enforced.name, DEFAULT), Action.DENY, False)
    else:
        default = (NO_MATCH, Action.ALLOW, False)
    audit_key = RuleKey(audited.name, DEFAULT) if audited else None
    return [default, (audit_key, Action.DENY, True), (ESTABLISHED, Action.ALLOW, False)]


def _pack_rule(table: bytearray, index: int, rule: CompiledRule) -> None:
    flags = layout.FLAG_DENY if rule.action is Action.DENY else 0
    if rule.audit:
        flags |= layout.FLAG_AUDIT
    layout.RULE.pack_into(table, index * layout.RULE.size, rule.key.identity, rule.slot, flags)
