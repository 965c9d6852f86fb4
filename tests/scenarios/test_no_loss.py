"""No packet is lost in the XDP chain while kubebee is killed, started again, or exchanges code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import VIP, Lab
from lab.traffic import http_ask, tcp_connect
from support.running import Running, wait_for
from support.stream import STAGES, USERS, Stream, counted, delivered, runs, stage, whole_chain

pytestmark = pytest.mark.root

RATE = 10_000


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    """A kubebee with HostPolicy, ServiceLB and two programs of the user on eth0."""
    with Running(lab.node_command, tmp_path) as started:
        whole_chain(started)
        lab.on_node("ping", "-c", "1", "-W", "1", "10.2.1.2")
        yield started


def assert_nothing_lost(lab: Lab, stream: Stream, before: int) -> None:
    assert stream.sent > 0
    for name in USERS:
        wait_for(f"{name} counted all", lambda name=name: counted(lab, name) >= stream.sent, 2)
        assert counted(lab, name) == stream.sent
    assert delivered(lab) - before == stream.sent
    ran = runs(lab)
    assert len(ran) == STAGES
    assert all(count >= stream.sent for count in ran.values()), ran


def test_a_killed_and_restarted_kubebee_loses_no_packet(lab: Lab, running: Running) -> None:
    before = delivered(lab)
    with tcp_connect(lab.client, VIP, 80) as connection, Stream(lab, RATE) as stream:
        http_ask(connection)
        running.kill()
        http_ask(connection)
        running.start()
        wait_for(
            "adoption",
            lambda: {e["name"] for e in running.events() if "adopted" in e["message"]} >= set(USERS),
        )
        http_ask(connection)
    assert_nothing_lost(lab, stream, before)


def test_code_exchanged_in_place_loses_no_packet_and_no_count(lab: Lab, running: Running) -> None:
    before = delivered(lab)
    with Stream(lab, RATE) as stream:
        for version in (2, 3):
            for name in USERS:
                running.apply(stage(name, version))
            for name in USERS:
                running.wait_ready("BpfProgram", name, version)
    assert_nothing_lost(lab, stream, before)
