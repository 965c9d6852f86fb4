"""A running kubebee takes out backends that fail their checks, and takes them in again."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get, tcp_connect
from lab.traffic import http_ask
from support.running import Running, wait_for

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
CHECK = {
    "protocol": "HTTP",
    "path": "/",
    "intervalSeconds": 1,
    "timeoutSeconds": 1,
    "failures": 2,
    "successes": 2,
}


def shop(*backends: str, check: dict[str, object] | None = CHECK, **frontend: object) -> dict[str, Any]:
    """A ServiceLB of VIP:80."""
    members = [{"address": address, "port": 80} for address in backends]
    web = {"name": "web", "address": VIP, "port": 80, "backends": members} | frontend
    if check:
        web["healthCheck"] = check
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {"interfaces": {"all": True}, "frontends": [web]},
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def message(running: Running) -> str:
    return running.status("ServiceLB", "shop").message


def answers(lab: Lab, count: int = 30) -> Counter[str]:
    return Counter(http_get(lab.client, VIP) for _ in range(count))


def test_traffic_leaves_a_backend_that_dies_and_comes_back_with_it(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE, TWO))
    running.wait_ready("ServiceLB", "shop")
    assert set(answers(lab)) == set(BACKENDS)
    with tcp_connect(lab.client, VIP, 80) as connection:
        living = http_ask(connection)
        dying = next(name for name in BACKENDS if name != living)
        lab.stop_backend(dying)
        wait_for("detection", lambda: "1 of 2 backends" in message(running))
        assert answers(lab, 100) == {living: 100}, "no connection fails once it is known"
        assert f"fail their checks: {BACKENDS[dying]}:80 (" in message(running)
        assert http_ask(connection) == living
    lab.start_backend(dying)
    wait_for("recovery", lambda: "fail their checks" not in message(running))
    assert set(answers(lab)) == set(BACKENDS)
    reasons = [event["reason"] for event in running.events() if event["name"] == "shop"]
    assert {"BackendsUnhealthy", "BackendsHealthy"} <= set(reasons)


def test_a_backend_that_fails_its_check_keeps_the_connections_it_has(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE))
    running.wait_ready("ServiceLB", "shop")
    with tcp_connect(lab.client, VIP, 80) as connection:
        assert http_ask(connection) == "backend1"
        running.apply(shop(ONE, TWO, check=CHECK))
        wait_for("both", lambda: set(answers(lab)) == set(BACKENDS))
        lab.backends["backend1"].run("iptables", "-A", "INPUT", "-p", "tcp", "--syn", "-j", "DROP")
        wait_for("detection", lambda: "1 of 2 backends" in message(running))
        assert set(answers(lab)) == {"backend2"}
        assert http_ask(connection) == "backend1"


def test_when_all_backends_fail_all_serve_and_it_is_said(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE, TWO, check=CHECK | {"port": 9}))
    wait_for("detection", lambda: "all serve on" in message(running))
    assert set(answers(lab)) == set(BACKENDS)


def test_a_restarted_loader_does_not_try_out_a_dead_backend_on_clients(lab: Lab, running: Running) -> None:
    running.apply(shop(ONE, TWO))
    running.wait_ready("ServiceLB", "shop")
    lab.stop_backend("backend1")
    wait_for("detection", lambda: "1 of 2 backends" in message(running))
    running.stop(signal.SIGKILL)
    assert set(answers(lab)) == {"backend2"}
    running.start()
    wait_for("adoption", lambda: any("adopted" in event["message"] for event in running.events()))
    assert answers(lab, 50) == {"backend2": 50}
