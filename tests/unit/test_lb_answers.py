"""What /healthz and healthCheckNodePorts answer: the words of kube-proxy."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from kubebee.lb.health.answers import Answer, Condition, healthz, of_service
from kubebee.lb.health.writes import PATIENCE_SECONDS, Writes
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.frontends import HealthCheck
from kubebee.lb.services.objects import Metadata, NodeObject, NodeSpec, Taint

WELL = Condition("", 50.0)
NOW = 1_000_000_000.0


def body(answer: Answer) -> dict[str, Any]:
    head, _, text = answer.encoded().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(text)}".encode() in head
    return dict(json.loads(text))


def test_a_node_that_serves_is_up_to_date_now() -> None:
    answer = healthz("/healthz", WELL, NOW)
    time = "2001-09-09T01:46:40+00:00"
    assert body(answer) == {"lastUpdated": time, "currentTime": time, "nodeEligible": True}
    assert answer.encoded().startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")


def test_a_node_that_does_not_serve_says_since_when_and_why() -> None:
    answer = healthz("/healthz", Condition("it is attached nowhere", 50.0), NOW)
    assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert body(answer)["lastUpdated"] == "1970-01-01T00:00:50+00:00"
    assert body(answer)["message"] == "it is attached nowhere"


@pytest.mark.parametrize(("path", "status"), [("/healthz", 503), ("/livez", 200), ("/", 404)])
def test_a_node_that_will_go_is_alive_and_not_for_new_connections(path: str, status: int) -> None:
    assert healthz(path, WELL._replace(eligible=False), NOW).status == status


def test_a_node_about_to_be_removed_is_not_eligible() -> None:
    node = NodeObject(Metadata(name="a"), NodeSpec([Taint("ToBeDeletedByClusterAutoscaler")]))
    assert not NodeFacts.of(node).eligible
    assert not NodeFacts.of(
        NodeObject(Metadata(name="a", deletion_timestamp="2026-01-01T00:00:00Z"))
    ).eligible
    assert NodeFacts.of(NodeObject(Metadata(name="a"), NodeSpec([Taint("other")]))).eligible


@pytest.mark.parametrize(("endpoints", "why", "status"), [(2, "", 200), (0, "", 503), (2, "broken", 503)])
def test_a_service_is_served_here_by_local_endpoints_and_a_load_balancer_that_works(
    endpoints: int, why: str, status: int
) -> None:
    answer = of_service([HealthCheck("shop", "web", 31000, endpoints)], Condition(why, 0.0))
    assert answer.status == status
    assert body(answer) == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": not why,
    }
    assert f"X-Load-Balancing-Endpoint-Weight: {endpoints}\r\n".encode() in answer.encoded()


def test_a_head_gets_no_body() -> None:
    assert healthz("/healthz", WELL, NOW).encoded(body=False).endswith(b"\r\n\r\n")


def test_writes_that_fail_for_a_while_are_no_trouble_yet() -> None:
    writes = Writes()
    writes.succeeded(100.0)
    writes.failed("ENOMEM", 200.0)
    writes.failed("ENOMEM", 205.0)
    assert writes.trouble(200.0 + PATIENCE_SECONDS - 1) == ""
    assert writes.trouble(200.0 + PATIENCE_SECONDS) == "changes can't be written: ENOMEM"
    writes.succeeded(300.0)
    assert (writes.trouble(400.0), writes.last) == ("", 300.0)


def test_a_first_write_that_fails_is_trouble_at_once() -> None:
    writes = Writes()
    writes.failed("ENOMEM", 200.0)
    assert writes.trouble(200.0)
