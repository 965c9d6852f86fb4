"""spec.snat.addresses: several source addresses towards backends, each of this node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get
from support.running import KUBEBEE, Running, wait_for

pytestmark = pytest.mark.root

ONE = BACKENDS["backend1"]
SOURCES = ("10.2.1.21", "10.2.1.22")
FOREIGN = "10.2.1.99"


def balancer(*addresses: str) -> dict[str, Any]:
    frontend = {"name": "web", "address": VIP, "port": 80, "backends": [{"address": ONE}]}
    spec = {"interfaces": {"all": True}, "frontends": [frontend], "snat": {"addresses": list(addresses)}}
    document = {"apiVersion": "kubebee.dev/v1alpha1", "kind": "ServiceLB", "metadata": {"name": "shop"}}
    return {**document, "spec": spec}


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    for address in SOURCES:
        lab.on_node("ip", "address", "add", f"{address}/24", "dev", "eth1")
    with Running(lab.node_command, tmp_path) as started:
        yield started


def sources(running: Running) -> set[str]:
    """Addresses that stand for clients, of all flows that are known."""
    flows = json.loads(running.run(KUBEBEE, "lb", "flows", "-o", "json", "--limit", "0").stdout)
    return {flow["from"]["address"] for flow in flows}


def test_flows_are_spread_over_the_addresses_that_the_node_has(lab: Lab, running: Running) -> None:
    running.apply(balancer(*SOURCES, FOREIGN))
    running.wait_ready("ServiceLB", "shop")
    assert {http_get(lab.client, VIP) for _ in range(40)} == {"backend1"}
    assert sources(running) == set(SOURCES)


def test_where_the_node_has_none_of_them_its_own_serves_and_that_is_said(lab: Lab, running: Running) -> None:
    running.apply(balancer(FOREIGN))
    status = running.wait_ready("ServiceLB", "shop")
    text = f"this node has none of {FOREIGN}; its own IPv4 address serves"
    wait_for("it is said", lambda: any(text in event["message"] for event in running.events()))
    assert text in status.message
    assert http_get(lab.client, VIP) == "backend1"
