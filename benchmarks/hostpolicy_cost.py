"""Nanoseconds that HostPolicy takes for a packet, by BPF_PROG_TEST_RUN. Prints JSON. Needs root and clang.

1,000 rules, each with its own /24 and TCP port; packets that match the first, the middle and the last.
The cases take turns, so that a slow moment of the machine meets all alike. `median_ns` is of 9 runs of a
million packets, `best_ns` the fastest of them; `over_empty` subtracts the empty program's of the same kind.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

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


def measure(host: Firewall, empty: Program) -> dict[str, dict[str, int]]:
    runs: dict[str, list[int]] = {}
    for _ in range(RUNS):
        for name, (program, frame, verdict) in cases(host, empty).items():
            result = program.test_run(frame, repeat=REPEAT)
            assert result.retval == verdict, f"{name}: {result.retval}"
            runs.setdefault(name, []).append(result.duration_ns)
    median = {name: int(statistics.median(times)) for name, times in runs.items()}
    best = {name: min(times) for name, times in runs.items()}
    return {
        name: {
            "median_ns": median[name],
            "best_ns": best[name],
            "median_over_empty_ns": median[name] - median["empty"],
            "best_over_empty_ns": best[name] - best["empty"],
        }
        for name in runs
    }


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
    print(
        json.dumps(
            {
                "benchmark": "hostpolicy_cost",
                "machine": f"{platform.machine()} Linux {platform.release()}",
                "rules": RULES,
                "compile_ms": round((compiled - started) * 1000, 1),
                "compile_and_apply_ms": round((applied - apply_started) * 1000, 1),
                "cases": figures,
            }
        )
    )


if __name__ == "__main__":
    main()
