"""Packets and new connections through ServiceLB and through kube-proxy, in one topology. Prints JSON.

Needs root, and the real kube-proxy: KUBEBEE_KUBE_PROXY names its program, as `make cluster` builds it below
.build/cluster; without it only ServiceLB is measured, and the notes say so. COUNTS ("1,100,10000") are the
numbers of Services; all but one have two endpoints that nobody reaches: with ten and 10,000 Services
kube-proxy's first pass takes more than four minutes. Each case has a lab of its own: a client, a node that
balances, two backends. All read the same small API server.

- `..._packet`: a client's thread sends datagrams of one flow as fast as it can; nanoseconds each. All must
  come to a backend's interface. A veth's work is done by the sender's CPU: this is the cost of the whole way.
  `none` sends to a backend itself: the way without a balancer. Compare differences to it.
- `..._cpu`: what all processors of the machine were busy for one of these datagrams, by /proc/stat:
  nanoseconds, over all rounds. It counts whatever else ran too.
- `..._connect`: microseconds of connect() over TCP, one after the other; `_p99` beside the median.
- `..._start`, `..._start_cpu`: seconds from the start of the program to all Services served, and what it and
  the commands that it ran worked until then (of kubebee: the compilers too). `..._memory`: at its most.
- `..._endpoint`: milliseconds from the change of an EndpointSlice's only endpoint on the server to the first
  datagram of a client that comes to the new one; a client asks from another port every half millisecond.

What socket LB adds to calls of processes, against none, is in socketlb_cost.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.processes import busy_ns, cpu_seconds, memory_mib, wait_for_rest
from bench.report import Figure, Report
from bench.site import pins_of, scratch, seconds_until
from kubebee.bpf.map import Map
from kubebee.lb.layout import pack_key
from kubebee.lb.model import FrontendKey, Protocol, parse_address
from lab import BACKENDS, VIP, Lab, tcp_connect
from services_scale import endpoint_slice, service
from support import kube_proxy
from support.api_server import ApiServer
from support.node_agent import NODE_NAME, NodeAgent, served
from support.running import wait_for
from support.services import endpoint_slice as real_slice
from support.services import service as real_service

COUNTS = [int(each) for each in os.environ.get("COUNTS", "1,100,10000").split(",")]
ROUNDS = 11
PACKETS = int(os.environ.get("PACKETS", "50000"))
CONNECTS = int(os.environ.get("CONNECTS", "500"))
UDP_PORT, TCP_PORT = 5300, 80
PORTS = [
    {"name": "http", "port": TCP_PORT, "protocol": "TCP"},
    {"name": "sink", "port": UDP_PORT, "protocol": "UDP"},
]
READY_SECONDS = 240
OTHERS_ENDPOINTS = 2
MOVES = 5
MOVED_PORT = 5400
MOVED = [{"name": "moved", "port": MOVED_PORT, "protocol": "UDP"}]
QUIET_SECONDS = 2.5
"""Longer than kube-proxy waits between two passes."""
ASK_SECONDS = 0.0005
Way = Callable[[Lab, ApiServer, Path], contextlib.AbstractContextManager[int]]
"""Gives the process id of what balances, once it serves."""


def _balancer(mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "all"},
        "spec": {"interfaces": {"all": True}, "services": {"all": True}, "northSouth": {"mode": mode}},
    }


def kubebee(mode: str) -> Way:
    """ServiceLB in one of its modes."""

    @contextlib.contextmanager
    def serve(lab: Lab, api: ApiServer, folder: Path) -> Iterator[int]:
        agent = NodeAgent(lab, api, folder)
        try:
            api.set_spec(NODE_NAME, [api.put_bundle(_balancer(mode))])
            agent.start()
            wait_for("all is served", lambda: _is_served(lab), READY_SECONDS)
            agent.wait_running("all")
            assert agent.process is not None
            yield agent.process.pid
        finally:
            if agent.process is not None:
                agent.kill()

    return serve


def _is_served(lab: Lab) -> bool:
    key = pack_key(FrontendKey(parse_address(VIP), UDP_PORT, Protocol.UDP))
    for pin in (pins_of(lab) / "m").glob("servicelb-*/kb_lb_fe@*"):
        with Map.from_pin(str(pin)) as opened:
            if opened.lookup(key) is not None:
                return True
    return False


def peer(mode: str) -> Way:
    """The real kube-proxy in one of its modes."""
    return lambda lab, api, folder: kube_proxy.real(lab, api, folder, mode)


WAYS: dict[str, Way] = {"kubebee_xdp": kubebee("Native"), "kubebee_tc": kubebee("TC")}
if kube_proxy.PROGRAM:
    WAYS |= {"kube_proxy_nftables": peer("nftables"), "kube_proxy_iptables": peer("iptables")}


def received(lab: Lab) -> int:
    """Packets that came to the backends' interfaces."""
    shown = (json.loads(each.ip("-j", "-s", "link", "show", "dev", "eth0")) for each in lab.backends.values())
    return sum(int(link["stats64"]["rx"]["packets"]) for (link,) in shown)


