"""An edit of a HostPolicy's interfaces moves what runs: counters go on, and nothing is given up too early."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import NODE, Lab, is_denied
from support.clang import HEADERS, LICENSE, compile_c
from support.running import KUBEBEE, Running, wait_for
from support.site import counter, policy, program

pytestmark = pytest.mark.root

FOREIGN = HEADERS + 'SEC("xdp") int foreign(void *ctx) { (void)ctx; return XDP_PASS; }\n' + LICENSE


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        started.apply(program("packets", counter(), {"type": "XDP", "interfaces": {"names": ["eth0"]}}))
        started.apply(policy("edge", "Deny"))
        started.wait_ready("BpfProgram", "packets")
        started.wait_ready("HostPolicy", "edge")
        yield started


def on(*interfaces: str) -> dict[str, object]:
    """The policy on other interfaces."""
    return policy("edge", "Deny", interfaces={"names": list(interfaces)})


def denied(running: Running) -> int:
    """Packets that the rule denied, by its name."""
    shown = running.run(KUBEBEE, "status", "-f", str(running.manifests), "-o", "json", check=False).stdout
    rules = json.loads(shown)["counters"]["rules"]
    return next(int(one["packets"]) for one in rules if (one["policy"], one["rule"]) == ("edge", "rule"))


def programs_on(running: Running, name: str, kind: str = "BpfProgram") -> dict[str, tuple[int, int]]:
    """Link and program of a resource by interface."""
    found = running.status(kind, name).attachments
    return {one["point"]: (one["linkId"], one["progId"]) for one in found}


def test_its_counters_go_on(lab: Lab, running: Running) -> None:
    assert is_denied(lab.client, NODE, 8080)
    before, there = denied(running), programs_on(running, "packets")["eth0"]
    assert before > 0
    running.apply(on("eth0", "eth1"))
    running.wait_ready("HostPolicy", "edge", 2)
    assert set(programs_on(running, "edge", "HostPolicy")) == {"eth0", "eth1"}
    assert programs_on(running, "packets")["eth0"] == there, "where it stays nothing is exchanged"
    assert denied(running) >= before
    running.apply(on("eth1"))
    running.wait_ready("HostPolicy", "edge", 3)
    assert set(programs_on(running, "edge", "HostPolicy")) == {"eth1"}
    assert not is_denied(lab.client, NODE, 8080)
    assert denied(running) >= before
    assert running.run("sh", "-c", "ls -d /sys/fs/bpf/kubebee/m/hostpolicy-* | wc -l").stdout == "1\n"
    running.kill()
    running.start()
    wait_for("adoption", lambda: any("HostPolicy" in line for line in adopted(running)))
    assert denied(running) >= before


def adopted(running: Running) -> list[str]:
    return [line for line in running.log.read_text().splitlines() if "Adopted" in line]


def test_it_stays_where_it_is_until_it_runs_where_it_shall_be(
    lab: Lab, running: Running, tmp_path: Path
) -> None:
    (tmp_path / "foreign.o").write_bytes(compile_c(FOREIGN))
    lab.node.network.ip("link", "add", "taken0", "type", "veth", "peer", "name", "taken1")
    place = ("dev", "taken0", "xdpdrv")
    lab.node.network.ip("link", "set", *place, "object", str(tmp_path / "foreign.o"), "section", "xdp")
    before = programs_on(running, "packets")
    running.apply(on("taken0"))
    status = running.wait_reason("HostPolicy", "edge", "ForeignProgram")
    assert [one["point"] for one in status.attachments] == ["eth0"]
    assert is_denied(lab.client, NODE, 8080)
    assert programs_on(running, "packets") == before
    lab.node.network.ip("link", "set", *place, "off")
    running.wait_ready("HostPolicy", "edge", 2)
    assert set(programs_on(running, "edge", "HostPolicy")) == {"taken0"}
    wait_for("eth0 is free of it", lambda: not is_denied(lab.client, NODE, 8080))


def test_a_program_stays_too(lab: Lab, running: Running, tmp_path: Path) -> None:
    (tmp_path / "foreign.o").write_bytes(compile_c(FOREIGN))
    lab.node.network.ip("link", "add", "taken0", "type", "veth", "peer", "name", "taken1")
    place = ("dev", "taken0", "xdpdrv")
    lab.node.network.ip("link", "set", *place, "object", str(tmp_path / "foreign.o"), "section", "xdp")
    running.apply(program("packets", counter(), {"type": "XDP", "interfaces": {"names": ["taken0"]}}))
    status = running.wait_reason("BpfProgram", "packets", "ForeignProgram")
    assert [one["point"] for one in status.attachments] == ["eth0"]
    lab.node.network.ip("link", "set", *place, "off")
    running.wait_ready("BpfProgram", "packets", 2)
    assert set(programs_on(running, "packets")) == {"taken0"}
