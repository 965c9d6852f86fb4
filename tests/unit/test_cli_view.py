"""The tables of `kubebee status`, rendered to text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from kubebee.cli import view
from kubebee.cli.rates import count
from kubebee.cli.snapshot import Resource, Snapshot
from kubebee.lb.layout import Stat
from kubebee.lb.model import Backend, FrontendKey, Protocol, parse_address
from kubebee.lb.stats import BackendStats, FrontendStats
from kubebee.loader.counted import DropsReading, FunctionReading
from kubebee.loader.pinned import Counters
from kubebee.planner.plan import ResourceKey
from kubebee.policy.compile import BUILTIN
from kubebee.policy.model import Action
from kubebee.policy.stats import RuleStats
from kubebee.store.state import EventRecord

PACKETS, SHOP, EDGE = (
    ResourceKey("BpfProgram", "packets"),
    ResourceKey("ServiceLB", "shop"),
    ResourceKey("HostPolicy", "edge"),
)
LB, FIREWALL = ResourceKey("ServiceLB", "_all"), ResourceKey("HostPolicy", "_12345678")
WEB = FrontendKey(parse_address("10.200.0.10"), 80, Protocol.TCP)


def resource(
    key: ResourceKey, *places: tuple[str, str, str, str], ready: str = "True", **status: Any
) -> Resource:
    """A resource with attachments (function, type, point, mode)."""
    names = ("function", "type", "point", "mode")
    reason = "Running" if ready == "True" else "CompileFailed"
    condition = {"type": "Ready", "status": ready, "reason": reason, "message": "it says why"}
    attachments = [dict(zip(names, place, strict=True)) for place in places]
    body = {"observedGeneration": 1, "conditions": [condition], "attachments": attachments, **status}
    return Resource(key.kind, key.name, 1, body)


def xdp(key: ResourceKey, function: str, runs: int, mean_ns: float = 30.0) -> FunctionReading:
    return FunctionReading(key, function, "XDP", (), runs, mean_ns, {"PASS": runs})


def snapshot(*resources: Resource, counters: Counters | None = None, at: float = 100.0) -> Snapshot:
    return Snapshot(
        at=at,
        resources=resources,
        events=(),
        units={PACKETS: PACKETS, SHOP: LB, EDGE: FIREWALL},
        frontends={WEB: "shop/web"},
        counters=counters or Counters(),
        counters_missing="",
    )


def lines(now: Snapshot, before: Snapshot | None = None, width: int = 120) -> list[str]:
    """Rendered text, a line each, with single spaces."""
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(view.render(now, before))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


COUNTER = resource(PACKETS, ("count", "XDP", "eth0", "Native"))


def test_a_program_has_a_row_with_state_place_rate_and_time() -> None:
    before = snapshot(COUNTER, counters=Counters(functions=(xdp(PACKETS, "count", 1000),)), at=98.0)
    now = snapshot(COUNTER, counters=Counters(functions=(xdp(PACKETS, "count", 1500),)), at=100.0)
    assert "BpfProgram/packets count Running XDP eth0 (Native) 1500 250 30" in lines(now, before)


def test_without_an_earlier_look_there_is_no_rate() -> None:
    now = snapshot(COUNTER, counters=Counters(functions=(xdp(PACKETS, "count", 1500),)))
    assert "BpfProgram/packets count Running XDP eth0 (Native) 1500 - 30" in lines(now)


def test_a_counter_that_started_anew_has_no_negative_rate() -> None:
    before = snapshot(COUNTER, counters=Counters(functions=(xdp(PACKETS, "count", 1000),)), at=99.0)
    now = snapshot(COUNTER, counters=Counters(functions=(xdp(PACKETS, "count", 5),)))
    assert "BpfProgram/packets count Running XDP eth0 (Native) 5 0 30" in lines(now, before)


def test_what_the_kernel_was_not_asked_to_count_is_not_shown_as_0() -> None:
    execs = resource(PACKETS, ("on_exec", "Tracepoint", "sched/sched_process_exec", ""))
    reading = FunctionReading(PACKETS, "on_exec", "Tracepoint", (), 0, None, {})
    shown = lines(snapshot(execs, counters=Counters(functions=(reading,))))
    assert "BpfProgram/packets on_exec Running Tracepoint sched/sched_process_exec - - -" in shown


def test_a_resource_that_is_not_ready_says_why_and_what_to_do() -> None:
    failure = {
        "node": "vm",
        "stage": "Compile",
        "reason": "CompileFailed",
        "hint": "mend it",
        "log": "a.c:3: x",
    }
    shown = lines(snapshot(COUNTER, resource(SHOP, ready="False", failures=[failure])))
    assert "1 of 2 ready" in shown
    assert "ServiceLB/shop CompileFailed - - - -" in shown
    assert shown[shown.index("ServiceLB/shop: it says why") :][:4] == [
        "ServiceLB/shop: it says why",
        "why: Compile CompileFailed on vm",
        "do: mend it",
        "| a.c:3: x",
    ]


def test_an_edit_that_is_not_in_force_yet_is_an_update() -> None:
    assert "BpfProgram/packets count Updating XDP eth0 (Native) - - -" in lines(
        snapshot(replace(COUNTER, generation=2))
    )


def test_socket_programs_of_the_load_balancer_are_one_row() -> None:
    hooks = ("connect4", "sendmsg4", "recvmsg4", "getpeername4")
    places = [(f"kb_{hook}", "CgroupSockAddr", f"/sys/fs/cgroup {hook}", "") for hook in hooks]
    readings = tuple(FunctionReading(LB, f"kb_{hook}", "CgroupSockAddr", (), 10, 50.0, {}) for hook in hooks)
    shown = lines(snapshot(resource(SHOP, *places), counters=Counters(functions=readings)))
    assert "ServiceLB/shop sockets Running CgroupSockAddr /sys/fs/cgroup (4 hooks) 40 - 50" in shown


def test_programs_of_the_load_balancer_at_tc_are_one_row() -> None:
    sides = (("kb_lb_ingress", "eth0 ingress"), ("kb_lb_egress", "eth0 egress"))
    places = [(function, "TC", point, "TCX") for function, point in sides]
    shown = lines(snapshot(resource(SHOP, *places)))
    assert "ServiceLB/shop tc Running TC eth0 ingress, egress (TCX) - - -" in shown


def test_resources_that_share_programs_have_them_once() -> None:
    other = ResourceKey("ServiceLB", "web")
    places = [("kb_servicelb", "XDP", name, "Native") for name in ("eth0", "eth1")]
    now = snapshot(resource(SHOP, *places), resource(other, *places))
    shown = lines(replace(now, units={SHOP: LB, other: LB}))
    assert "ServiceLB/shop Running XDP eth0, eth1 (Native) - - -" in shown
    assert "ServiceLB/web Running together with ServiceLB/shop - - -" in shown


def served(connections: int, *, draining: bool = False) -> FrontendStats:
    backend = Backend(parse_address("10.2.1.2"), 8080)
    counts = Stat(packets=6 * connections, ip_bytes=0, connections=connections)
    return FrontendStats(WEB, "", counts, (BackendStats(backend, counts, draining),))


def test_frontends_have_the_names_of_the_manifest_and_their_backends() -> None:
    before = snapshot(resource(SHOP), counters=Counters(frontends=(served(10),)), at=99.0)
    now = snapshot(resource(SHOP), counters=Counters(frontends=(served(15),)))
    shown = lines(now, before)
    assert "shop/web 10.200.0.10:80/TCP 15 5.0 90 30" in shown
    assert "backend 10.2.1.2:8080 15 5.0 90 30" in shown


def test_a_backend_that_was_taken_out_is_shown_as_leaving() -> None:
    counters = Counters(frontends=(served(10, draining=True),))
    assert "leaving 10.2.1.2:8080 10 - 60 -" in lines(snapshot(resource(SHOP), counters=counters))


def rule(name: str, hits: int, policy: str = "edge", *, audit: bool = False) -> RuleStats:
    counts = (0, 0, hits, 0) if audit else (hits, 0, 0, 0)
    return RuleStats(policy, name, Action.DENY, audit, *counts)


def test_rules_have_their_hits_and_say_when_they_only_audit() -> None:
    rules = (rule("no-admin", 4), rule("try", 7, audit=True), rule("idle", 0))
    shown = lines(snapshot(resource(EDGE), counters=Counters(rules=rules)))
    assert "edge/no-admin Deny 4 -" in shown
    assert "edge/try Deny (audit only) 7 -" in shown
    assert "edge/idle Deny 0 -" in shown


def test_rules_that_nobody_wrote_are_shown_once_they_hit() -> None:
    rules = (rule("failsafe", 3, BUILTIN), rule("established", 0, BUILTIN))
    text = "\n".join(lines(snapshot(resource(EDGE), counters=Counters(rules=rules))))
    assert "(builtin)/failsafe Deny 3" in text
    assert "established" not in text


def test_of_many_rules_those_with_most_hits_are_shown_in_their_order() -> None:
    rules = tuple(rule(f"r{index}", hits=index) for index in range(view.ROWS + 5))
    shown = [
        line for line in lines(snapshot(resource(EDGE), counters=Counters(rules=rules))) if "edge/r" in line
    ]
    assert [line.split()[0] for line in shown] == [f"edge/r{index}" for index in range(5, view.ROWS + 5)]


def test_left_out_rows_are_counted() -> None:
    rules = tuple(rule(f"r{index}", hits=index) for index in range(view.ROWS + 5))
    assert "and 5 more" in lines(snapshot(resource(EDGE), counters=Counters(rules=rules)))


def test_drops_and_events_are_told_by_the_names_of_resources() -> None:
    counters = Counters(drops=(DropsReading(FIREWALL, {"policy_rule": 4, "malformed": 0}),))
    event = EventRecord(
        kind="HostPolicy",
        name=FIREWALL.name,
        type="Normal",
        reason="Loaded",
        message="vm: loaded",
        count=1,
        first_timestamp="2026-01-02T03:04:05Z",
        last_timestamp="2026-01-02T03:04:05Z",
    )
    shown = lines(replace(snapshot(resource(EDGE), counters=counters), events=(event,)))
    assert "HostPolicy/edge policy rule 4 -" in shown
    assert "03:04:05 Normal Loaded HostPolicy/edge vm: loaded" in shown
    assert not any("malformed" in line for line in shown)


def test_no_number_is_cut_at_80_columns() -> None:
    counters = Counters(functions=(xdp(PACKETS, "count", 98_765, 1234.0),), frontends=(served(98_765),))
    shown = lines(snapshot(COUNTER, resource(SHOP), counters=counters), width=80)
    assert any(line.endswith("98765 - 1234") for line in shown)
    assert any("98765" in line and "593k" in line for line in shown)


def test_large_counts_stay_short() -> None:
    numbers = (0, 99_999, 100_000, 1_500_000, 15_000_000_000)
    assert [count(number) for number in numbers] == ["0", "99999", "100k", "1.5M", "15.0G"]
