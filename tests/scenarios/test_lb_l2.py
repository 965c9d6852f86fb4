"""DSR by L2, by a running kubebee with real sockets: backends on a link, and one that a gateway is before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get, udp_ask
from support.running import Running, wait_for

pytestmark = pytest.mark.root

BEHIND = "10.66.0.2"
NEAR, FAR = BACKENDS["backend1"], BACKENDS["backend2"]


def manifest(mode: str, *backends: str) -> dict[str, Any]:
    frontends = [
        {
            "name": name,
            "address": VIP,
            "port": port,
            "protocol": protocol,
            "backends": [{"address": address, "port": port} for address in backends],
        }
        for name, port, protocol in (("web", 80, "TCP"), ("dns", 53, "UDP"))
    ]
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {
            "interfaces": {"all": True},
            "northSouth": {"mode": mode},
            "socketLB": {"enabled": False},
            "forwarding": {"mode": "DSR", "dispatch": "L2"},
            "frontends": frontends,
        },
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


@pytest.mark.parametrize("mode", ["Auto", "TC"])
def test_backends_on_a_link_answer_their_clients(lab: Lab, running: Running, mode: str) -> None:
    running.apply(manifest(mode, NEAR, FAR))
    running.wait_ready("ServiceLB", "shop")
    wait_for("an answer", lambda: http_get(lab.client, VIP))
    assert {http_get(lab.client, VIP) for _ in range(30)} == set(BACKENDS)
    assert {udp_ask(lab.client, VIP, 53) for _ in range(30)} == set(BACKENDS)


def test_a_backend_behind_a_gateway_is_left_out_until_a_route_leads_there_directly(
    lab: Lab, running: Running
) -> None:
    node, other = lab.node.network, lab.backends["backend2"]
    other.ip("address", "add", f"{BEHIND}/32", "dev", "lo")
    node.ip("route", "add", BEHIND, "via", FAR)
    running.apply(manifest("Auto", NEAR, BEHIND))
    running.wait_ready("ServiceLB", "shop")
    running.wait("ServiceLB", "shop", lambda status: "behind a gateway" in str(status.document), "the reason")
    wait_for("an answer", lambda: http_get(lab.client, VIP))
    assert {http_get(lab.client, VIP) for _ in range(20)} == {"backend1"}
    node.ip("route", "replace", BEHIND, "dev", "eth2")
    running.wait(
        "ServiceLB", "shop", lambda status: "a gateway" not in str(status.document), "no reason any more"
    )
    wait_for("the other backend", lambda: http_get(lab.client, VIP) == "backend2")
