"""Each built-in template counts and reports what really happens."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from kubebee.bpf.attach import attach_cgroup, attach_tcx, attach_tracepoint, attach_tracing, attach_xdp
from kubebee.bpf.constants import AttachType
from kubebee.bpf.link import Link
from kubebee.bpf.object import BpfObject
from kubebee.render import catalog
from lab import BACKENDS, CLIENT, Lab, http_get, is_denied, tcp_connect
from lab.traffic import http_ask
from support import builtin
from support.ringbuf import wait_for_record

pytestmark = pytest.mark.root

BACKEND = BACKENDS["backend1"]
Load = Callable[..., BpfObject]
Attach = Callable[[Link], None]


@pytest.fixture
def load() -> Iterator[Load]:
    with ExitStack() as stack:
        yield lambda name, **params: stack.enter_context(builtin.load(name, **params))


@pytest.fixture
def keep() -> Iterator[Attach]:
    """Holds links until the test ends."""
    with ExitStack() as stack:
        yield stack.enter_context


def on_eth0(lab: Lab, attach: Callable[[int], Link]) -> Link:
    """Attach to the node's interface towards the client."""
    network = lab.node.network
    return network.call(lambda: attach(socket.if_nametoindex("eth0")))


def mapped(address: str) -> bytes:
    """How events hold an address: IPv4 as ::ffff:a.b.c.d."""
    parsed = ip_address(address)
    return (parsed if parsed.version == 6 else IPv6Address(f"::ffff:{address}")).packed


def test_all_templates_of_the_catalog_are_tested_here() -> None:
    tested = {"xdp-counter", "tc-flow-counter", "tcp-retransmit", "exec-snoop", "connect-log", "syn-guard"}
    assert set(catalog.names()) == tested


@pytest.mark.parametrize("name", catalog.names())
def test_every_template_says_what_it_is_and_which_functions_it_has(load: Load, name: str) -> None:
    template = catalog.get(name)
    assert template.summary
    assert template.description
    assert {program.name for program in template.programs} == set(load(name).programs)


def test_xdp_counter_counts_packets_and_bytes_by_kind(lab: Lab, load: Load, keep: Attach) -> None:
    loaded = load("xdp-counter")
    keep(on_eth0(lab, lambda index: attach_xdp(loaded.programs["count_packets"].fd, index, "native")))

    raw = lab.client.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    raw.bind(("eth0", 0))
    for ethertype, times in ((0x0800, 3), (0x0806, 2), (0x88B5, 1)):
        for _ in range(times):
            raw.send(bytes(12) + struct.pack("!H", ethertype) + bytes(50))
    raw.close()

    counts = loaded.maps["counts"].duplicate()
    per_cpu = {kind: counts.lookup_percpu(struct.pack("=I", kind)) for kind in range(4)}
    totals = {
        kind: tuple(map(sum, zip(*(struct.unpack("=QQ", v) for v in values), strict=True)))
        for kind, values in per_cpu.items()
    }
    ipv6 = totals.pop(2)  # the kernel's own neighbour discovery, now and then
    assert totals == {1: (3, 192), 3: (2, 128), 0: (1, 64)}
    assert ipv6[0] <= 10


def test_tc_flow_counter_counts_each_flow(lab: Lab, load: Load, keep: Attach) -> None:
    loaded = load("tc-flow-counter")
    keep(on_eth0(lab, lambda index: attach_tcx(loaded.programs["count_flows"].fd, index, ingress=True)))

    with tcp_connect(lab.client, BACKEND, 80, source_port=40001) as connection:
        assert http_ask(connection) == "backend1"

    ends = socket.inet_aton(CLIENT) + socket.inet_aton(BACKEND)
    key = ends + struct.pack("!HHB3x", 40001, 80, socket.IPPROTO_TCP)
    flows = dict(loaded.maps["counts"].duplicate().items())
    packets, octets = struct.unpack("=QQ", flows[key])
    assert packets >= 4  # SYN, ACK, request, ACK
    assert octets > packets * 54


