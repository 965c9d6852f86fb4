"""Connections of a backend that was removed end when it has drained, in a running kubebee."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get, tcp_connect
from lab.traffic import http_ask
from support.running import Running, wait_for

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]


def shop(*backends: str, drain: int, mode: str = "SNAT") -> dict[str, Any]:
    members = [{"address": address, "port": 80} for address in backends]
    web = {"name": "web", "address": VIP, "port": 80, "backends": members, "drainSeconds": drain}
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {"interfaces": {"all": True}, "forwarding": {"mode": mode}, "frontends": [web]},
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


@pytest.mark.parametrize("mode", ["SNAT", "DSR"])
def test_a_removed_backend_keeps_its_connections_until_it_has_drained(
    lab: Lab, running: Running, mode: str
) -> None:
    running.apply(shop(ONE, drain=86400, mode=mode))
    running.wait_ready("ServiceLB", "shop")
    with tcp_connect(lab.client, VIP, 80) as old:
        assert http_ask(old) == "backend1"
        running.apply(shop(TWO, drain=86400, mode=mode))
        running.wait_ready("ServiceLB", "shop", generation=2)
        assert http_ask(old) == "backend1"
        assert http_get(lab.client, VIP) == "backend2"
        running.stop(signal.SIGKILL)
        running.start()
        running.wait_ready("ServiceLB", "shop", generation=2)
        assert http_ask(old) == "backend1"
        running.apply(shop(TWO, drain=0, mode=mode))

        def ended() -> bool:
            try:
                return http_ask(old) != "backend1"
            except ConnectionResetError:
                return True

        wait_for("its end", ended)
        assert http_get(lab.client, VIP) == "backend2"
