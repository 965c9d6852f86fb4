"""How a ServiceLB chooses: clients outside and processes of the node keep their backend, if asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get
from support.running import KUBEBEE, Running, wait_for

pytestmark = pytest.mark.root

CLIENT_IP = {"type": "ClientIP", "timeoutSeconds": 600}
_ASK = """
import urllib.request
for _ in range(20):
    print(urllib.request.urlopen("http://{address}/", timeout=5).read().decode().strip())
"""


def balancer(**spec: Any) -> dict[str, Any]:
    members = [{"address": address, "port": 80} for address in BACKENDS.values()]
    frontend = {"name": "web", "address": VIP, "port": 80, "backends": members}
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {"interfaces": {"all": True}, "frontends": [frontend], **spec},
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def answering(lab: Lab) -> tuple[set[str], set[str]]:
    """Who answers 20 connections of the client outside, and of a process of the node."""
    inside = lab.on_node("python3", "-c", _ASK.format(address=VIP), check=False).stdout.splitlines()
    return {http_get(lab.client, VIP) for _ in range(20)}, set(inside)


def test_affinity_is_switched_on_off_and_on_again(lab: Lab, running: Running) -> None:
    for spec, each in (({"sessionAffinity": CLIENT_IP}, 1), ({}, 2), ({"sessionAffinity": CLIENT_IP}, 1)):
        running.apply(balancer(**spec))
        wait_for(f"{each} answer", lambda n=each: [len(names) for names in answering(lab)] == [n, n])


def test_a_servicelb_that_draws_backends_serves_all_of_them(lab: Lab, running: Running) -> None:
    running.apply(balancer(algorithm="Random"))
    wait_for("both answer", lambda: answering(lab)[0] == set(BACKENDS))
    assert running.run(KUBEBEE, "lb", "get", "shop:web").stdout.count("Algorithm:   Random") == 1
