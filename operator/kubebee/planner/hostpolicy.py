"""HostPolicies of a node to one rule set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kubebee.api.v1alpha1 import hostpolicy as api
from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.errors import KubebeeError
from kubebee.planner.declared import Declared
from kubebee.planner.plan import Bundle, PolicyUnit, ResourceKey, Toolchain
from kubebee.policy import model

_PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "SCTP": 132}


def policy_of(name: str, spec: api.HostPolicySpec) -> model.Policy:
    """One HostPolicy as the datapath's user-space half has it.

    Raises:
        KubebeeError: a rule can't be enforced; `where` is the path of the field.
    """
    rules = []
    for index, rule in enumerate(spec.ingress):
        where = f"spec.ingress[{index}] ({rule.name})"
        try:
            rules.append(
                model.PolicyRule(
                    name=rule.name,
                    action=model.Action(rule.action),
                    sources=tuple(model.Source.parse(peer.cidr or "", peer.except_) for peer in rule.from_),
                    protocols=tuple(_l4(match) for match in rule.protocols),
                )
            )
        except KubebeeError as error:
            raise KubebeeError(error.message, reason=error.reason, where=where, hint=error.hint) from error
    return model.Policy(
        name=name,
        order=spec.order,
        rules=tuple(rules),
        default=model.Action(spec.default_action.ingress),
        audit=spec.audit,
    )


def _l4(match: api.ProtocolMatch) -> model.L4Match:
    return model.L4Match(
        protocol=_PROTOCOLS.get(str(match.protocol), 0) or int(match.protocol),
        ports=tuple(model.PortRange.parse(text) for text in match.ports),
        icmp_type=match.icmp.type if match.icmp else None,
        icmp_code=match.icmp.code if match.icmp else None,
    )


def units(declared: Sequence[tuple[Declared, api.HostPolicy, model.Policy]], source: str) -> list[PolicyUnit]:
    """HostPolicies of a node, those of equal interface selectors as one unit each.

    Policies with different selectors that meet on one interface are enforced one after the other: a packet
    must pass them all.

    Args:
        declared: the resources and their policies.
        source: C text of the stage.
    """
    groups: dict[str, list[tuple[Declared, api.HostPolicy, model.Policy]]] = {}
    for entry in declared:
        groups.setdefault(_selector(entry[1]).model_dump_json(exclude_defaults=True), []).append(entry)
    return [_unit(selector, entries, source) for selector, entries in sorted(groups.items())]


def _selector(policy: api.HostPolicy) -> Interfaces:
    return policy.spec.interfaces or Interfaces(primary=True)


def _unit(
    selector: str, entries: list[tuple[Declared, api.HostPolicy, model.Policy]], source: str
) -> PolicyUnit:
    digest = hashlib.sha256(selector.encode()).hexdigest()[:8]
    return PolicyUnit(
        key=ResourceKey("HostPolicy", f"_{digest}"),
        owners=tuple((item.key, item.generation) for item, _, _ in entries),
        xdp=Bundle(Toolchain.CLANG, source, "hostpolicy.bpf.c", trusted=True),
        interfaces=(_selector(entries[0][1]),),
        policies=tuple(policy for _, _, policy in entries),
        failsafe=_failsafe([policy.spec.failsafe for _, policy, _ in entries]),
    )


def _failsafe(wanted: list[api.Failsafe]) -> model.Failsafe:
    """The ports that any of the policies keeps open: closing one takes the consent of all."""
    matches: dict[model.L4Match, None] = {}
    for failsafe in wanted:
        if not failsafe.enabled:
            continue
        if failsafe.inbound_ports is None:
            matches.update(dict.fromkeys(model.Failsafe().protocols))
        for port in failsafe.inbound_ports or ():
            number = _PROTOCOLS[port.protocol]
            matches[model.L4Match(number, (model.PortRange(port.port, port.port),))] = None
    return model.Failsafe(tuple(matches))
