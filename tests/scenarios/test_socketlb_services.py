"""What sockets of a node see of its Services: affinity, node ports, policies, missing endpoints."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, NODE, Lab, is_denied
from support.running import Running, wait_for
from support.services import endpoint_slice, service

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
BOTH = set(BACKENDS)
CLUSTER_IP = "10.96.0.10"
NODE_PORT = 30080
IN_USE, REFUSED = "[Errno 98]", "[Errno 111]"
ALL: dict[str, Any] = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "cluster"},
    "spec": {"interfaces": {"all": True}, "services": {"all": True}},
}
_ASK = """
import urllib.request
for _ in range(20):
    print(urllib.request.urlopen("http://{address}:{port}/", timeout=5).read().decode().strip())
"""
_BIND = """
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        try:
            sock.bind(("0.0.0.0", {port}))
            print("bound")
        except OSError as error:
            print(error)
"""


def web(**fields: Any) -> dict[str, Any]:
    port = {"name": "http", "port": 80, "nodePort": NODE_PORT}
    return service(clusterIP=CLUSTER_IP, type="NodePort", ports=[port], **fields)


def behind(*addresses: str) -> dict[str, Any]:
    return endpoint_slice(*addresses, ports=[{"name": "http", "port": 80}])


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        started.apply(ALL)
        yield started


def on_node(lab: Lab, script: str) -> subprocess.CompletedProcess[str]:
    return lab.on_node("python3", "-c", script, check=False)


def asked(lab: Lab, address: str = CLUSTER_IP, port: int = 80) -> Counter[str]:
    """Who answers 20 connections of a process of the node."""
    return Counter(on_node(lab, _ASK.format(address=address, port=port)).stdout.splitlines())


def test_client_ip_affinity_is_switched_on_off_and_on_again(lab: Lab, running: Running) -> None:
    running.apply(behind(ONE, TWO))
    for affinity, answering in (("ClientIP", 1), ("None", 2), ("ClientIP", 1)):
        running.apply(web(sessionAffinity=affinity))
        wait_for(f"affinity {affinity}", lambda n=answering: len(asked(lab)) == n)
        assert [len(asked(lab)) for _ in range(3)] == [answering] * 3


def test_a_node_port_is_not_for_processes_of_the_host_to_bind(lab: Lab, running: Running) -> None:
    running.apply(web())
    running.apply(behind(ONE))
    wait_for("an answer", lambda: set(asked(lab, "127.0.0.1", NODE_PORT)) == {"backend1"})
    tcp, udp = on_node(lab, _BIND.format(port=NODE_PORT)).stdout.splitlines()
    assert (IN_USE in tcp, udp) == (True, "bound")
    running.delete("service-web.yaml")
    free = ["bound", "bound"]
    wait_for(
        "the port is free", lambda: on_node(lab, _BIND.format(port=NODE_PORT)).stdout.splitlines() == free
    )


def test_a_service_without_endpoints_refuses_as_kube_proxy_does(lab: Lab, running: Running) -> None:
    running.apply(web())
    running.apply(behind(ONE))
    wait_for("an answer", lambda: set(asked(lab)) == {"backend1"})
    running.apply(behind())
    wait_for("a refusal", lambda: not asked(lab))
    for address, port in ((CLUSTER_IP, 80), (NODE, NODE_PORT), ("127.0.0.1", NODE_PORT)):
        assert REFUSED in on_node(lab, _ASK.format(address=address, port=port)).stderr


def test_of_a_local_policy_the_nodes_own_sockets_reach_endpoints_elsewhere(
    lab: Lab, running: Running
) -> None:
    running.apply(web(externalTrafficPolicy="Local"))
    running.apply(behind(ONE, TWO))  # both on another node
    wait_for("both answer", lambda: set(asked(lab, NODE, NODE_PORT)) == BOTH)
    assert is_denied(lab.client, NODE, NODE_PORT)
