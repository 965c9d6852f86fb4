"""A running kubebee balances: cold neighbour tables, moving MACs, edits, a killed loader, local sockets."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get, is_denied, tcp_connect, udp_ask
from lab.traffic import http_ask
from support.running import Running, wait_for

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
BOTH = set(BACKENDS)
MANAGED = "managed"


def shop(
    *backends: str, mode: str = "SNAT", name: str = "shop", weights: dict[str, int] | None = None
) -> dict[str, Any]:
    """A ServiceLB of VIP:80/TCP and VIP:53/UDP."""

    def members(port: int) -> list[dict[str, object]]:
        return [{"address": b, "port": port, "weight": (weights or {}).get(b, 1)} for b in backends]

    web = {"name": "web", "address": VIP, "port": 80, "protocol": "TCP", "backends": members(80)}
    dns = {"name": "dns", "address": VIP, "port": 53, "protocol": "UDP", "backends": members(53)}
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": name},
        "spec": {"interfaces": {"all": True}, "forwarding": {"mode": mode}, "frontends": [web, dns]},
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    """A kubebee on an empty folder, on a node that knows no neighbour yet."""
    lab.on_node("ip", "neigh", "flush", "all")
    with Running(lab.node_command, tmp_path) as started:
        yield started


def programs(running: Running) -> set[int]:
    """Ids of the programs that the node's pins hold."""
    return {p["id"] for p in running.bpftool("prog", "show", "-f") if p.get("pinned")}


def neighbour(lab: Lab, address: str) -> dict[str, Any]:
    """The node's entry for an address; empty if it has none."""
    entries = json.loads(lab.on_node("ip", "-json", "neigh", "show", "to", address).stdout or "[]")
    return dict(entries[0]) if entries else {}


def answers(lab: Lab, count: int = 30) -> Counter[str]:
    """Which backends answered connections from the client."""
    return Counter(http_get(lab.client, VIP) for _ in range(count))