def packets(lab: Lab, address: str) -> tuple[list[float], float]:
    """Nanoseconds of a datagram, by round, and of the processors over all of them."""
    found, busy = [], 0
    with lab.client.socket(socket.SOCK_DGRAM) as sock:
        sock.connect((address, UDP_PORT))
        send, data = sock.send, bytes(18)
        for _ in range(ROUNDS):
            before, idle, since = received(lab), busy_ns(), time.perf_counter_ns()
            for _ in range(PACKETS):
                with contextlib.suppress(ConnectionRefusedError):  # nobody listens, and some are told
                    send(data)
            spent = time.perf_counter_ns() - since
            busy += busy_ns() - idle
            came = received(lab) - before
            if came < 0.99 * PACKETS:
                raise RuntimeError(f"{PACKETS - came} of {PACKETS} packets to {address} were lost")
            found.append(spent / PACKETS)
    return found, busy / (ROUNDS * PACKETS)


def connects(lab: Lab, address: str) -> list[float]:
    """Microseconds of a connect()."""
    found = []
    for _ in range(CONNECTS):
        since = time.perf_counter_ns()
        with tcp_connect(lab.client, address, TCP_PORT):
            found.append((time.perf_counter_ns() - since) / 1e3)
    return found


def measure(report: Report, name: str, lab: Lab, address: str) -> None:
    """The figures of one case, once compilers and whatever else was begun are done."""
    if not wait_for_rest():
        report.notes[f"{name}_at_rest"] = "no: other work is measured too"
    clock, cpu = packets(lab, address)
    report.figures[f"{name}_packet"] = Figure("ns", clock)
    report.figures[f"{name}_cpu"] = Figure("ns", [cpu])
    times = connects(lab, address)
    report.figures[f"{name}_connect"] = Figure("us", times)
    report.figures[f"{name}_connect_p99"] = Figure("us", [statistics.quantiles(times, n=100)[98]])


def moved_to(backend: str) -> dict[str, Any]:
    """The slice whose only endpoint changes."""
    return real_slice(BACKENDS[backend], ports=MOVED, name="moved")


def moves(lab: Lab, api: ApiServer) -> list[float]:
    """Milliseconds until clients come to an endpoint that took another's place."""
    found = []
    with contextlib.ExitStack() as stack:
        listening = {
            name: stack.enter_context(lab.backends[name].socket(socket.SOCK_DGRAM)) for name in BACKENDS
        }
        for name, address in BACKENDS.items():
            listening[name].bind((address, MOVED_PORT))
            listening[name].setblocking(False)
        for number in range(1, MOVES + 1):
            time.sleep(QUIET_SECONDS)
            name = list(BACKENDS)[number % len(BACKENDS)]
            since = time.perf_counter()
            api.put(moved_to(name))
            found.append(seconds_until(lambda to=listening[name]: _asked(lab, to), since) * 1e3)
    return found


def _asked(lab: Lab, backend: socket.socket) -> bool:
    """Whether a new client's datagram came to a backend."""
    with lab.client.socket(socket.SOCK_DGRAM) as client:
        client.sendto(b"where", (VIP, MOVED_PORT))
    time.sleep(ASK_SECONDS)
    try:
        return bool(backend.recv(16))
    except BlockingIOError:
        return False


def documents(count: int) -> Iterator[dict[str, Any]]:
    """The Service that is measured, and others."""
    yield real_service("web", clusterIP=VIP, ports=[*PORTS, *MOVED])
    yield real_slice(*BACKENDS.values(), ports=PORTS)
    yield moved_to(next(iter(BACKENDS)))
    for number in range(1, count):
        yield service(number)
        yield endpoint_slice(number, endpoints=OTHERS_ENDPOINTS)


def main() -> None:
    report = Report("peers", "below kube-proxy's in both modes, whatever the number of Services", ROUNDS)
    with Lab() as lab:
        measure(report, "none", lab, next(iter(BACKENDS.values())))
    for count in COUNTS:
        for name, way in WAYS.items():
            with scratch() as folder, Lab() as lab, served(lab) as api:
                api.set_spec(NODE_NAME, [])
                api.put(*documents(count))
                since = time.perf_counter()
                with way(lab, api, folder) as pid:
                    report.figures[f"{name}_{count}_start"] = Figure("s", [time.perf_counter() - since])
                    report.figures[f"{name}_{count}_start_cpu"] = Figure(
                        "s", [cpu_seconds(pid, children=True)]
                    )
                    measure(report, f"{name}_{count}", lab, VIP)
                    report.figures[f"{name}_{count}_endpoint"] = Figure("ms", moves(lab, api))
                    report.figures[f"{name}_{count}_memory"] = Figure("MiB", [memory_mib(pid, "VmHWM")])
    report.notes |= {"packets_a_round": PACKETS, "connects": CONNECTS}
    if not kube_proxy.PROGRAM:
        report.notes["kube_proxy"] = "not measured: KUBEBEE_KUBE_PROXY does not name its program"
    report.print()


if __name__ == "__main__":
    main()
