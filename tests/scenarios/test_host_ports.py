"""Host ports of pods: a running kubebee serves them as the portmap plugin does, outside and on the node."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import CLIENT, NODE, Lab, tcp_connect
from lab.netns import Namespace
from support.api_server import ApiServer
from support.node_agent import NODE_NAME, NodeAgent, served
from support.pods import PORT, local_pods, serving
from support.running import KUBEBEE, Running, wait_for
from support.services import YOUNG, endpoint_slice, host_port, pod, service

pytestmark = pytest.mark.root

PODS = ("10.244.1.5", "10.244.1.6", "10.244.1.7")
ONE, TWO, THREE = PODS
HOST_PORT = 54323
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
ALL: dict[str, Any] = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "cluster"},
    "spec": {"interfaces": {"all": True}, "services": {"all": True}},
}
_ASK = """
import socket
with socket.socket(socket.AF_INET, {kind}) as sock:
    sock.settimeout(2)
    sock.bind(("{source}", 0))
    sock.connect(("{address}", {port}))
    sock.send(b"?")
    print(sock.recv(100).decode())
"""


def on_pod(name: str, address: str, **fields: Any) -> dict[str, Any]:
    """A pod of the node that has the host port."""
    more = {key: fields.pop(key) for key in ("created", "deleted", "phase") if key in fields}
    return pod(name, host_port(HOST_PORT, PORT, **fields), address=address, nodeName="node1", **more)


@pytest.fixture
def pods(lab: Lab) -> Iterator[dict[str, Namespace]]:
    with local_pods(lab.node.network, *PODS) as made:
        yield made


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        started.apply(ALL)
        yield started


def from_outside(lab: Lab, kind: socket.SocketKind = TCP, port: int = HOST_PORT) -> str:
    """What the client outside is told: who answers, and the address that it is seen by."""
    if kind is TCP:
        with tcp_connect(lab.client, NODE, port) as connection:
            return connection.recv(100).decode()
    with lab.client.socket(UDP) as sock:
        sock.settimeout(2)
        sock.connect((NODE, port))
        sock.send(b"?")
        return sock.recv(100).decode()


def on_node(lab: Lab, address: str, kind: socket.SocketKind = TCP, source: str = "") -> str:
    """Which pod answers a process of the node; "" for none."""
    script = _ASK.format(kind=int(kind), source=source, address=address, port=HOST_PORT)
    return lab.on_node("python3", "-c", script, check=False).stdout.partition(" ")[0]


def test_one_port_on_different_addresses_and_protocols_leads_to_three_pods(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    """As Kubernetes' own test asks, which names the node's address as the source towards 127.0.0.1."""
    running.apply(on_pod("pod1", ONE, hostIP="127.0.0.1"))
    running.apply(on_pod("pod2", TWO, hostIP=NODE))
    running.apply(on_pod("pod3", THREE, hostIP=NODE, protocol="UDP"))
    running.wait_ready("ServiceLB", "cluster")
    with serving(pods[ONE], name="pod1"), serving(pods[TWO], name="pod2"), serving(pods[THREE], name="pod3"):
        wait_for("a first answer", lambda: from_outside(lab))
        assert from_outside(lab) == f"pod2 {CLIENT}"
        assert from_outside(lab, UDP) == f"pod3 {CLIENT}"
        assert on_node(lab, "127.0.0.1", source=NODE) == "pod1"
        assert on_node(lab, "127.0.0.1") == "pod1"
        assert on_node(lab, NODE) == "pod2"
        assert on_node(lab, NODE, UDP) == "pod3"
    assert not [event for event in running.events() if "LeftOut" in event["reason"]]


def test_a_host_port_is_listed_by_its_pod_and_taken_on_the_node(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    running.apply(on_pod("web-0", ONE))
    with serving(pods[ONE], name="web-0"):
        wait_for("an answer", lambda: from_outside(lab) == f"web-0 {CLIENT}")
        assert on_node(lab, "127.0.0.1") == "web-0"
    assert "Pod/default/web-0:http" in running.run(KUBEBEE, "lb", "list").stdout
    bind = f"import socket; socket.socket().bind(('', {HOST_PORT}))"
    assert "Address already in use" in lab.on_node("python3", "-c", bind, check=False).stderr
    running.delete("pod-web-0.yaml")
    wait_for("it is free", lambda: lab.on_node("python3", "-c", bind, check=False).returncode == 0)


def test_of_two_pods_the_younger_is_named_and_served_once_the_other_ends(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    running.apply(on_pod("old", ONE))
    running.apply(on_pod("young", TWO, created=YOUNG))
    with serving(pods[ONE], name="old"), serving(pods[TWO], name="young"):
        text = f"Pod/default/young:http: {NODE}:{HOST_PORT}/TCP is already served for Pod/default/old:http"
        wait_for("it is said", lambda: any(text in event["message"] for event in running.events()))
        wait_for("the elder answers", lambda: from_outside(lab).startswith("old"))
        running.apply(on_pod("old", ONE, phase="Succeeded"))
        wait_for("the younger answers", lambda: from_outside(lab).startswith("young"))


def test_a_pod_that_cannot_be_read_is_named_by_its_field_and_goes_on_as_it_was(
    lab: Lab, running: Running, pods: dict[str, Namespace]
) -> None:
    running.apply(on_pod("web-0", ONE))
    with serving(pods[ONE], name="web-0"):
        wait_for("an answer", lambda: from_outside(lab))
        bad = on_pod("web-0", TWO)
        bad["spec"]["containers"][0]["ports"][0]["hostPort"] = "eighty"
        running.apply(bad)
        where = "$.spec.containers[0].ports[0].hostPort"
        wait_for("it is said", lambda: any(where in event["message"] for event in running.events()))
        assert from_outside(lab) == f"web-0 {CLIENT}"


# -- in a cluster --------------------------------------------------------------------------------------------


@pytest.fixture
def api(lab: Lab) -> Iterator[ApiServer]:
    with served(lab) as server:
        address = {"type": "InternalIP", "address": NODE}
        server.put(
            {"kind": "Node", "metadata": {"name": NODE_NAME}, "status": {"addresses": [address]}},
        )
        yield server


@pytest.fixture
def agent(lab: Lab, api: ApiServer, tmp_path: Path) -> Iterator[NodeAgent]:
    made = NodeAgent(lab, api, tmp_path)
    api.set_spec(NODE_NAME, [api.put_bundle(ALL)])
    yield made
    if made.process is not None:
        made.kill()


def test_host_ports_outlive_a_restart_that_cannot_list_pods(
    lab: Lab, api: ApiServer, agent: NodeAgent, pods: dict[str, Namespace]
) -> None:
    web = on_pod("web-0", ONE)
    web["spec"]["nodeName"] = NODE_NAME
    api.put(web, service(clusterIP="10.96.0.10"), endpoint_slice(TWO))
    agent.start()
    agent.wait_running("cluster")
    with serving(pods[ONE], name="web-0"):
        wait_for("an answer", lambda: from_outside(lab) == f"web-0 {CLIENT}")
        assert agent.metric("kubebee_host_ports") == 1
        agent.kill()
        api.refuse_path("/api/v1/pods", 403)
        agent.start()
        wait_for("Services are known", lambda: agent.metric("kubebee_services_synced") == 1)
        api.put(service("more", clusterIP="10.96.0.11"))
        wait_for("the change is in force", lambda: agent.metric("kubebee_services") == 2)
        assert from_outside(lab) == f"web-0 {CLIENT}"
        api.refuse_path("/api/v1/pods", 0)
        api.drop(web)
        wait_for("it went", lambda: agent.metric("kubebee_host_ports") == 0)
        wait_for("nothing answers", lambda: not _answers(lab))


def _answers(lab: Lab) -> bool:
    try:
        return bool(from_outside(lab))
    except OSError:
        return False
