"""What the kernel keeps for balanced sockets goes with them, however many there were."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kubebee.bpf import attach
from kubebee.bpf.link import Link
from kubebee.bpf.object import BpfObject
from support.clang import HEADERS, LICENSE, compile_c
from support.running import wait_for
from support.servicelb import VIP, frontend
from support.socketlb import DATAGRAM, ONE, STREAM, UDP, Node, socket_node

pytestmark = pytest.mark.root

COUNT = 10_000
AT_A_TIME = 100  # a listening socket's queue holds half of them
COUNTER = (
    HEADERS
    + """
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; } __attribute__((preserve_access_index));
struct bpf_map;
struct sock;
struct bpf_iter__bpf_sk_storage_map {
    struct bpf_iter_meta *meta;
    struct bpf_map *map;
    struct sock *sk;
    void *value;
} __attribute__((preserve_access_index));
SEC("iter/bpf_sk_storage_map") int count(struct bpf_iter__bpf_sk_storage_map *ctx)
{
    if (ctx->sk && ctx->value)
        bpf_seq_write(ctx->meta->seq, "s", 1);
    return 0;
}
"""
    + LICENSE
)


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        made.serve(
            frontend(f"{ONE}:8080", port=80),
            frontend(f"{ONE}:5353", port=53, protocol=UDP),
        )
        yield made


@pytest.fixture
def remembered(node: Node) -> Iterator[Link]:
    """An iterator that writes a byte for each socket that something is remembered of."""
    with BpfObject.open(compile_c(COUNTER), "counter") as loaded:
        loaded.load()
        with attach.attach_iter(loaded.programs["count"].fd, node.maps["kb_lb_sk"].fd) as link:
            yield link


def use_sockets(count: int) -> list[socket.socket]:
    """Sockets of this thread's namespace: connected over TCP or UDP, by an IPv6 socket, or only sending."""
    used = []
    for number in range(count):
        way = number % 4
        family = socket.AF_INET6 if way == 1 else socket.AF_INET
        sock = socket.socket(family, STREAM if way < 2 else DATAGRAM)
        used.append(sock)
        if way == 3:
            sock.sendto(b"who", (VIP, 53))
        else:
            sock.connect((f"::ffff:{VIP}" if way == 1 else VIP, 80 if way < 2 else 53))
    return used


def test_nothing_is_left_after_10000_sockets(node: Node, remembered: Link) -> None:
    def use_and_close(server: socket.socket) -> int:
        most = 0
        for _ in range(COUNT // AT_A_TIME):
            sockets = use_sockets(AT_A_TIME)
            most = max(most, len(attach.read_iter(remembered)))
            sockets += [server.accept()[0] for _ in range(AT_A_TIME // 2)]
            for sock in sockets:
                sock.close()
        return most

    with node.listen(ONE) as server:
        assert node.network.call(lambda: use_and_close(server)) >= AT_A_TIME
    wait_for("an empty storage", lambda: not attach.read_iter(remembered), 10)
