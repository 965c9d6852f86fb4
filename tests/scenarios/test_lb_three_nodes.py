"""Node ports of three nodes that all run kubebee, asked from outside by curl, dig and iperf3."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import tcp_connect
from support.running import wait_for
from support.three_nodes import IPERF, WEB, ThreeNodes

pytestmark = pytest.mark.root

PODS = {"pod1", "pod2", "pod3"}
LEFT = {"pod1", "pod2"}
ADDRESSES = {"10.244.1.2", "10.244.2.2", "10.244.3.2"}
ASKED = 30
"""Enough that a pod without a single one of them is a fault: 1 of 60,000 runs."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ThreeNodes]:
    with ThreeNodes(tmp_path) as made:
        made.serve()
        made.wait_served()
        yield made


def test_every_node_leads_to_pods_of_all(site: ThreeNodes) -> None:
    for host in site.hosts:
        assert Counter(site.ask(host.address) for _ in range(ASKED)).keys() == PODS
        assert Counter(site.resolve(host.address) for _ in range(ASKED)).keys() == ADDRESSES


def test_a_killed_loader_costs_no_connection(site: ThreeNodes) -> None:
    first = site.hosts[0]
    argv = ["iperf3", "-c", first.address, "-p", str(IPERF), "-t", "8", "-b", "20M", "-J"]
    with subprocess.Popen(site.client.command(argv), stdout=subprocess.PIPE, text=True) as steady:
        try:
            first.running.kill()
            assert Counter(site.ask(first.address) for _ in range(ASKED)).keys() == PODS
            first.running.start()
            assert Counter(site.resolve(first.address) for _ in range(ASKED)).keys() == ADDRESSES
            printed, _ = steady.communicate(timeout=60)
        finally:
            steady.kill()
    report = json.loads(printed)
    assert "error" not in report, report["error"]
    assert report["end"]["sum_received"]["bytes"] > 1 << 20


def test_a_backend_that_dies_takes_its_own_connections_alone(site: ThreeNodes) -> None:
    first, _, third = site.hosts
    with contextlib.ExitStack() as stack:
        steady = [stack.enter_context(tcp_connect(site.client, first.address, WEB)) for _ in range(ASKED)]
        before = [asked(each) for each in steady]
        assert set(before) == PODS
        site.serve(third)
        third.end_servers()
        for host in site.hosts:
            wait_for("the pod gets nothing new", lambda at=host.address: set(ask_often(site, at)) == LEFT)
        for connection, pod in zip(steady, before, strict=True):
            if pod in LEFT:
                assert asked(connection) == pod


def ask_often(site: ThreeNodes, address: str) -> Counter[str]:
    return Counter(site.ask(address) for _ in range(ASKED))


def asked(connection: socket.socket) -> str:
    """Who answers one more request on an open connection."""
    connection.settimeout(5)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\n") or b"\r\n\r\n" not in answer[:-1]:
        answer += connection.recv(1000)
    return answer.split()[-1].decode()