def test_tcp_retransmit_reports_the_peer(lab: Lab, load: Load, keep: Attach) -> None:
    loaded = load("tcp-retransmit")
    keep(attach_tracing(loaded.programs["on_retransmit"].fd))

    with tcp_connect(lab.client, BACKEND, 80) as connection:
        assert http_ask(connection) == "backend1"
        lab.node.network.sysctl("net.ipv4.ip_forward", 0)
        connection.sendall(b"lost")
        ends = mapped(CLIENT) + mapped(BACKEND)
        ports = struct.pack("!HH", connection.getsockname()[1], 80)
        events = loaded.maps["events"].duplicate()
        event = wait_for_record(events, lambda record: record[8:44] == ends + ports)

    assert event[44] == 1  # ESTABLISHED
    count = loaded.maps["counts"].duplicate().lookup(mapped(BACKEND) + struct.pack("!H2x", 80))
    assert count is not None
    assert struct.unpack("=Q", count)[0] >= 1


def test_exec_snoop_reports_process_and_file(load: Load, keep: Attach, tmp_path: Path) -> None:
    loaded = load("exec-snoop")
    keep(attach_tracepoint(loaded.programs["on_exec"].fd, "sched", "sched_process_exec"))

    program = shutil.copy("/bin/true", tmp_path / "executed-once")
    process = subprocess.Popen([program])
    process.wait()

    def is_ours(record: bytes) -> bool:
        return struct.unpack_from("=I", record, 16)[0] == process.pid

    event = wait_for_record(loaded.maps["events"].duplicate(), is_ours)
    _, uid = struct.unpack_from("=II", event, 20)
    assert uid == 0
    assert event[28:44].rstrip(b"\0") == b"executed-once"
    assert event[44:300].partition(b"\0")[0] == str(program).encode()
    assert loaded.maps["counts"].duplicate().lookup(struct.pack("=I", 0)) is not None


def test_exec_snoop_reports_only_the_asked_for_user(load: Load, keep: Attach) -> None:
    loaded = load("exec-snoop", uid=65533)
    keep(attach_tracepoint(loaded.programs["on_exec"].fd, "sched", "sched_process_exec"))

    subprocess.run(["/bin/true"], check=True)
    subprocess.run(["/bin/true"], user=65533, check=True)

    counts = dict(loaded.maps["counts"].duplicate().items())
    assert counts == {struct.pack("=I", 65533): struct.pack("=Q", 1)}


@pytest.mark.parametrize("address", [BACKEND, "::1"])
def test_connect_log_reports_who_connects_where(lab: Lab, load: Load, keep: Attach, address: str) -> None:
    loaded = load("connect-log")
    for function, hook in (
        ("on_connect4", AttachType.CGROUP_INET4_CONNECT),
        ("on_connect6", AttachType.CGROUP_INET6_CONNECT),
    ):
        keep(attach_cgroup(loaded.programs[function].fd, lab.node.cgroup, hook))

    host = f"[{address}]" if ":" in address else address
    lab.on_node("curl", "-s", "-m", "2", f"http://{host}:80/", check=False)

    destination = mapped(address) + struct.pack("!H", 80) + struct.pack("=H", socket.IPPROTO_TCP)
    event = wait_for_record(loaded.maps["events"].duplicate(), lambda record: record[16:36] == destination)
    assert event[44:60].rstrip(b"\0") == b"curl"
    assert loaded.maps["counts"].duplicate().lookup(destination) == struct.pack("=Q", 1)


def test_connect_log_hears_nothing_from_outside_its_cgroup(lab: Lab, load: Load, keep: Attach) -> None:
    loaded = load("connect-log")
    link = attach_cgroup(loaded.programs["on_connect4"].fd, lab.node.cgroup, AttachType.CGROUP_INET4_CONNECT)
    keep(link)
    assert http_get(lab.client, BACKEND) == "backend1"
    assert list(loaded.maps["counts"].duplicate().keys()) == []


def test_syn_guard_stops_a_flood_and_leaves_connections_alone(lab: Lab, load: Load, keep: Attach) -> None:
    loaded = load("syn-guard", rate=1, burst=3)
    keep(on_eth0(lab, lambda index: attach_xdp(loaded.programs["guard_syn"].fd, index, "native")))

    with ExitStack() as stack:
        open_ones = [stack.enter_context(tcp_connect(lab.client, BACKEND, 80)) for _ in range(3)]
        assert any(is_denied(lab.client, BACKEND, 80) for _ in range(20))
        assert [http_ask(connection) for connection in open_ones] == ["backend1"] * 3

    value = loaded.maps["sources"].duplicate().lookup(bytes(4) + socket.inet_aton(CLIENT))
    assert value is not None
    _, dropped = struct.unpack("=QQ", value)
    assert dropped >= 1
