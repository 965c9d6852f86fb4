"""The lab: what tests and the quickstart rely on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

from lab import BACKENDS, NODE, VIP, Lab, http_get, is_denied, tcp_connect, udp_ask
from lab.netns import NETNS_DIR
from lab.node import cgroup2_root
from lab.topology import NODE_PORT

pytestmark = pytest.mark.root


def leftovers_of(pid: int) -> list[Path]:
    return [path for folder in (NETNS_DIR, cgroup2_root()) for path in folder.glob(f"kb-{pid}-*")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_client_reaches_each_backend_through_the_node(lab: Lab, backend: str) -> None:
    assert http_get(lab.client, BACKENDS[backend]) == backend
    assert udp_ask(lab.client, BACKENDS[backend], 53) == backend


def test_the_node_has_a_server_of_its_own(lab: Lab) -> None:
    assert http_get(lab.client, NODE, NODE_PORT) == "node"


def test_a_closed_port_is_refused_not_denied(lab: Lab) -> None:
    assert not is_denied(lab.client, NODE, 81)


def test_backend_takes_off_an_outer_header_and_answers_from_the_vip(lab: Lab) -> None:
    client = lab.client.socket(socket.SOCK_DGRAM)
    client.bind(("", 5555))
    client.settimeout(1)
    inner = IP(src="10.1.0.2", dst=VIP) / UDP(sport=5555, dport=53) / b"who"
    outer = IP(src="10.2.1.1", dst=BACKENDS["backend1"], proto=4) / inner
    raw = lab.node.network.socket(socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(bytes(outer), (BACKENDS["backend1"], 0))
    assert client.recvfrom(64) == (b"backend1", (VIP, 53))


def test_the_node_has_a_bpffs_and_a_root_cgroup_of_its_own(lab: Lab) -> None:
    assert "kubebee" not in lab.on_node("ls", "/sys/fs/bpf").stdout
    script = f"mkdir {cgroup2_root()}/inner && cat /proc/self/cgroup"
    assert f"0::/{lab.node.cgroup.name}" in lab.on_node("sh", "-c", script).stdout
    assert (lab.node.cgroup / "inner").is_dir()


def test_a_stopped_backend_refuses_and_a_started_one_answers(lab: Lab) -> None:
    lab.stop_backend("backend2")
    with pytest.raises(ConnectionRefusedError):
        tcp_connect(lab.client, BACKENDS["backend2"], 80)
    lab.start_backend("backend2")
    assert http_get(lab.client, BACKENDS["backend2"]) == "backend2"


def test_a_killed_lab_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    script = "from lab import Lab\nwith Lab(): print('up', flush=True); input()"
    e2e = Path(sys.modules["lab"].__path__[0]).parent
    killed = subprocess.Popen(
        [sys.executable, "-c", script], cwd=e2e, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "up\n"
    assert len(leftovers_of(killed.pid)) == 5  # four namespaces, one cgroup
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with Lab():
        assert leftovers_of(killed.pid) == []
