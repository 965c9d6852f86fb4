"""Services and EndpointSlices of a folder: a running kubebee serves them as kube-proxy serves a cluster's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, NODE, VIP, Lab, http_get
from support.running import KUBEBEE, Running, wait_for
from support.services import endpoint, endpoint_slice, ingress, service

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
BOTH = set(BACKENDS)
CLUSTER_IP, OTHER_IP = "10.96.0.10", "10.96.0.11"
ALL: dict[str, Any] = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "cluster"},
    "spec": {"interfaces": {"all": True}, "services": {"all": True}},
}
WEB = service(clusterIP=CLUSTER_IP)


def behind(*addresses: str, **more: Any) -> dict[str, Any]:
    """The Service's endpoints; they listen on port 80."""
    return endpoint_slice(*addresses, ports=[{"name": "http", "port": 80}], **more)


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        started.apply(ALL)
        yield started


def asked_on_node(lab: Lab, address: str, port: int = 80, times: int = 20) -> Counter[str]:
    """Who answers processes of the node; "" where the connection failed."""
    done = lab.on_node("python3", "-c", _ASK.format(address=address, port=port, times=times), check=False)
    return Counter(done.stdout.splitlines())


_ASK = """
import urllib.request
for _ in range({times}):
    try:
        print(urllib.request.urlopen("http://{address}:{port}/", timeout=2).read().decode().strip())
    except OSError as error:
        print("")
"""


def frontend_maps(running: Running) -> list[int]:
    """Ids of the maps of frontends that the node has pinned."""
    rows = running.bpftool("map", "show", "-f")
    return [row["id"] for row in rows if row.get("name") == "kb_lb_fe" and row.get("pinned")]


def test_a_cluster_ip_answers_processes_of_the_node(lab: Lab, running: Running) -> None:
    running.apply(WEB)
    running.apply(behind(ONE, TWO))
    running.wait_ready("ServiceLB", "cluster")
    wait_for("both answer", lambda: set(asked_on_node(lab, CLUSTER_IP)) == BOTH)


def test_a_node_port_answers_clients_from_outside_and_loopback_of_the_node(
    lab: Lab, running: Running
) -> None:
    port = {"name": "http", "port": 80, "nodePort": 30080}
    running.apply(service(clusterIP=CLUSTER_IP, type="NodePort", ports=[port]))
    running.apply(behind(ONE, TWO))
    running.wait_ready("ServiceLB", "cluster")  # it is on all interfaces, those of the backends too
    wait_for("a first answer", lambda: http_get(lab.client, NODE, 30080))
    assert {http_get(lab.client, NODE, 30080) for _ in range(30)} == BOTH
    assert set(asked_on_node(lab, "127.0.0.1", 30080)) == BOTH


def test_edits_of_endpoints_are_followed_and_established_connections_stay(lab: Lab, running: Running) -> None:
    running.apply(WEB)
    running.apply(behind(ONE, TWO))
    wait_for("both answer", lambda: set(asked_on_node(lab, CLUSTER_IP)) == BOTH)
    running.apply(behind(TWO))
    wait_for("only the second answers", lambda: set(asked_on_node(lab, CLUSTER_IP)) == {"backend2"})
    running.apply(behind(endpoint(TWO, ready=False)))
    wait_for("none answers", lambda: set(asked_on_node(lab, CLUSTER_IP, times=3)) == {""})


def test_a_broken_edit_is_said_and_the_version_before_goes_on(lab: Lab, running: Running) -> None:
    running.apply(WEB)
    running.apply(behind(ONE))
    wait_for("it answers", lambda: set(asked_on_node(lab, CLUSTER_IP)) == {"backend1"})
    running.apply({**behind(TWO), "ports": [{"name": "http", "port": "eighty"}]})
    wait_for("it is said", lambda: any("$.ports[0].port" in event["message"] for event in running.events()))
    running.apply(": : not YAML", "service-web.yaml")
    wait_for("it is said", lambda: any(e["reason"] == "InvalidYAML" for e in running.events()))
    assert set(asked_on_node(lab, CLUSTER_IP)) == {"backend1"}


