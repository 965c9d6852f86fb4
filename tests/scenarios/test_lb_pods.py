"""Backends on the node itself and in its pods, by a running kubebee, with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import CLIENT, NODE, VIP, Lab, tcp_connect
from lab.netns import Namespace
from support.pods import PORT, local_pods, serving
from support.running import Running

pytestmark = pytest.mark.root

PODS = ("10.244.1.5", "10.244.1.6")


@pytest.fixture
def pods(lab: Lab) -> Iterator[dict[str, Namespace]]:
    with local_pods(lab.node.network, *PODS) as made:
        yield made


def balancer(
    interfaces: dict[str, Any], *backends: str, mode: str = "Auto", vip: str = VIP
) -> dict[str, Any]:
    """A ServiceLB of VIP:80, TCP and UDP; no sockets, so that all depends on packets."""
    members = [{"address": address, "port": PORT} for address in backends]
    frontends = [
        {"name": name, "address": vip, "port": 80, "protocol": protocol, "backends": members}
        for name, protocol in (("web", "TCP"), ("dns", "UDP"))
    ]
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {
            "interfaces": interfaces,
            "northSouth": {"mode": mode},
            "socketLB": {"enabled": False},
            "frontends": frontends,
        },
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def seen_by_tcp(source: Namespace, address: str = VIP) -> str:
    """The address that the server sees a TCP client by."""
    with tcp_connect(source, address, 80) as connection:
        return connection.recv(100).decode()


def seen_by_udp(source: Namespace, address: str = VIP) -> str:
    """The address that the server sees a UDP client by."""
    with source.socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((address, 80))
        sock.send(b"?")
        return sock.recv(100).decode()


@pytest.mark.parametrize("mode", ["Auto", "Native", "Generic", "TC"])
@pytest.mark.parametrize("where", ["pod", "node"])
def test_a_client_outside_keeps_its_address(
    lab: Lab, running: Running, pods: dict[str, Namespace], mode: str, where: str
) -> None:
    host, address = (pods[PODS[0]], PODS[0]) if where == "pod" else (lab.node.network, NODE)
    running.apply(balancer({"primary": True}, address, mode=mode))
    running.wait_ready("ServiceLB", "shop")
    with serving(host):
        assert seen_by_tcp(lab.client) == CLIENT
        assert seen_by_udp(lab.client) == CLIENT
        assert {seen_by_tcp(lab.client) for _ in range(20)} == {CLIENT}


def test_pods_share_connections(lab: Lab, running: Running, pods: dict[str, Namespace]) -> None:
    running.apply(balancer({"primary": True}, *PODS))
    running.wait_ready("ServiceLB", "shop")
    with serving(pods[PODS[0]]), serving(pods[PODS[1]]):
        assert {seen_by_tcp(lab.client) for _ in range(20)} == {CLIENT}


def test_a_connection_through_a_node_port_outlives_a_new_version(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    """On an address of the node itself, as node ports are."""
    running.apply(balancer({"primary": True}, PODS[0], vip=NODE))
    running.wait_ready("ServiceLB", "shop")
    with serving(pods[PODS[0]]):
        assert seen_by_tcp(lab.client, NODE) == CLIENT
        running.apply(balancer({"primary": True}, PODS[0], vip=NODE, mode="TC"))
        running.wait_ready("ServiceLB", "shop", generation=2)
        assert seen_by_tcp(lab.client, NODE) == CLIENT


@pytest.mark.parametrize("vip", [VIP, NODE], ids=["a VIP", "the node's address"])
def test_pods_without_socket_lb_reach_other_pods_and_themselves(
    lab: Lab, running: Running, pods: dict[str, Namespace], vip: str
) -> None:
    """Their links leave checksums to devices that there are none of."""
    running.apply(balancer({"all": True}, PODS[0], vip=vip))
    running.wait_ready("ServiceLB", "shop")
    with serving(pods[PODS[0]]):
        assert seen_by_tcp(pods[PODS[1]], vip) == PODS[1]
        assert seen_by_udp(pods[PODS[1]], vip) == PODS[1]
        assert seen_by_tcp(pods[PODS[0]], vip) in {NODE, "10.244.1.1"}
        assert seen_by_tcp(lab.client, vip) == CLIENT


def test_a_pod_that_nobody_serves_is_refused_at_once(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    running.apply(balancer({"all": True}))
    running.wait_ready("ServiceLB", "shop")
    for source in (lab.client, pods[PODS[0]]):
        with pytest.raises(ConnectionRefusedError):
            seen_by_tcp(source)
        with pytest.raises(ConnectionRefusedError):
            seen_by_udp(source)


def test_a_pod_that_comes_later_is_served_from_its_first_connection_on(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    running.apply(balancer({"primary": True}, PODS[0]))
    running.wait_ready("ServiceLB", "shop")
    with serving(pods[PODS[0]]), serving(pods[PODS[1]]):
        assert seen_by_tcp(lab.client) == CLIENT
        running.apply(balancer({"primary": True}, PODS[1]))
        running.wait_ready("ServiceLB", "shop", generation=2)
        assert seen_by_tcp(lab.client) == CLIENT


def test_a_closed_port_of_a_pod_is_told_to_the_client(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    """The pod's ICMP error quotes an address that the client never used."""
    assert pods
    running.apply(balancer({"primary": True}, PODS[0]))
    running.wait_ready("ServiceLB", "shop")
    with pytest.raises(ConnectionRefusedError):
        seen_by_udp(lab.client)


def test_an_interface_that_loses_frames_is_served_by_tc(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    lab.client.ip("link", "set", "dev", "eth0", "xdpdrv", "off")
    running.apply(balancer({"primary": True}))
    status = running.wait_ready("ServiceLB", "shop")
    assert {each["type"] for each in status.attachments} == {"TC"}
    assert pods
    with pytest.raises(ConnectionRefusedError):
        seen_by_tcp(lab.client)