def on_node(lab: Lab, script: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script as a process of the node."""
    return lab.on_node("python3", "-c", script, check=False)


@pytest.mark.parametrize("mode", ["SNAT", "DSR"])
def test_the_very_first_connection_finds_its_backend(lab: Lab, running: Running, mode: str) -> None:
    running.apply(shop(ONE, TWO, mode=mode))
    running.wait_ready("ServiceLB", "shop")
    assert http_get(lab.client, VIP) in BOTH
    assert set(answers(lab)) == BOTH
    assert {udp_ask(lab.client, VIP, 53) for _ in range(30)} == BOTH


def test_a_flushed_neighbour_table_costs_no_connection(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE, TWO))
    running.wait_ready("ServiceLB", "shop")
    assert set(answers(lab)) == BOTH
    lab.on_node("ip", "neigh", "flush", "all")
    assert set(answers(lab)) == BOTH
    wait_for("a managed neighbour", lambda: MANAGED in neighbour(lab, ONE))


def test_neighbours_are_kept_while_their_backend_is_served(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE, TWO))
    running.wait_ready("ServiceLB", "shop")
    assert MANAGED in neighbour(lab, ONE)
    assert MANAGED in neighbour(lab, TWO)
    running.apply(shop(TWO))
    wait_for("one neighbour let go", lambda: MANAGED not in neighbour(lab, ONE))
    assert MANAGED in neighbour(lab, TWO)
    running.stop(signal.SIGTERM)
    assert MANAGED in neighbour(lab, TWO), "the datapath runs on without its loader"
    running.start()
    running.delete("servicelb-shop.yaml")
    wait_for("the other let go", lambda: MANAGED not in neighbour(lab, TWO))


def test_a_neighbour_that_somebody_set_by_hand_is_left_alone(lab: Lab, running: Running) -> None:
    mac = json.loads(lab.backends["backend1"].ip("-json", "link", "show", "eth0"))[0]["address"]
    lab.on_node("ip", "neigh", "replace", ONE, "lladdr", mac, "dev", "eth1", "nud", "permanent")
    running.apply(shop(ONE))
    running.wait_ready("ServiceLB", "shop")
    assert http_get(lab.client, VIP) == "backend1"
    running.delete("servicelb-shop.yaml")
    wait_for("nothing pinned", lambda: not programs(running))
    assert neighbour(lab, ONE)["state"] == ["PERMANENT"]


@pytest.mark.parametrize("mode", ["SNAT", "DSR"])
def test_a_backend_that_announces_another_mac_is_followed(lab: Lab, running: Running, mode: str) -> None:
    running.apply(shop(ONE, mode=mode))
    running.wait_ready("ServiceLB", "shop")
    assert http_get(lab.client, VIP) == "backend1"
    backend = lab.backends["backend1"]
    backend.sysctl("net.ipv4.conf.eth0.arp_notify", 1)
    backend.ip("link", "set", "eth0", "address", "02:00:00:00:01:99")
    wait_for("the new MAC", lambda: http_get(lab.client, VIP, timeout=0.2) == "backend1", 1)


def test_a_backend_behind_a_gateway_is_reached_and_followed_when_its_route_moves(
    lab: Lab, running: Running
) -> None:
    remote = "10.9.0.9"
    for name in BACKENDS:
        lab.backends[name].ip("address", "add", f"{remote}/32", "dev", "lo")
    lab.on_node("ip", "route", "add", "10.9.0.0/16", "via", ONE)
    running.apply(shop(remote))
    running.wait_ready("ServiceLB", "shop")
    assert http_get(lab.client, VIP) == "backend1"
    lab.on_node("ip", "route", "replace", "10.9.0.0/16", "via", TWO)
    wait_for("the other gateway", lambda: http_get(lab.client, VIP, timeout=0.3) == "backend2", 2)
    assert MANAGED not in neighbour(lab, ONE)


def test_an_interface_that_goes_and_comes_back(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE))
    running.wait_ready("ServiceLB", "shop")
    assert http_get(lab.client, VIP) == "backend1"
    lab.on_node("ip", "link", "set", "eth1", "down")
    assert is_denied(lab.client, VIP, 80)
    lab.on_node("ip", "link", "set", "eth1", "up")
    wait_for("the way back", lambda: http_get(lab.client, VIP, timeout=0.3) == "backend1", 5)
    lab.on_node("ip", "link", "delete", "eth1")
    running.apply(shop(ONE, TWO))
    wait_for("the other backend", lambda: http_get(lab.client, VIP, timeout=0.2) == "backend2", 10)


@pytest.mark.parametrize("mode", ["SNAT", "DSR"])
def test_a_connection_outlives_the_loader(lab: Lab, running: Running, mode: str) -> None:
    running.apply(shop(ONE, TWO, mode=mode))
    running.wait_ready("ServiceLB", "shop")
    with tcp_connect(lab.client, VIP, 80) as connection:
        name = http_ask(connection)
        running.kill()
        assert http_ask(connection) == name
        running.start()
        wait_for("adoption", lambda: any("adopted" in e["message"] for e in running.events()))
        assert http_ask(connection) == name
    assert set(answers(lab)) == BOTH


def compiled(running: Running) -> set[str]:
    """Names of the objects in the cache."""
    found = {path.name for path in (running.cache / "objects").iterdir()}
    assert found
    return found


def test_editing_backends_moves_traffic_and_loads_nothing(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE))
    running.wait_ready("ServiceLB", "shop")
    before, objects = programs(running), compiled(running)
    assert set(answers(lab, 5)) == {"backend1"}
    running.apply(shop(TWO))
    running.wait_ready("ServiceLB", "shop", generation=2)
    assert set(answers(lab, 5)) == {"backend2"}
    running.apply(shop(ONE, TWO, weights={ONE: 1, TWO: 0}))
    running.wait_ready("ServiceLB", "shop", generation=3)
    assert set(answers(lab, 10)) == {"backend1"}
    assert programs(running) == before
    assert compiled(running) == objects


def test_a_removed_backend_keeps_its_connections(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE))
    running.wait_ready("ServiceLB", "shop")
    with tcp_connect(lab.client, VIP, 80) as connection:
        assert http_ask(connection) == "backend1"
        running.apply(shop(TWO))
        running.wait_ready("ServiceLB", "shop", generation=2)
        assert http_get(lab.client, VIP) == "backend2"
        assert http_ask(connection) == "backend1"


CONNECT = f"""
import socket
s = socket.create_connection(({VIP!r}, 80), 2)
s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
print(s.getpeername(), s.recv(4096).split()[-1].decode())
"""
SENDMSG = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(b'who', ({VIP!r}, 53))
data, peer = s.recvfrom(2048)
print(peer, data.decode())
"""


@pytest.mark.parametrize(("script", "port"), [(CONNECT, 80), (SENDMSG, 53)], ids=["connect", "sendmsg"])
def test_a_process_of_the_node_reaches_the_vip_and_sees_nothing_else(
    lab: Lab, running: Running, script: str, port: int
) -> None:
    running.apply(shop(ONE, TWO))
    running.wait_ready("ServiceLB", "shop")
    seen = [on_node(lab, script).stdout.strip() for _ in range(8)]
    assert {line.rpartition(" ")[0] for line in seen} == {f"('{VIP}', {port})"}
    assert {line.rpartition(" ")[2] for line in seen} <= BOTH


def test_without_backends_a_process_of_the_node_is_refused_over_tcp_and_finds_no_host_over_udp(
    lab: Lab, running: Running
) -> None:
    running.apply(shop())
    running.wait_ready("ServiceLB", "shop")
    assert "[Errno 111]" in on_node(lab, CONNECT).stderr
    assert "[Errno 113]" in on_node(lab, SENDMSG).stderr


def test_of_two_that_claim_one_frontend_the_younger_is_refused_by_name(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE))
    running.wait_ready("ServiceLB", "shop")
    running.apply(shop(TWO, name="thief"))
    status = running.wait("ServiceLB", "thief", lambda s: s.stalled)
    assert (status.reason, "ServiceLB/shop" in status.message) == ("DuplicateFrontend", True)
    assert set(answers(lab, 5)) == {"backend1"}
    running.delete("servicelb-shop.yaml")
    running.wait("ServiceLB", "thief", lambda s: s.ready)
    assert set(answers(lab, 5)) == {"backend2"}
