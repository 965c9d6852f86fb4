"""IPv6 by a running kubebee, with real sockets: backends on other hosts and in a pod, at XDP and at tc."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from lab.netns import Namespace, veth
from support.pods import PORT, serving
from support.running import Running, wait_for
from support.services import endpoint_slice, service

pytestmark = pytest.mark.root

CLIENT, NODE, VIP = "2001:db8:c::2", "2001:db8:c::1", "2001:db8:f::10"
BACKENDS = {"backend1": "2001:db8:1::2", "backend2": "2001:db8:2::2"}
POD = "2001:db8:9::5"
FORWARDING = "net.ipv6.conf.all.forwarding"


def without_dad(*hosts: Namespace) -> None:
    """Let addresses be usable at once."""
    for host in hosts:
        for name in ("all", "default"):
            host.sysctl(f"net.ipv6.conf.{name}.accept_dad", 0)


@pytest.fixture
def site(lab: Lab) -> Lab:
    """The lab with IPv6 addresses of its own."""
    node = lab.node.network
    without_dad(node, lab.client, *lab.backends.values())
    node.sysctl(FORWARDING, 1)
    links = [("eth0", NODE, lab.client, CLIENT)]
    for number, (name, address) in enumerate(BACKENDS.items(), start=1):
        links.append((f"eth{number}", address.replace("::2", "::1"), lab.backends[name], address))
    for link, own, host, address in links:
        node.ip("address", "replace", f"{own}/64", "dev", link, "nodad")
        host.ip("address", "replace", f"{address}/64", "dev", "eth0", "nodad")
        host.ip("-6", "route", "replace", "default", "via", own)
    node.ip("-6", "route", "replace", "default", "via", CLIENT)
    return lab


def balancer(interfaces: dict[str, Any], *backends: str, mode: str = "Auto") -> dict[str, Any]:
    """A ServiceLB of VIP:80, TCP and UDP; no sockets, so that all depends on packets."""
    members = [{"address": address, "port": PORT} for address in backends]
    frontends = [
        {"name": name, "address": VIP, "port": 80, "protocol": protocol, "backends": members}
        for name, protocol in (("web", "TCP"), ("dns", "UDP"))
    ]
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "six"},
        "spec": {
            "interfaces": interfaces,
            "northSouth": {"mode": mode},
            "socketLB": {"enabled": False},
            "frontends": frontends,
        },
    }


@pytest.fixture
def running(site: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(site.node_command, tmp_path) as started:
        yield started


def seen(source: Namespace, kind: socket.SocketKind, place: tuple[str, int] = (VIP, 80)) -> str:
    """The address that the server sees a client by."""
    with source.socket(kind, family=socket.AF_INET6) as sock:
        sock.settimeout(2)
        sock.connect(place)
        if kind is socket.SOCK_DGRAM:
            sock.send(b"?")
        return sock.recv(100).decode()


@pytest.mark.parametrize("mode", ["Auto", "TC"])
def test_backends_on_other_hosts_see_the_node(site: Lab, running: Running, mode: str) -> None:
    running.apply(balancer({"all": True}, *BACKENDS.values(), mode=mode))
    running.wait_ready("ServiceLB", "six")
    with ExitStack() as stack:
        for backend in site.backends.values():
            stack.enter_context(serving(backend))
        wait_for("an answer", lambda: seen(site.client, socket.SOCK_STREAM))
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            addresses = {seen(site.client, kind) for _ in range(20)}
            assert addresses
            assert CLIENT not in addresses


@pytest.mark.parametrize("mode", ["Auto", "TC"])
def test_a_pod_sees_the_client(site: Lab, running: Running, mode: str) -> None:
    node = site.node.network
    with Namespace("pod") as pod:
        without_dad(pod)
        veth(node, "pod1", pod, "eth0")
        node.ip("address", "add", "fe80::1/64", "dev", "pod1", "nodad")
        node.ip("-6", "route", "add", f"{POD}/128", "dev", "pod1")
        pod.ip("address", "add", f"{POD}/128", "dev", "eth0", "nodad")
        pod.ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        running.apply(balancer({"primary": True}, POD, mode=mode))
        running.wait_ready("ServiceLB", "six")
        with serving(pod):
            wait_for("an answer", lambda: seen(site.client, socket.SOCK_STREAM))
            assert seen(site.client, socket.SOCK_STREAM) == CLIENT
            assert seen(site.client, socket.SOCK_DGRAM) == CLIENT


_ASK = f"""
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET6, kind) as sock:
        sock.settimeout(2)
        sock.connect(("{VIP}", 80))
        if kind is socket.SOCK_DGRAM:
            sock.send(b"?")
        print(sock.recv(100).decode(), sock.getpeername()[0])
"""


def test_processes_of_the_node_reach_it_and_see_the_frontend_alone(site: Lab, running: Running) -> None:
    manifest = balancer({"primary": True}, BACKENDS["backend1"], mode="Off")
    manifest["spec"]["socketLB"] = {"enabled": True}
    running.apply(manifest)
    running.wait_ready("ServiceLB", "six")
    with serving(site.backends["backend1"]):
        said = site.on_node("python3", "-c", _ASK).stdout.splitlines()
    assert said == [f"{BACKENDS['backend1'].replace('::2', '::1')} {VIP}"] * 2


def test_services_are_served_to_clients_and_processes(site: Lab, running: Running) -> None:
    ports = [
        {"name": name, "protocol": protocol, "port": 80, "nodePort": 30080}
        for name, protocol in (("http", "TCP"), ("dns", "UDP"))
    ]
    of_pods = [{"name": port["name"], "protocol": port["protocol"], "port": PORT} for port in ports]
    cluster = balancer({"all": True})
    cluster["spec"] = {"interfaces": {"all": True}, "services": {"all": True}}
    for each in (
        cluster,
        service(clusterIP=VIP, type="NodePort", ports=ports),
        endpoint_slice(BACKENDS["backend1"], ports=of_pods),
    ):
        running.apply(each)
    running.wait_ready("ServiceLB", "six")
    own = BACKENDS["backend1"].replace("::2", "::1")
    with serving(site.backends["backend1"]):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            wait_for("an answer", lambda kind=kind: seen(site.client, kind, (NODE, 30080)) == own)  # type: ignore[misc]
        assert site.on_node("python3", "-c", _ASK).stdout.splitlines() == [f"{own} {VIP}"] * 2


def test_without_backends_clients_are_refused_at_once(site: Lab, running: Running) -> None:
    running.apply(balancer({"primary": True}))
    running.wait_ready("ServiceLB", "six")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with pytest.raises(ConnectionRefusedError):
            seen(site.client, kind)
