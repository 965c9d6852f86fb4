"""A node that is a frontend's server under DSR and comes to hold the VIP, with real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubebee.bpf.map import Map
from lab import Lab
from lab.netns import Namespace
from support.running import Running, wait_for

pytestmark = pytest.mark.root

VIP, OWN, PORT = "10.200.0.77", "10.1.0.1", 80
MANIFEST = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "shop"},
    "spec": {
        "interfaces": {"names": ["eth0"]},
        "socketLB": {"enabled": False},
        "forwarding": {"mode": "DSR"},
        "frontends": [
            {"name": "web", "address": VIP, "port": PORT, "backends": [{"address": OWN, "port": PORT}]}
        ],
    },
}


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


@contextlib.contextmanager
def server(host: Namespace) -> Iterator[None]:
    """Tells each client by which address of the host it came, as often as it asks."""
    listening = host.socket()
    listening.bind(("", PORT))
    listening.listen()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(1):
                connection.sendall(connection.getsockname()[0].encode())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def places(lab: Lab) -> int:
    """How many places the datapath takes for the node's own."""
    (pin,) = (lab.node.files / "sys/fs/bpf/kubebee/m").glob("servicelb-*/kb_lb_own@*")
    with Map.from_pin(str(pin)) as opened:
        return sum(any(value) for _, value in opened.items())


def test_connections_live_through_the_vip_becoming_the_nodes_own_and_ceasing_to_be(
    lab: Lab, running: Running
) -> None:
    node = lab.node.network

    def connect() -> socket.socket:
        opened = stack.enter_context(lab.client.socket())
        opened.settimeout(3)
        opened.connect((VIP, PORT))
        return opened

    def asked(connection: socket.socket) -> str:
        connection.sendall(b"?")
        return connection.recv(100).decode()

    with contextlib.ExitStack() as stack:
        stack.enter_context(server(node))
        running.apply(MANIFEST)
        running.wait_ready("ServiceLB", "shop")
        early = connect()
        assert asked(early) == OWN

        node.ip("address", "add", f"{VIP}/32", "dev", "lo")
        wait_for("the node's own", lambda: places(lab) == 1)
        assert asked(connect()) == VIP
        assert asked(early) == OWN

        node.ip("address", "del", f"{VIP}/32", "dev", "lo")
        wait_for("no longer its own", lambda: places(lab) == 0)
        assert asked(connect()) == OWN
        assert asked(early) == OWN


def test_a_server_that_listens_at_the_backends_address_alone_is_translated_to(
    lab: Lab, running: Running
) -> None:
    """The director of a pair holds the VIP, whoever of the two it is, and its server need not know."""
    node = lab.node.network
    node.ip("address", "add", f"{VIP}/32", "dev", "lo")
    with node.socket() as listening:
        listening.bind((OWN, PORT))
        listening.listen()
        running.apply(MANIFEST)
        running.wait_ready("ServiceLB", "shop")
        with lab.client.socket() as client:
            client.settimeout(3)
            client.connect((VIP, PORT))
            served, _ = listening.accept()
            with served:
                assert served.getsockname() == (OWN, PORT)
        assert places(lab) == 0
