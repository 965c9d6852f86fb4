"""The socket programs, attached to a cgroup that this process is in, and a node to use sockets on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kubebee import drops
from kubebee.bpf import attach
from kubebee.bpf.constants import ProgType
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.lb import sockets, stats
from kubebee.lb.features import Features
from kubebee.lb.model import Frontend, Protocol, format_address, merge, parse_address
from kubebee.lb.stats import FrontendStats
from kubebee.lb.sync import LbState
from kubebee.render.environment import render_builtin
from lab.netns import Namespace, inside
from lab.node import cgroup2_root
from support.clang import compile_c
from support.servicelb import CONFIG, SMALL

UDP, TCP = Protocol.UDP, Protocol.TCP
ONE, TWO = "127.0.0.11", "127.0.0.12"
_CONFIG = replace(CONFIG, snat_address6=parse_address("fd00::1"))  # which sockets don't need
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class Node:
    """A namespace where backends are loopback addresses; this process's sockets go through socket LB."""

    def __init__(self, network: Namespace, maps: dict[str, Map]) -> None:
        self.network = network
        self.maps = maps
        self.state = LbState.adopt(maps)

    def serve(self, *frontends: Frontend) -> None:
        """Serve exactly these."""
        self.state.apply(self.maps, merge(frontends), _CONFIG)

    def listen(self, address: str = ONE, port: int = 8080) -> socket.socket:
        """A TCP server."""
        server = self.network.socket()
        server.bind((address, port))
        server.listen(64)
        return server

    def udp(self, address: str = "", port: int = 0) -> socket.socket:
        """A UDP socket, bound if an address is given."""
        sock = self.network.socket(DATAGRAM)
        sock.settimeout(10)
        if address:
            sock.bind((address, port))
        return sock

    def connect(self, address: str, port: int, kind: int = STREAM) -> socket.socket:
        """A connected socket; its family is the address's."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.network.socket(kind, family=family)
        sock.settimeout(10)
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def every_stats(self) -> list[FrontendStats]:
        """Counts of all frontends."""
        return stats.read(self.maps, self.state)

    def stats(self, port: int, protocol: Protocol = TCP, vip: str = "") -> FrontendStats:
        """Counts of the frontend with this port, of any address or of one."""
        for each in self.every_stats():
            address, *rest = each.key
            if rest == [port, protocol] and vip in ("", format_address(address)):
                return each
        raise LookupError(f"no frontend of port {port}/{protocol.name}")

    def drops(self) -> dict[str, int]:
        """Refused calls by reason, zeroes left out."""
        return {reason: count for reason, count in drops.read(self.maps).items() if count}


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup that this process is in for a while."""
    folder = cgroup2_root() / f"kb-{os.getpid()}-socketlb-node"
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    home = cgroup2_root() / own.partition("::/")[2]
    folder.mkdir()
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield folder
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        folder.rmdir()


ALL = Features(ipv6=True, affinity=True)


def load(features: Features = ALL) -> BpfObject:
    """The socket programs, with maps of a size that tests do with."""
    loaded = BpfObject.open(compile_c(render_builtin("socketlb", features.context())), "socketlb")
    for name, count in SMALL.items():
        if name in loaded.maps:
            loaded.maps[name].set_max_entries(count)
    loaded.load()
    return loaded


@contextlib.contextmanager
def socket_node(features: Features = ALL) -> Iterator[Node]:
    """A node whose network namespace is the host's, as the programs see it."""
    with (
        own_cgroup() as cgroup,
        Namespace("socketlb") as network,
        load(features) as loaded,
        contextlib.ExitStack() as stack,
    ):
        maps = {name: stack.enter_context(item.duplicate()) for name, item in loaded.maps.items()}
        for program in loaded.programs.values():
            assert program.prog_type in (ProgType.CGROUP_SOCK_ADDR, ProgType.CGROUP_SOCK)
            link = attach.attach_cgroup(program.fd, cgroup, program.expected_attach_type)
            stack.callback(link.close)
        with inside(network):
            sockets.apply(maps)
        yield Node(network, maps)
