"""healthzPort and healthCheckNodePort of a running kubebee, asked from outside."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, NODE, Lab
from support.running import Running, wait_for
from support.services import endpoint, endpoint_slice, service

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
HEALTHZ, CHECK = 10256, 31000


def balancer(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "cluster"},
        "spec": {"interfaces": {"all": True}, "services": {"all": True}, "healthzPort": HEALTHZ, **spec},
    }


LOCAL = service(
    type="LoadBalancer",
    externalTrafficPolicy="Local",
    healthCheckNodePort=CHECK,
    ports=[{"name": "http", "port": 80, "nodePort": 30080}],
)


def behind(*names: tuple[str, str]) -> dict[str, Any]:
    """Endpoints: (address, node)."""
    found = (endpoint(address, node=node) for address, node in names)
    return endpoint_slice(*found, name="web", ports=[{"name": "http", "port": 80}])


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def ask(lab: Lab, port: int, path: str = "/healthz", method: str = "GET") -> tuple[int, dict[str, Any]]:
    """Status and content, as a client outside gets them; (0, {}) if nobody listens."""

    def look() -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(NODE, port, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or "{}")
        except ConnectionRefusedError:
            return 0, {}
        finally:
            connection.close()

    return lab.client.call(look)


def test_a_node_says_that_it_serves_and_whether_it_has_endpoints(lab: Lab, running: Running) -> None:
    here = "node1"
    running.apply(balancer())
    running.wait_ready("ServiceLB", "cluster")
    status, content = wait_for("an answer", lambda: ask(lab, HEALTHZ))
    assert (status, content["nodeEligible"]) == (200, True)
    assert ask(lab, HEALTHZ, method="HEAD") == (200, {})
    assert ask(lab, HEALTHZ, "/nowhere")[0] == 404
    assert ask(lab, CHECK)[0] == 0
    running.apply(LOCAL)
    running.apply(behind((ONE, here), (TWO, "elsewhere")))
    name = {"namespace": "default", "name": "web"}
    content = {"service": name, "localEndpoints": 1, "serviceProxyHealthy": True}
    wait_for("a local endpoint", lambda: ask(lab, CHECK, "/any") == (200, content))
    running.apply(behind((TWO, "elsewhere")))
    wait_for("no local endpoint", lambda: ask(lab, CHECK) == (503, content | {"localEndpoints": 0}))
    running.delete("service-web.yaml")
    wait_for("a closed port", lambda: ask(lab, CHECK)[0] == 0)
    running.apply(balancer(healthzPort=10257))
    wait_for("the other port", lambda: ask(lab, 10257)[0] == 200)
    assert ask(lab, HEALTHZ)[0] == 0


def test_a_load_balancer_that_is_attached_nowhere_is_not_well(lab: Lab, running: Running) -> None:
    running.apply(balancer(interfaces={"names": ["absent0"]}, socketLB={"enabled": False}))
    status, content = wait_for("an answer", lambda: [*ask(lab, HEALTHZ)] if ask(lab, HEALTHZ)[0] else None)
    assert status == 503
    assert "message" in content


def test_a_port_that_somebody_else_has_is_said_once_and_taken_when_it_is_free(
    lab: Lab, running: Running
) -> None:
    def taken() -> list[dict[str, Any]]:
        return [event for event in running.events() if event["reason"] == "HealthPortTaken"]

    with lab.node.network.socket(socket.SOCK_STREAM) as other:
        other.bind((NODE, HEALTHZ))
        other.listen()
        running.apply(balancer())
        wait_for("it is said", taken)
    wait_for("the port", lambda: ask(lab, HEALTHZ)[0] == 200)
    assert [(event["count"], str(HEALTHZ) in event["message"]) for event in taken()] == [(1, True)]


def test_a_restarted_loader_answers_again(lab: Lab, running: Running) -> None:
    running.apply(balancer())
    wait_for("an answer", lambda: ask(lab, HEALTHZ)[0] == 200)
    running.stop(signal.SIGKILL)
    assert ask(lab, HEALTHZ)[0] == 0
    running.start()
    wait_for("an answer", lambda: ask(lab, HEALTHZ)[0] == 200)
