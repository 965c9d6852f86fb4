"""Nanoseconds that HostPolicy takes for a packet, by BPF_PROG_TEST_RUN. Prints JSON. Needs root and clang.

1,000 rules, each with its own /24 and TCP port; packets that match the first, the middle and the last.
The cases take turns, so that a slow moment of the machine meets all alike; each figure is of 9 runs of a
million packets. `over_empty` of a run subtracts what an empty program took in the same turn.
"""

from __future__ import annotations

import time

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bench.report import Figure, Report
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.policy.compile import compile_policies
from kubebee.policy.model import TCP as TCP_NUMBER
from kubebee.policy.model import Action, L4Match, Policy, PolicyRule, PortRange, Source
from support.clang import HEADERS, LICENSE, compile_c
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

RUNS = 9
REPEAT = 1_000_000
RULES = 1000
HOST = "192.0.2.1"
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
EMPTY = 'SEC("xdp") int empty(struct xdp_md *ctx) { return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP; }\n'


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


def cases(host: Firewall, empty: Program) -> dict[str, tuple[Program, bytes, int]]:
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
    found = {name: (host.program, bytes(packet), verdict) for name, (packet, verdict) in packets.items()}
    return {"empty": (empty, bytes(stranger), 2), **found}


def measure(host: Firewall, empty: Program) -> dict[str, list[int]]:
    """Nanoseconds of each case, a value per turn."""
    runs: dict[str, list[int]] = {}
    for _ in range(RUNS):
        for name, (program, frame, verdict) in cases(host, empty).items():
            result = program.test_run(frame, repeat=REPEAT)
            assert result.retval == verdict, f"{name}: {result.retval}"
            runs.setdefault(name, []).append(result.duration_ns)
    return runs


def main() -> None:
    policy = Policy("bench", 1, tuple(rule(number) for number in range(1, RULES + 1)), Action.DENY)
    started = time.perf_counter()
    compile_policies([policy])
    compiled = time.perf_counter()
    with BpfObject.open(compile_c(HEADERS + EMPTY + LICENSE), "empty") as loaded, firewall(HOST) as host:
        loaded.load()
        apply_started = time.perf_counter()
        host.enforce(policy)
        applied = time.perf_counter()
        with loaded.programs["empty"].duplicate() as empty:
            figures = measure(host, empty)
    aim = "at most 30 ns over an empty program, rule 1 and rule 1,000 equal within 10%"
    report = Report("hostpolicy_cost", aim, RUNS)
    for name, values in figures.items():
        report.figures[name] = Figure("ns", values)
        if name != "empty":
            over = [value - base for value, base in zip(values, figures["empty"], strict=True)]
            report.figures[f"{name}_over_empty"] = Figure("ns", over, 30)
    both = zip(figures["rule_1000"], figures["rule_1"], strict=True)
    report.figures["rule_1000_to_rule_1"] = Figure("ratio", [last / first for last, first in both], 1.1)
    report.notes = {
        "rules": RULES,
        "compile_ms": round((compiled - started) * 1000, 1),
        "compile_and_apply_ms": round((applied - apply_started) * 1000, 1),
    }
    report.print()


if __name__ == "__main__":
    main()
