"""Nanoseconds that HostPolicy takes for a packet, by BPF_PROG_TEST_RUN. Prints JSON. Needs root and clang.

1,000 rules, each with its own /24 and TCP port; packets that match the first, the middle and the last.
How it is measured, and what `quiet` means: bench/packets.py. `over_empty` is the time without that of an
empty program in the same turn.
"""

from __future__ import annotations

import time

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bench.packets import TURNS, Case, measure
from bench.report import Report
from kubebee.policy.compile import compile_policies
from kubebee.policy.model import TCP as TCP_NUMBER
from kubebee.policy.model import Action, L4Match, Policy, PolicyRule, PortRange, Source
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

RULES = 1000
HOST = "192.0.2.1"
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def rule(number: int) -> PolicyRule:
    ports = (PortRange(10_000 + number, 10_000 + number),)
    return PolicyRule(
        f"rule-{number}", Action.ALLOW, (Source.parse(network(number)),), (L4Match(TCP_NUMBER, ports),)
    )


def network(number: int) -> str:
    return f"10.{number >> 8}.{number & 255}.0/24"


def matching(number: int) -> Packet:
    source = network(number).replace("0/24", "7")
    return ETH / IP(src=source, dst=HOST) / TCP(dport=10_000 + number) / Raw(bytes(64))


def cases(host: Firewall) -> dict[str, Case]:
    stranger = ETH / IP(src="203.0.113.5", dst=HOST) / TCP(dport=80) / Raw(bytes(64))
    forwarded = ETH / IP(src="203.0.113.5", dst="192.0.2.99") / TCP(dport=80) / Raw(bytes(64))
    packets: dict[str, tuple[Packet, int]] = {
        "rule_1": (matching(1), CONTINUE),
        "rule_500": (matching(500), CONTINUE),
        "rule_1000": (matching(RULES), CONTINUE),
        "syn_denied_by_default": (stranger, DROP),
        "forwarded": (forwarded, CONTINUE),
        "arp": (ETH / ARP(), CONTINUE),
    }
    return {name: Case(host.program, bytes(packet), verdict) for name, (packet, verdict) in packets.items()}


def main() -> None:
    policy = Policy("bench", 1, tuple(rule(number) for number in range(1, RULES + 1)), Action.DENY)
    aim = "at most 30 ns over an empty program, rule 1 and rule 1,000 equal within 10%"
    report = Report("hostpolicy_cost", aim, TURNS)
    started = time.perf_counter()
    compile_policies([policy])
    compiled = time.perf_counter()
    with firewall(HOST) as host:
        apply_started = time.perf_counter()
        host.enforce(policy)
        applied = time.perf_counter()
        measured = cases(host)
        samples = measure(measured)
    samples.describe_machine(report)
    for name in measured:
        report.figures |= samples.figures(name, over_aim=30)
    report.figures["rule_1000_to_rule_1"] = samples.ratio("rule_1000", "rule_1", 1.1)
    report.notes |= {
        "rules": RULES,
        "compile_ms": round((compiled - started) * 1000, 1),
        "compile_and_apply_ms": round((applied - apply_started) * 1000, 1),
    }
    report.print()


if __name__ == "__main__":
    main()
