"""Host ports of a node's pods: which places lead to them, and who has a place that several ask for."""

from __future__ import annotations

from typing import Any

import pytest

from kubebee.lb.model import Reserved
from kubebee.lb.services.wanted import Selection, ServicesWanted
from support.services import NODE_ADDRESSES, OLD, VIP, YOUNG, Site, endpoint_slice, host_port, pod, service

NODE, NODE6 = NODE_ADDRESSES
TO_POD = ["10.1.0.7:80"]


def test_a_host_port_is_served_on_all_addresses_of_the_node_and_on_loopback_for_the_host() -> None:
    site = Site(pod("web-0", host_port()))
    assert site.places == {f"{NODE}:8000/TCP", "127.0.0.1:8000/TCP"}
    assert site.served(NODE, 8000) == site.served("127.0.0.1", 8000) == TO_POD
    assert site.frontend("127.0.0.1", 8000).sockets_only
    assert not site.frontend(NODE, 8000).sockets_only
    assert site.frontend(NODE, 8000).owner == "Pod/default/web-0:http"


def test_a_pod_of_both_families_is_served_in_both() -> None:
    site = Site(pod("web-0", host_port(), address=("10.1.0.7", "fd00:1::7")))
    places = {f"{NODE}:8000/TCP", "127.0.0.1:8000/TCP", f"[{NODE6}]:8000/TCP", "[::1]:8000/TCP"}
    assert site.places == places
    assert site.served(NODE6, 8000) == ["[fd00:1::7]:80"]


@pytest.mark.parametrize(
    ("host_ip", "places"),
    [
        ("0.0.0.0", {f"{NODE}:8000/TCP", "127.0.0.1:8000/TCP"}),  # noqa: S104
        ("::", {f"[{NODE6}]:8000/TCP", "[::1]:8000/TCP"}),
        (NODE, {f"{NODE}:8000/TCP"}),
        ("192.0.2.9", {"192.0.2.9:8000/TCP"}),
        (NODE6, {f"[{NODE6}]:8000/TCP"}),
        ("127.0.0.1", {"127.0.0.1:8000/TCP"}),
    ],
)
def test_a_host_ip_bounds_where(host_ip: str, places: set[str]) -> None:
    assert Site(pod("a", host_port(hostIP=host_ip), address=("10.1.0.7", "fd00:1::7"))).places == places


@pytest.mark.parametrize(("host_ip", "only"), [("127.0.0.1", True), ("127.0.0.5", True), (NODE, False)])
def test_a_loopback_address_is_for_the_host_alone(host_ip: str, only: bool) -> None:
    assert Site(pod("a", host_port(hostIP=host_ip))).frontend(host_ip, 8000).sockets_only is only


def test_what_processes_of_the_host_cannot_bind_is_the_port_or_the_one_address() -> None:
    site = Site(pod("a", host_port()), pod("b", host_port(9000, hostIP=NODE), address="10.1.0.8"))
    assert site.frontend("127.0.0.1", 8000).reserved is Reserved.PORT
    assert site.frontend(NODE, 8000).reserved is Reserved.NOTHING
    assert site.frontend(NODE, 9000).reserved is Reserved.PLACE


def test_one_port_on_different_addresses_and_protocols_is_of_three_pods() -> None:
    """Kubernetes' own test of host ports."""
    site = Site(
        pod("pod1", host_port(hostIP="127.0.0.1"), address="10.1.0.1"),
        pod("pod2", host_port(hostIP=NODE), address="10.1.0.2"),
        pod("pod3", host_port(hostIP=NODE, protocol="UDP"), address="10.1.0.3"),
    )
    assert site.served("127.0.0.1", 8000) == ["10.1.0.1:80"]
    assert site.served(NODE, 8000) == ["10.1.0.2:80"]
    assert site.served(NODE, 8000, "UDP") == ["10.1.0.3:80"]
    assert site.left_out == []


@pytest.mark.parametrize(
    "document",
    [
        pod("a", {"containerPort": 80}),
        pod("a", host_port(), hostNetwork=True),
        pod("a", host_port(), nodeName="node-2"),
        pod("a", host_port(), address=""),
        pod("a", host_port(), phase="Succeeded"),
        pod("a", host_port(), phase="Failed"),
        pod("a", initContainers=[{"name": "i", "ports": [host_port()]}]),
    ],
    ids=["no host port", "host network", "elsewhere", "no address", "over", "failed", "init container"],
)
def test_a_pod_that_has_nothing_to_serve_is_not_kept(document: dict[str, Any]) -> None:
    site = Site(pod("a", host_port()), document)
    assert site.places == set()
    assert site.table.host_ports._pods == {}


