"""`kubebee agent` serves a cluster's Services: by its API server, without it, and thousands of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, NODE, Lab, http_get
from lab.traffic import http_ask, tcp_connect
from support.api_server import ApiServer
from support.node_agent import NODE_NAME, NodeAgent, served
from support.running import wait_for
from support.services import endpoint_slice, service
from support.site import policy

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
BOTH = set(BACKENDS)
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
CLUSTER_IP = "10.96.0.10"
NODE_PORT = 30080
WEB = service(
    clusterIP=CLUSTER_IP, type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": NODE_PORT}]
)
VIP = "10.200.0.10"
_ASK = """
import urllib.request
for _ in range({times}):
    try:
        print(urllib.request.urlopen("http://{address}/", timeout=2).read().decode().strip())
    except OSError as error:
        print("")
"""


def balancer(*backends: str) -> dict[str, Any]:
    """A ServiceLB of all Services, and of VIP:80 if there are backends."""
    members = [{"address": address, "port": 80} for address in backends]
    frontends = [{"name": "web", "address": VIP, "port": 80, "backends": members}] if backends else []
    spec = {"interfaces": {"all": True}, "services": {"all": True}, "frontends": frontends}
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "all"},
        "spec": spec,
    }


def behind(*addresses: str, of: str = "web") -> dict[str, Any]:
    return endpoint_slice(*addresses, of=of, ports=[{"name": "http", "port": 80}])


def asked(lab: Lab, address: str, times: int = 20) -> set[str]:
    """Who answers processes of the node; "" where a connection failed."""
    done = lab.on_node("python3", "-c", _ASK.format(address=address, times=times), check=False)
    return set(done.stdout.splitlines())


@pytest.fixture
def api(lab: Lab) -> Iterator[ApiServer]:
    with served(lab) as server:
        server.put(
            {
                "kind": "Node",
                "metadata": {"name": NODE_NAME},
                "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
            }
        )
        yield server


@pytest.fixture
def agent(lab: Lab, api: ApiServer, tmp_path: Path) -> Iterator[NodeAgent]:
    """An agent that is not started."""
    made = NodeAgent(lab, api, tmp_path)
    yield made
    if made.process is not None:
        made.kill()


def start(agent: NodeAgent, api: ApiServer, *manifests: dict[str, Any]) -> None:
    """Start with these resources and wait until they run."""
    api.set_spec(NODE_NAME, [api.put_bundle(manifest) for manifest in manifests])
    agent.start()
    for manifest in manifests:
        agent.wait_running(manifest["metadata"]["name"])


def test_services_are_served_to_the_nodes_processes_and_by_node_port_to_others(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    api.put(WEB, behind(ONE, TWO))
    start(agent, api, balancer())
    assert asked(lab, CLUSTER_IP) == BOTH
    assert {http_get(lab.client, NODE, NODE_PORT) for _ in range(30)} == BOTH
    assert agent.metric("kubebee_services") == 1
    assert agent.metric("kubebee_services_endpoints") == 2
    assert agent.metric("kubebee_services_synced") == 1


def test_changes_of_services_are_in_force_without_a_pass_over_everything(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    api.put(WEB, behind(ONE))
    start(agent, api, balancer())
    passes = agent.metric("kubebee_reconcile_seconds_count")
    api.put(behind(TWO))
    wait_for("the second answers", lambda: asked(lab, CLUSTER_IP) == {"backend2"})
    api.put(service("api", clusterIP="10.96.0.11"), behind(ONE, of="api"))
    wait_for("the new one answers", lambda: asked(lab, "10.96.0.11") == {"backend1"})
    api.drop(WEB)
    wait_for("the old one is gone", lambda: asked(lab, CLUSTER_IP, times=1) == {""})
    assert agent.metric("kubebee_reconcile_seconds_count") == passes


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_a_restart_without_an_api_server_tears_nothing_down_and_takes_up_news_later(
    lab: Lab, api: ApiServer, agent: NodeAgent, silent: bool
) -> None:
    gone = service("gone", clusterIP="10.96.0.99")
    api.put(WEB, behind(ONE), gone, behind(TWO, of="gone"))
    start(agent, api, balancer(TWO))
    wait_for("it is known", lambda: asked(lab, "10.96.0.99") == {"backend2"})
    with tcp_connect(lab.client, NODE, NODE_PORT) as connection:
        assert http_ask(connection) == "backend1"
        agent.stop(signal.SIGKILL)
        with api.away(silent=silent):
            agent.start()
            agent.wait_ready_by_probe()
            wait_for("it knows that it knows nothing", lambda: agent.metric("kubebee_services_synced") == 0)
            lab.on_node("ip", "link", "add", "other0", "type", "bridge")  # gives it passes to make
            lab.on_node("ip", "link", "del", "other0")
            assert asked(lab, CLUSTER_IP) == {"backend1"}
            assert asked(lab, "10.96.0.99") == {"backend2"}
            assert asked(lab, VIP) == {"backend2"}
            assert http_ask(connection) == "backend1"
            api.drop(gone)
            api.put(behind(ONE, TWO))
        wait_for("news are in force", lambda: asked(lab, CLUSTER_IP) == BOTH)
        wait_for("what went is gone", lambda: asked(lab, "10.96.0.99", times=1) == {""})
        assert http_ask(connection) == "backend1"
    agent.wait_running("all")


def test_a_right_that_is_missing_is_said_and_explicit_frontends_are_served(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    api.put(WEB, behind(ONE))
    api.refuse_path(SLICES, 403)
    api.set_spec(NODE_NAME, [api.put_bundle(balancer(TWO))])
    agent.start()
    failure = wait_for("it is said", lambda: agent.resource_status("all").get("failure"))
    assert failure["reason"] == "ApiRefused"
    assert "endpointslices" in failure["message"]
    assert "loader.services" in failure["hint"]
    wait_for("explicit ones are served", lambda: asked(lab, VIP) == {"backend2"})
    api.refuse_path(SLICES, 0)
    agent.wait_running("all")
    assert asked(lab, CLUSTER_IP) == {"backend1"}


def test_a_host_policy_is_for_the_addresses_of_services_too(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    api.put(WEB, behind(ONE))
    start(agent, api, balancer(), policy("edge", "Deny", port="80"))
    with pytest.raises(TimeoutError):
        http_get(lab.client, CLUSTER_IP)
    api.put(service("api", clusterIP="10.96.0.11"), behind(ONE, of="api"))
    wait_for("it is served", lambda: asked(lab, "10.96.0.11") == {"backend1"})
    with pytest.raises(TimeoutError):
        http_get(lab.client, "10.96.0.11")


def sizes(agent: NodeAgent) -> dict[str, int]:
    """Entries of the load balancer's maps that are pinned; the newest of each name."""
    rows = agent.bpftool("map", "show", "-f")
    return {row["name"]: row["max_entries"] for row in rows if row.get("pinned")}


def test_maps_grow_with_the_services_and_no_connection_notices(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    api.put(WEB, behind(ONE))
    start(agent, api, balancer())
    before = sizes(agent)
    many = [service(f"s{i}", clusterIP=f"10.97.{i >> 8}.{i & 255}") for i in range(1, 4001)]
    slices = [behind(ONE, TWO, of=f"s{i}") for i in range(1, 4001)]
    with tcp_connect(lab.client, NODE, NODE_PORT) as connection:
        assert http_ask(connection) == "backend1"
        api.put(*slices, *many)
        wait_for("all are served", lambda: agent.metric("kubebee_services") == 4001)
        wait_for("the last answers", lambda: asked(lab, "10.97.15.160") == BOTH)
        assert http_ask(connection) == "backend1"
    after = sizes(agent)
    assert after["kb_lb_fe"] > before["kb_lb_fe"]
    assert after["kb_lb_slots"] > before["kb_lb_slots"]
    assert http_get(lab.client, NODE, NODE_PORT) == "backend1"
    agent.wait_running("all")
