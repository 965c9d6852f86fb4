"""`kubebee lb` beside a running kubebee and after it: what it tells is what real traffic does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, CLIENT, NODE, VIP, Lab, http_get, is_denied, tcp_connect
from lab.traffic import http_ask
from support.running import KUBEBEE, Running
from support.site import counter, policy, program, resource

pytestmark = pytest.mark.root

ADDRESSES = {name: f"{address}:8080" for name, address in BACKENDS.items()}
NAMES = {address: name for name, address in ADDRESSES.items()} | {
    f"{address}:80": name for name, address in BACKENDS.items()
}
EVERY_BYTE = """
import hashlib, sys
from pathlib import Path
from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map
for pin in sorted(Path("/sys/fs/bpf/kubebee/m").glob("*/*")):
    if pin.name.startswith(("kb_run-", "counts@")):
        continue  # they count every frame, and neighbours are resolved at any time
    with Map.from_pin(pin) as opened:
        digest = hashlib.sha256()
        if opened.info.type != MapType.SK_STORAGE:  # sockets have it, and nobody can list it
            for keys, values, _ in opened.batches():
                digest.update(keys + values)
        print(pin, digest.hexdigest())
"""


def shop() -> dict[str, Any]:
    """Frontends by SNAT and DSR, over TCP and UDP, and one without a backend."""

    def members(port: int) -> list[dict[str, object]]:
        return [{"address": address, "port": port} for address in BACKENDS.values()]

    def frontend(name: str, port: int, protocol: str, to: int, mode: str = "SNAT") -> dict[str, object]:
        of = {"name": name, "address": VIP, "port": port, "protocol": protocol, "forwarding": {"mode": mode}}
        return of | {"backends": members(to) if to else []}

    frontends = [
        frontend("web", 88, "TCP", 8080),
        frontend("direct", 80, "TCP", 80, "DSR"),
        frontend("dns", 53, "UDP", 53),
        frontend("nobody", 99, "TCP", 0),
    ]
    return resource("ServiceLB", "shop", {"interfaces": {"all": True}, "frontends": frontends})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Running]]:
    """A kubebee with a load balancer, a firewall that denies mail, and a program behind them."""
    with Lab() as lab, Running(lab.node_command, tmp_path_factory.mktemp("lb")) as running:
        manifests = (shop(), policy("edge", "Deny", port="25"), program("packets", counter()))
        for manifest in manifests:
            running.apply(manifest)
        for manifest in manifests:
            running.wait_ready(manifest["kind"], manifest["metadata"]["name"])
        assert http_get(lab.client, VIP, 88) in BACKENDS
        yield lab, running


def lb(place: tuple[Lab, Running], *argv: str, code: int = 0) -> Any:
    """A verb's result as JSON."""
    done = place[1].run(KUBEBEE, "lb", *argv, "-o", "json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def said(place: tuple[Lab, Running], *argv: str) -> str:
    return place[1].run(KUBEBEE, "lb", *argv, check=False).stdout


def test_the_list_has_every_frontend_by_name_with_its_backends(place: tuple[Lab, Running]) -> None:
    listed = {each["name"]: each for each in lb(place, "list")}
    assert listed.keys() == {f"ServiceLB/shop:{name}" for name in ("web", "direct", "dns", "nobody")}
    web, direct = listed["ServiceLB/shop:web"], listed["ServiceLB/shop:direct"]
    assert (web["address"], web["port"], web["protocol"], web["forwarding"]) == (VIP, 88, "TCP", "SNAT")
    assert (direct["forwarding"], web["backends"]) == ("DSR-IPIP", {"active": 2, "total": 2, "draining": 0})
    assert listed["ServiceLB/shop:nobody"]["backends"]["total"] == 0


def test_connections_are_counted_where_they_went(place: tuple[Lab, Running]) -> None:
    def connections() -> dict[str, int]:
        (found,) = lb(place, "get", "shop:web")
        return {f"{each['address']}:{each['port']}": each["connections"] for each in found["backends"]}

    before = connections()
    went = [http_get(place[0].client, VIP, 88) for _ in range(10)]
    after = connections()
    assert {name: after[end] - before[end] for name, end in ADDRESSES.items()} == {
        name: went.count(name) for name in ADDRESSES
    }


def test_a_frontend_shows_shares_and_next_hops(place: tuple[Lab, Running]) -> None:
    (found,) = lb(place, "get", f"{VIP}:88/TCP")
    slots = [each["slots"]["outside"] for each in found["backends"]]
    assert sum(slots) == found["slots"]["outside"] == found["slots"]["inside"]
    assert min(slots) > 90
    hops = {each["address"]: each["nextHop"]["interface"] for each in found["backends"]}
    assert hops == {BACKENDS["backend1"]: "eth1", BACKENDS["backend2"]: "eth2"}


def test_an_open_connection_is_in_the_flows_with_its_backend(place: tuple[Lab, Running]) -> None:
    with tcp_connect(place[0].client, VIP, 88, source_port=41000) as connection:
        name = http_ask(connection)
        (flow,) = lb(place, "flows", "--client", f"{CLIENT}:41000")
        assert f"{flow['backend']['address']}:{flow['backend']['port']}" == ADDRESSES[name]
        assert (flow["state"], flow["client"]) == ("Established", {"address": CLIENT, "port": 41000})
        towards = lb(place, "flows", "--backend", ADDRESSES[name], "--frontend", "shop:web")
        assert flow["client"] in [each["client"] for each in towards]
        assert said(place, "flows", "--client", f"{CLIENT}:41000", "--count").strip() == "1"
        assert lb(place, "flows", "--client", f"{CLIENT}:41000", "--frontend", "shop:dns") == []
    assert len(lb(place, "flows", "--limit", "1")) == 1


@pytest.mark.parametrize("port", [88, 80], ids=["SNAT", "DSR"])
def test_trace_foretells_the_backend_of_a_connection(place: tuple[Lab, Running], port: int) -> None:
    foretold, came = [], []
    for source in range(42000, 42004):
        found = lb(place, "trace", f"{CLIENT}:{source}", f"{VIP}:{port}", "--interface", "eth0")
        assert (found["outcome"], found["connection"]) == ("Forwarded", None)
        foretold.append(NAMES[f"{found['backend']['address']}:{found['backend']['port']}"])
        with tcp_connect(place[0].client, VIP, port, source_port=source) as connection:
            came.append(http_ask(connection))
    assert foretold == came


def test_trace_foretells_the_source_that_a_backend_sees(place: tuple[Lab, Running]) -> None:
    found = lb(place, "trace", f"{CLIENT}:43000", "shop:web")
    with tcp_connect(place[0].client, VIP, 88, source_port=43000) as connection:
        http_ask(connection)
        (flow,) = lb(place, "flows", "--client", f"{CLIENT}:43000")
        assert flow["from"] == found["source"]
        kept = lb(place, "trace", f"{CLIENT}:43000", "shop:web", "--ack")
        assert (kept["connection"]["answer"], kept["source"]) == (False, flow["from"])
        backend, source = flow["backend"], flow["from"]
        answer = lb(
            place,
            "trace",
            f"{backend['address']}:{backend['port']}",
            f"{source['address']}:{source['port']}",
            "--ack",
        )
    assert answer["connection"]["answer"]
    assert answer["summary"].startswith(f"would go back to the client {CLIENT}:43000")
    assert answer["exit"]["interface"] == "eth0"


def test_trace_names_the_rule_that_denies(place: tuple[Lab, Running]) -> None:
    found = lb(place, "trace", CLIENT, f"{NODE}:25", code=3)
    assert (found["outcome"], found["stages"][0]["rules"]) == ("Dropped", ["edge/rule"])
    why = "rule edge/rule, policy_rule (a Deny rule matched)"
    assert found["summary"] == f"would be dropped by HostPolicy: {why}"
    assert is_denied(place[0].client, NODE, 25)


def test_trace_says_what_goes_on_to_the_kernel(place: tuple[Lab, Running]) -> None:
    found = lb(place, "trace", CLIENT, f"{NODE}:8080")
    assert (found["verdict"], found["outcome"]) == ("PASS", "Passed")
    assert [stage["verdict"] for stage in found["stages"]] == ["NEXT", "NEXT", "NEXT"]


def test_trace_shows_the_packet_before_and_after(place: tuple[Lab, Running]) -> None:
    lines = said(place, "trace", f"{CLIENT}:44000", "shop:direct").splitlines()
    packets = {line.split()[0]: line for line in lines if line}
    inner = f"{CLIENT}:44000 > {VIP}:80 TCP [SYN] ttl 64 length 40 DF"
    assert packets["packet"].endswith(inner)
    assert f"{inner} inside 10." in packets["goes"]
    assert "IPIP ttl 64 length 60 DF" in packets["goes"]
    assert "by DSR-IPIP, out of eth" in lines[-1]


def test_a_process_of_the_node_is_told_its_chances(place: tuple[Lab, Running]) -> None:
    found = lb(place, "trace", "127.0.0.1", f"{VIP}:88", "--socket")
    assert {NAMES[f"{each['address']}:{each['port']}"] for each in found["backends"]} == set(BACKENDS)
    assert sum(each["chance"] for each in found["backends"]) == pytest.approx(1)
    refused = lb(place, "trace", "127.0.0.1", f"{VIP}:99", "--socket", code=3)
    assert "EHOSTUNREACH" in refused["summary"]


def test_what_can_not_be_traced_says_what_to_do(place: tuple[Lab, Running]) -> None:
    for argv, word in (
        (("trace", CLIENT, "shop:web", "-i", "nowhere"), "eth0"),
        (("trace", CLIENT, "shop:web", "-i", "lo"), "--interface"),
        (("trace", CLIENT, VIP), "says no port"),
        (("trace", CLIENT, "[2001:db8::1]:80"), "different families"),
        (("get", "shop:wep"), "shop:web"),
    ):
        done = place[1].run(KUBEBEE, "lb", *argv, check=False)
        assert done.returncode == 1
        assert word in done.stderr
        assert done.stderr.startswith("error: ")


def test_trace_tells_what_tc_does(place: tuple[Lab, Running]) -> None:
    """Behind XDP, and where it serves alone while a firewall and a program are at XDP."""
    at_xdp, at_tc = (
        lb(place, "trace", f"{CLIENT}:47000", "shop:web", "-i", "eth0", "--at", at) for at in ("xdp", "tc")
    )
    assert (at_xdp["at"], at_tc["at"]) == ("xdp", "tc")
    assert [at_tc[name] for name in ("outcome", "backend", "source", "after")] == [
        at_xdp[name] for name in ("outcome", "backend", "source", "after")
    ]
    alone = shop()
    alone["spec"]["northSouth"] = {"mode": "TC"}
    place[1].apply(alone)
    place[1].wait_ready("ServiceLB", "shop", 2)
    found = lb(place, "trace", f"{CLIENT}:47001", "shop:web", "-i", "eth0")
    assert (found["at"], [stage["function"] for stage in found["stages"]]) == ("tc", ["kb_lb_ingress"])
    with tcp_connect(place[0].client, VIP, 88, source_port=47001) as connection:
        assert http_ask(connection) == NAMES[f"{found['backend']['address']}:{found['backend']['port']}"]
        (flow,) = lb(place, "flows", "--client", f"{CLIENT}:47001")
        assert flow["from"] == found["source"]
    at_xdp = lb(place, "trace", f"{CLIENT}:47001", "shop:web", "-i", "eth0", "--at", "xdp")
    assert "no load balancer runs on eth0" in at_xdp["notes"][-1]
    place[1].apply(shop())
    place[1].wait_ready("ServiceLB", "shop", 3)


def test_top_shows_what_goes_on(place: tuple[Lab, Running]) -> None:
    argv = place[0].node_command([KUBEBEE, "lb", "top", "--interval", "1", "-o", "json"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as top:
        while top.poll() is None:  # few connections: each keeps its SNAT port for 10 s after its end
            with tcp_connect(place[0].client, VIP, 88) as connection:
                for _ in range(50):
                    http_ask(connection)
        assert top.stdout is not None
        busiest = json.loads(top.stdout.read())[0]
    assert busiest["name"] == "ServiceLB/shop:web"
    assert busiest["connectionsPerSecond"] > 0
    rates = [each["packetsPerSecond"] for each in busiest["backends"]]
    assert sum(rates) == pytest.approx(busiest["packetsPerSecond"])


def test_after_kubebees_end_it_tells_the_same_and_changes_not_a_byte(place: tuple[Lab, Running]) -> None:
    lab, running = place
    before = lb(place, "get", "shop:web")
    with tcp_connect(lab.client, VIP, 88, source_port=45000) as connection:
        name = http_ask(connection)
        running.kill()
        contents = running.run(sys.executable, "-c", EVERY_BYTE).stdout
        assert "kb_lb_flow@" in contents
        for argv in (
            ("trace", f"{CLIENT}:45000", "shop:web", "--ack"),
            ("trace", f"{CLIENT}:45000", "shop:web"),
            ("trace", f"{CLIENT}:45001", "shop:web"),
            ("trace", f"{CLIENT}:45001", "shop:dns"),
            ("trace", f"{CLIENT}:45001", "shop:direct"),
            ("flows",),
            ("list",),
        ):
            lb(place, *argv)
        lb(place, "trace", CLIENT, f"{NODE}:25", code=3)
        assert running.run(sys.executable, "-c", EVERY_BYTE).stdout == contents
        assert http_ask(connection) == name
    assert lb(place, "get", "shop:web")[0]["slots"] == before[0]["slots"]


def test_where_nothing_is_pinned_it_says_so(lab: Lab, tmp_path: Path) -> None:
    done = Running(lab.node_command, tmp_path).run(KUBEBEE, "lb", "list", check=False)
    assert done.returncode == 1
    assert "NoLoadBalancer" in done.stderr