def test_sidecars_and_pods_that_are_being_deleted_are_served() -> None:
    sidecar = {"name": "s", "restartPolicy": "Always", "ports": [host_port()]}
    assert Site(pod("a", initContainers=[sidecar])).served(NODE, 8000) == TO_POD
    assert Site(pod("a", host_port(), deleted=YOUNG)).served(NODE, 8000) == TO_POD


def test_a_pod_that_changes_its_address_or_goes_is_followed() -> None:
    site = Site(pod("a", host_port()))
    assert site.put(pod("a", host_port(), address="10.1.0.9"))
    assert site.served(NODE, 8000) == ["10.1.0.9:80"]
    assert not site.put(pod("a", host_port(), address="10.1.0.9"))
    assert site.drop(pod("a"))
    assert site.places == set()
    assert site.table.counts == Site().table.counts


def test_of_two_pods_the_older_has_the_port_and_the_other_once_it_is_gone() -> None:
    old, young = pod("old", host_port(), created=OLD), pod("young", host_port(), created=YOUNG)
    site = Site(young, old)
    assert site.frontend(NODE, 8000).owner == "Pod/default/old:http"
    assert site.left_out == [
        f"Pod/default/young:http: {place} is already served for Pod/default/old:http"
        for place in ("127.0.0.1:8000/TCP", f"{NODE}:8000/TCP")
    ]
    site.drop(old)
    assert site.frontend(NODE, 8000).owner == "Pod/default/young:http"


def test_a_pod_that_ends_gives_way_to_the_one_that_follows_it() -> None:
    site = Site(pod("old", host_port(), created=OLD, deleted=YOUNG), pod("new", host_port(), created=YOUNG))
    assert site.frontend(NODE, 8000).owner == "Pod/default/new:http"


@pytest.mark.parametrize(
    ("fields", "port", "owner"),
    [
        ({"type": "NodePort", "ports": [{"port": 80, "nodePort": 8000}]}, 8000, "Service/default/web:80"),
        ({"externalIPs": [NODE]}, 80, "Pod/default/web-0:http"),
        ({"status": {"loadBalancer": {"ingress": [{"ip": NODE}]}}}, 80, "Service/default/web:http"),
    ],
    ids=["node port", "external address", "load balancer's address"],
)
def test_a_host_port_comes_after_what_the_cluster_gave_and_before_external_addresses(
    fields: dict[str, Any], port: int, owner: str
) -> None:
    site = Site(service(created=YOUNG, **fields), pod("web-0", host_port(port), created=OLD))
    assert site.frontend(NODE, port).owner == owner
    assert len(site.left_out) >= 1


def test_a_pod_and_a_service_of_one_name_are_two() -> None:
    site = Site(service("web"), endpoint_slice("10.1.0.1"), pod("web", host_port()))
    assert site.served(VIP) == ["10.1.0.1:8080"]
    assert site.served(NODE, 8000) == TO_POD
    site.drop(pod("web"))
    assert site.places == {f"{VIP}:80/TCP"}


def test_only_a_service_lb_that_takes_kube_proxys_place_serves_host_ports() -> None:
    some = ServicesWanted((Selection("some"),))
    assert Site(pod("a", host_port()), wanted=some).places == set()
    site = Site(pod("a", host_port()))
    site.table.want(some)
    assert site.table.refresh()
    assert site.places == set()


def test_addresses_of_the_node_are_followed() -> None:
    site = Site(pod("a", host_port()))
    site.table.put_facts(site.table.facts._replace(addresses=(bytes((192, 0, 2, 1)),)))
    site.table.refresh()
    assert site.places == {"192.0.2.1:8000/TCP", "127.0.0.1:8000/TCP"}


def test_host_ports_are_counted_once_whatever_their_addresses() -> None:
    site = Site(pod("a", host_port(), host_port(53, protocol="UDP"), address=("10.1.0.7", "fd00:1::7")))
    assert site.table.counts.host_ports == 2
    assert site.table.counts.services == 0


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (host_port(hostIP="localhost"), "hostPort 8000: hostIP 'localhost' is no IP address"),
        (host_port(protocol="ICMP"), "hostPort 8000: protocol 'ICMP' is not balanced"),
        (host_port(70000), "hostPort 70000, containerPort 80: not within 1-65535"),
    ],
)
def test_what_cannot_be_served_of_a_pod_is_said_and_the_rest_is_served(
    port: dict[str, Any], text: str
) -> None:
    site = Site(pod("a", host_port(9000), port))
    assert site.served(NODE, 9000) == TO_POD
    assert site.warnings == f"Pod default/a: {text}"
