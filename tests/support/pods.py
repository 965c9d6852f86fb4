"""Pods of a lab's node as a CNI plugin makes them, and servers in them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from lab.netns import Namespace, veth

PORT = 8088


@contextlib.contextmanager
def local_pods(network: Namespace, *addresses: str) -> Iterator[dict[str, Namespace]]:
    """Pods by address, 10.244.1.0/24: a routed pair of links each, no XDP, checksums left undone."""
    with contextlib.ExitStack() as stack:
        made = {address: stack.enter_context(Namespace("pod")) for address in addresses}
        for number, (address, pod) in enumerate(made.items(), 1):
            link = f"pod{number}"
            veth(network, link, pod, "eth0")
            network.ip("address", "add", "10.244.1.1/32", "dev", link)
            network.ip("route", "add", f"{address}/32", "dev", link, "scope", "link")
            pod.ip("address", "add", f"{address}/32", "dev", "eth0")
            pod.ip("route", "add", "10.244.1.1/32", "dev", "eth0", "scope", "link")
            pod.ip("route", "add", "default", "via", "10.244.1.1")
        yield made


@contextlib.contextmanager
def serving(host: Namespace, port: int = PORT, name: str = "") -> Iterator[None]:
    """A server of both families, TCP and UDP: tells clients its name, if any, and how it sees them."""
    tcp, udp = (host.socket(kind, family=socket.AF_INET6) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    tcp.bind(("::", port))
    tcp.listen()
    udp.bind(("::", port))

    def said(address: str) -> bytes:
        return f"{name} {address.removeprefix('::ffff:')}".strip().encode()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = tcp.accept()
                with connection:
                    connection.sendall(said(peer[0]))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = udp.recvfrom(100)
                if not data:
                    return
                udp.sendto(said(peer[0]), peer)

    threads = [threading.Thread(target=target, daemon=True) for target in (accept, answer)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        tcp.shutdown(socket.SHUT_RDWR)
        tcp.close()
        with host.socket(socket.SOCK_DGRAM, family=socket.AF_INET6) as end:
            end.sendto(b"", ("::1", port))
        for thread in threads:
            thread.join(5)
        udp.close()
