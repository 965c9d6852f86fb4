"""Ranges of ports: each leads to the same port of the backends, or all to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get, is_denied, udp_ask
from support.running import Running, wait_for

pytestmark = pytest.mark.root


def frontend(name: str, port: str, backend_port: int | None, protocol: str = "TCP") -> dict[str, Any]:
    more = {} if backend_port is None else {"port": backend_port}
    members = [{"address": address, **more} for address in BACKENDS.values()]
    return {"name": name, "address": VIP, "port": port, "protocol": protocol, "backends": members}


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def test_a_range_of_ports_is_served_to_its_last(lab: Lab, running: Running) -> None:
    frontends = [frontend("to-one", "8000-8009", 80), frontend("same", "78-80", None)]
    frontends.append(frontend("udp", "52-53", None, "UDP"))
    spec = {"interfaces": {"all": True}, "frontends": frontends}
    document = {"apiVersion": "kubebee.dev/v1alpha1", "kind": "ServiceLB", "metadata": {"name": "shop"}}
    running.apply({**document, "spec": spec})
    wait_for("an answer", lambda: http_get(lab.client, VIP, 8000))
    for port in (8000, 8005, 8009, 80):
        assert {http_get(lab.client, VIP, port) for _ in range(20)} == set(BACKENDS)
    assert udp_ask(lab.client, VIP, 53) in BACKENDS
    assert is_denied(lab.client, VIP, 8010)  # nobody's
    with pytest.raises(ConnectionRefusedError):  # by the backend, where nothing listens
        http_get(lab.client, VIP, 79)
    frontends[0]["port"] = "8003-8004"
    running.apply({**document, "spec": spec})
    wait_for("the rest is gone", lambda: is_denied(lab.client, VIP, 8000))
    assert http_get(lab.client, VIP, 8004) in BACKENDS