def test_a_service_that_is_removed_is_served_no_more_and_others_are(lab: Lab, running: Running) -> None:
    running.apply(WEB)
    running.apply(service("api", clusterIP=OTHER_IP))
    running.apply(behind(ONE))
    running.apply(behind(TWO, of="api"))
    wait_for(
        "both answer", lambda: asked_on_node(lab, CLUSTER_IP)[""] + asked_on_node(lab, OTHER_IP)[""] == 0
    )
    running.delete("service-web.yaml")
    wait_for("the first is gone", lambda: set(asked_on_node(lab, CLUSTER_IP, times=1)) == {""})
    assert set(asked_on_node(lab, OTHER_IP)) == {"backend2"}


def test_services_are_served_while_kubebee_is_away_and_adopted_when_it_is_back(
    lab: Lab, running: Running
) -> None:
    running.apply(WEB)
    running.apply(behind(ONE))
    wait_for("it answers", lambda: set(asked_on_node(lab, CLUSTER_IP)) == {"backend1"})
    before = frontend_maps(running)
    running.kill()
    assert set(asked_on_node(lab, CLUSTER_IP)) == {"backend1"}
    running.apply(behind(TWO))
    running.start()
    wait_for("the edit is in force", lambda: set(asked_on_node(lab, CLUSTER_IP)) == {"backend2"})
    assert frontend_maps(running) == before


def test_of_two_services_with_one_address_the_younger_is_named(lab: Lab, running: Running) -> None:
    address = "10.200.0.77"
    running.apply(
        service("elder", created="2026-01-01T00:00:00Z", clusterIP=CLUSTER_IP, externalIPs=[address])
    )
    running.apply(
        service("younger", created="2026-02-02T00:00:00Z", clusterIP=OTHER_IP, externalIPs=[address])
    )
    running.apply(behind(ONE, of="elder"))
    running.apply(behind(TWO, of="younger"))
    text = f"Service/default/younger:http: {address}:80/TCP is already served for Service/default/elder:http"
    wait_for("it is said", lambda: any(text in event["message"] for event in running.events()))
    wait_for("the elder answers", lambda: set(asked_on_node(lab, address)) == {"backend1"})
    assert set(asked_on_node(lab, OTHER_IP)) == {"backend2"}


def test_services_are_chosen_by_namespace_and_load_balancers_addresses_by_class(
    lab: Lab, running: Running
) -> None:
    balanced, wanted = "10.200.0.78", {"all": True, "namespaces": ["shop"], "loadBalancerClasses": ["a.b/c"]}
    running.apply({**ALL, "spec": {**ALL["spec"], "services": wanted}})
    for name, address in (("web", CLUSTER_IP), ("api", OTHER_IP)):
        document = service(name, clusterIP=address, status=ingress(balanced), loadBalancerClass="a.b/other")
        slices = behind(ONE, of=name)
        for one in (document, slices):
            one["metadata"]["namespace"] = "shop" if name == "web" else "default"
            running.apply(one)
    wait_for("it answers", lambda: set(asked_on_node(lab, CLUSTER_IP, times=3)) == {"backend1"})
    listed = running.run(KUBEBEE, "lb", "list").stdout
    assert (CLUSTER_IP in listed, OTHER_IP in listed, balanced in listed) == (True, False, False)


def test_a_frontend_that_refers_to_a_service_follows_its_endpoints(lab: Lab, running: Running) -> None:
    frontend = {"name": "web", "address": VIP, "port": 443, "service": {"name": "web", "port": "http"}}
    running.apply({**ALL, "spec": {"interfaces": {"all": True}, "frontends": [frontend]}})
    text = "ServiceLB/cluster:web: there is no such Service"
    wait_for("it is said", lambda: any(text in event["message"] for event in running.events()))
    running.apply(WEB)
    running.apply(behind(ONE))
    wait_for("it answers outside", lambda: http_get(lab.client, VIP, 443) == "backend1")
    assert set(asked_on_node(lab, VIP, 443)) == {"backend1"}
    assert set(asked_on_node(lab, CLUSTER_IP, times=1)) == {""}
    running.apply(behind(TWO))
    wait_for("the other answers", lambda: http_get(lab.client, VIP, 443) == "backend2")
    running.kill()
    running.start()
    running.wait_ready("ServiceLB", "cluster")
    assert http_get(lab.client, VIP, 443) == "backend2"
