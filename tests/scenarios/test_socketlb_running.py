"""Socket LB of a running kubebee: its hooks, and whose sockets it serves."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubebee.bpf import features
from lab import BACKENDS, VIP, Lab
from lab.netns import Namespace
from support.running import KUBEBEE, Running, wait_for

pytestmark = pytest.mark.root

CALLS = [
    *("inet4_connect", "inet6_connect", "udp4_sendmsg", "udp4_recvmsg", "udp6_recvmsg"),
    *("inet4_getpeername", "inet6_getpeername"),
]
BINDS = ["inet4_post_bind", "inet6_post_bind"]
CONNECT = f"import socket; socket.socket().connect(({VIP!r}, 80))"
REFUSED, UNREACHABLE = "[Errno 111]", "[Errno 101]"


def shop(**socket_lb: object) -> dict[str, Any]:
    """A ServiceLB of a frontend without backends: whoever is served is refused."""
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {
            "interfaces": {"names": ["eth0"]},
            "frontends": [{"name": "web", "address": VIP, "port": 80}],
            "socketLB": socket_lb,
        },
    }


def resolver(*backends: str) -> dict[str, Any]:
    """A ServiceLB of a UDP frontend."""
    manifest = shop()
    members = [{"address": each, "port": 53} for each in backends]
    frontend = {"name": "dns", "address": VIP, "port": 53, "protocol": "UDP", "backends": members}
    manifest["spec"]["frontends"] = [frontend]
    return manifest


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


@pytest.fixture
def pod(lab: Lab) -> Iterator[Namespace]:
    with Namespace("pod") as made:
        yield made


def seen(running: Running) -> str:
    """What `kubebee status` shows, on a wide terminal."""
    return running.run("env", "COLUMNS=200", KUBEBEE, "status", "-f", str(running.manifests)).stdout


def pod_command(lab: Lab, pod: Namespace, script: str) -> list[str]:
    """A process in the node's cgroup, and in a network namespace of its own."""
    join = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    return ["sh", "-c", join, str(lab.node.cgroup), *pod.command(["python3", "-c", script])]


def in_pod(lab: Lab, pod: Namespace, script: str) -> str:
    """What such a process says."""
    argv = pod_command(lab, pod, script)
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stderr


def test_every_hook_is_attached_and_shown(running: Running) -> None:
    running.apply(shop())
    status = running.wait_ready("ServiceLB", "shop")
    points = {(each["type"], each["point"].split()[-1]) for each in status.attachments}
    wanted = {("CgroupSockAddr", hook) for hook in CALLS} | {("CgroupSock", hook) for hook in BINDS}
    assert wanted <= points
    shown = seen(running)
    assert f"({len(CALLS)} hooks)" in shown
    assert all(hook in shown for hook in BINDS)


def test_processes_in_pods_are_served_unless_the_host_alone_is(
    lab: Lab, running: Running, pod: Namespace
) -> None:
    running.apply(shop())
    running.wait_ready("ServiceLB", "shop")
    assert REFUSED in in_pod(lab, pod, CONNECT)
    running.apply(shop(hostNamespaceOnly=True))
    running.wait_ready("ServiceLB", "shop", generation=2)
    assert UNREACHABLE in in_pod(lab, pod, CONNECT)
    assert REFUSED in lab.on_node("python3", "-c", CONNECT, check=False).stderr


def test_a_change_of_whom_it_serves_exchanges_programs_in_place(running: Running) -> None:
    running.apply(shop())
    before = running.wait_ready("ServiceLB", "shop")
    running.apply(shop(hostNamespaceOnly=True))
    after = running.wait_ready("ServiceLB", "shop", generation=2)
    links = [{each["linkId"] for each in status.attachments} for status in (before, after)]
    assert links[0] == links[1]


def test_refused_calls_are_counted_by_reason(lab: Lab, running: Running) -> None:
    running.apply(shop())
    running.wait_ready("ServiceLB", "shop")
    lab.on_node("python3", "-c", CONNECT, check=False)
    wait_for("a count", lambda: "lb sock no backend" in seen(running))


WAIT = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(({VIP!r}, 53))
print("connected", flush=True)
try:
    s.recv(1)
except OSError as error:
    print(error.errno)
"""


@contextlib.contextmanager
def waiting(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A client that waits for an answer which never comes."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "connected\n"
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(not features.feature("sock_destroy").available, reason="no bpf_sock_destroy")
def test_udp_clients_of_a_backend_that_left_are_cut_off_at_once(
    lab: Lab, running: Running, pod: Namespace
) -> None:
    pod.ip("route", "add", "local", BACKENDS["backend1"], "dev", "lo")
    running.apply(resolver(BACKENDS["backend1"]))
    running.wait_ready("ServiceLB", "shop")
    on_node = lab.node_command(["python3", "-c", WAIT])
    with waiting(on_node) as one, waiting(pod_command(lab, pod, WAIT)) as other:
        running.apply(resolver(BACKENDS["backend2"]))
        for client in (one, other):
            assert client.communicate(timeout=60)[0] == f"{errno.ECONNABORTED}\n"
    assert "ended" in running.log.read_text()
