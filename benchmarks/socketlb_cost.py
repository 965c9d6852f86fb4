"""Nanoseconds that socket LB adds to a process's calls. Prints JSON. Needs root, clang and a C compiler.

Processes time the same calls in one network namespace, each in a cgroup of its own. They take turns, so that
a slow moment meets all. Of each call:

- `none`: no programs; the call names the server itself.
- `empty`: programs that do nothing, on the same hooks: what the kernel takes for having any. For calibration.
- `miss`: socket LB, and the call names the server itself: what everything that is not balanced pays.
- `hit`: socket LB, and the call names the frontend, one of 1,000; the server is its backend.

`..._over_none` is the difference of two neighbours in a turn. All is time of the processor, as the machine
may be busy: see bench/socket_calls.c.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.report import Figure, Report
from bench.site import scratch
from kubebee.bpf import attach
from kubebee.bpf.object import BpfObject
from kubebee.lb import sockets
from kubebee.lb.model import Frontend, Protocol
from lab.netns import Namespace, inside
from lab.node import cgroup2_root, remove_cgroup
from support.clang import HEADERS, LICENSE, compile_c
from support.servicelb import frontend
from support.socketlb import Node, load

TURNS = 401
SERVER, SERVER6 = "127.0.0.11", "fd00::11"
VIP, VIP6, STICKY = "192.0.2.10", "2001:db8::10", "192.0.2.11"
TCP_PORT, UDP_PORT, FREE_PORT = 8080, 5353, 9999
OTHERS = 1000
SOURCE = Path(__file__).parent / "bench" / "socket_calls.c"


@dataclass(frozen=True)
class Case:
    """A call, and where it goes.

    Attributes:
        frontend: empty where the call names none.
        count: how often a sample repeats it.
    """

    name: str
    call: str
    server: str
    frontend: str
    port: int
    count: int


CASES = (
    Case("udp_connect", "connect", SERVER, VIP, UDP_PORT, 300),
    Case("udp_connect_mapped", "connect", f"::ffff:{SERVER}", f"::ffff:{VIP}", UDP_PORT, 300),
    Case("udp_connect_ipv6", "connect", SERVER6, VIP6, UDP_PORT, 300),
    Case("udp_connect_affinity", "connect", SERVER, STICKY, UDP_PORT, 300),
    Case("udp_send", "send", SERVER, VIP, UDP_PORT, 100),
    Case("getpeername", "name", SERVER, VIP, UDP_PORT, 600),
    Case("udp_life", "life", SERVER, VIP, UDP_PORT, 60),
    Case("tcp_open", "open", SERVER, VIP, TCP_PORT, 20),
    Case("tcp_bind", "bind", SERVER, "", FREE_PORT, 60),
)


class Caller:
    """A process that times calls, in a cgroup."""

    def __init__(self, program: Path, network: Namespace, cgroup: Path) -> None:
        join = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        argv = ["sh", "-c", join, str(cgroup), *network.command([str(program)])]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, case: Case, address: str) -> float:
        """Mean nanoseconds of a call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{case.call} {address} {case.port} {case.count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"{case.name}, {address}: {answer or 'the caller ended'}")
        return float(answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def frontends() -> list[Frontend]:
    """Those that are called, among others."""
    udp, here, here6 = Protocol.UDP, f"{SERVER}:{UDP_PORT}", f"[{SERVER6}]:{UDP_PORT}"
    called = [
        frontend(here, vip=VIP, port=UDP_PORT, protocol=udp),
        frontend(here6, vip=VIP6, port=UDP_PORT, protocol=udp),
        replace(frontend(here, vip=STICKY, port=UDP_PORT, protocol=udp), affinity_seconds=10800),
        frontend(f"{SERVER}:{TCP_PORT}", vip=VIP, port=TCP_PORT),
    ]
    places = itertools.islice(itertools.product(range(4), range(250)), OTHERS)
    return called + [frontend(vip=f"198.51.{100 + a}.{b + 1}", port=80) for a, b in places]


@contextlib.contextmanager
def cgroup(role: str) -> Iterator[Path]:
    """A cgroup that is removed with the block."""
    folder = cgroup2_root() / f"kb-{os.getpid()}-bench-{role}-node"
    folder.mkdir()
    try:
        yield folder
    finally:
        remove_cgroup(folder)


@contextlib.contextmanager
def servers(network: Namespace) -> Iterator[None]:
    """What is called: UDP sockets that nobody reads, and a TCP server that takes and drops connections."""
    network.ip("address", "add", f"{SERVER6}/128", "dev", "lo", "nodad")
    listening = network.socket()
    listening.bind((SERVER, TCP_PORT))
    listening.listen(1024)

    def take() -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                listening.accept()[0].close()

    taking = threading.Thread(target=take, daemon=True)
    with (
        network.socket(socket.SOCK_DGRAM) as udp,
        network.socket(socket.SOCK_DGRAM, family=socket.AF_INET6) as udp6,
    ):
        for sock, address in ((udp, SERVER), (udp6, SERVER6)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # full at once, then the same for all
            sock.bind((address, UDP_PORT))
        taking.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            taking.join()


def empty(like: BpfObject) -> bytes:
    """Programs on the same hooks that let everything pass."""
    functions = [
        f'SEC("{each.section}") int {each.name}(void *ctx) {{ (void)ctx; return 1; }}\n'
        for each in like.programs.values()
    ]
    return compile_c(HEADERS + "".join(functions) + LICENSE)


def attach_all(loaded: BpfObject, folder: Path, stack: contextlib.ExitStack) -> None:
    """Attach all programs to a cgroup until the block ends."""
    for each in loaded.programs.values():
        link = attach.attach_cgroup(each.fd, folder, each.expected_attach_type)
        stack.callback(link.close)


@contextlib.contextmanager
def callers() -> Iterator[dict[str, Caller]]:
    """By what their cgroup has: `none`, `empty` or `balanced`."""
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(scratch()) / "socket_calls"
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", program, SOURCE], check=True)
        network = stack.enter_context(Namespace("bench"))
        folders = {role: stack.enter_context(cgroup(role)) for role in ("none", "empty", "balanced")}
        loaded = stack.enter_context(load())
        maps = {name: stack.enter_context(item.duplicate()) for name, item in loaded.maps.items()}
        attach_all(loaded, folders["balanced"], stack)
        idle = stack.enter_context(BpfObject.open(empty(loaded), "empty"))
        idle.load()
        attach_all(idle, folders["empty"], stack)
        with inside(network):
            sockets.apply(maps)
        Node(network, maps).serve(*frontends())
        stack.enter_context(servers(network))
        made = {role: Caller(program, network, folder) for role, folder in folders.items()}
        for caller in made.values():
            stack.callback(caller.close)
        yield made


def main() -> None:
    taken: dict[str, list[float]] = {}
    with callers() as by_role:
        for _ in range(TURNS):
            for case in CASES:
                ways = (
                    ("none", "none", case.server),
                    ("empty", "empty", case.server),
                    ("miss", "balanced", case.server),
                    ("hit", "balanced", case.frontend),
                )
                for way, role, address in ways:
                    if address:
                        ns = by_role[role].time(case, address)
                        taken.setdefault(f"{case.name}_{way}", []).append(ns)
    report = Report("socketlb_cost", "none given; what a call costs with socket LB, and without", TURNS)
    for name, values in taken.items():
        report.figures[name] = Figure("ns", values)
        case_name, _, way = name.rpartition("_")
        if way != "none":
            pairs = zip(values, taken[f"{case_name}_none"], strict=True)
            report.figures[f"{name}_over_none"] = Figure("ns", [value - base for value, base in pairs])
    report.notes = {"frontends": len(frontends())}
    report.print()


if __name__ == "__main__":
    main()
