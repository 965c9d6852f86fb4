"""spec.limits: sizes of maps, what finds no room in them, and what a node has no memory for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import BACKENDS, VIP, Lab, http_get, tcp_connect
from lab.traffic import http_ask
from support.running import KUBEBEE, Running, wait_for
from support.site import policy

pytestmark = pytest.mark.root


def balancer(count: int = 1, **limits: int) -> dict[str, Any]:
    """A ServiceLB of VIP at ports 80, 81 ..., each with both backends."""
    members = [{"address": address, "port": 80} for address in BACKENDS.values()]
    frontends = [
        {"name": f"web{i}", "address": VIP, "port": 80 + i, "backends": members} for i in range(count)
    ]
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {"interfaces": {"all": True}, "frontends": frontends, "limits": limits},
    }


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def sizes(running: Running, name: str) -> list[int]:
    """max_entries of the pinned maps of a name."""
    rows = running.bpftool("map", "show", "-f")
    return [row["max_entries"] for row in rows if row.get("name") == name and row.get("pinned")]


def test_maps_have_the_sizes_that_are_given_and_grow_under_connections_that_stay(
    lab: Lab, running: Running
) -> None:
    # It lets the backends' answers in by the balancer's own map of flows.
    everywhere = {"interfaces": {"all": True}, "defaultAction": {"ingress": "Deny"}}
    running.apply(policy("edge", "Allow", port="80-81", **everywhere))
    running.apply(balancer(2, frontends=64, backends=3, slots=4096, flows=2048))
    status = running.wait("ServiceLB", "shop", lambda status: status.reason == "MapFull")
    assert "the backend table is full (kb_lb_be)" in status.message
    assert [sizes(running, name) for name in ("kb_lb_fe", "kb_lb_be", "kb_lb_slots")] == [[128], [3], [256]]
    assert sizes(running, "kb_lb_flow") == sizes(running, "kb_lb_rev") == [2048]
    with tcp_connect(lab.client, VIP, 80) as connection:
        answering = http_ask(connection)
        running.apply(balancer(2, frontends=64, backends=8, slots=4096, flows=4096))
        running.wait_ready("ServiceLB", "shop", generation=2)
        running.wait_ready("HostPolicy", "edge")
        wait_for("the second is served", lambda: http_get(lab.client, VIP, 81))
        assert http_ask(connection) == answering
        wait_for("the old ones are gone", lambda: sizes(running, "kb_lb_flow") == [4096])
        assert http_ask(connection) == answering


def test_the_status_says_how_full_the_tables_are(lab: Lab, running: Running) -> None:
    def tables() -> dict[str, tuple[int, int]]:
        found = running.status("ServiceLB", "shop").status.get("fill", [])
        return {table["limit"]: (table["used"], table["size"]) for table in found}

    sizes = {"frontends": (1, 64), "backends": (2, 8), "slots": (224, 4096)}
    with contextlib.ExitStack() as stack:
        running.apply(balancer(frontends=64, backends=8, slots=4096, flows=1024))
        wait_for("it is said", lambda: tables() == {**sizes, "flows": (0, 1024)})
        for _ in range(200):
            stack.enter_context(tcp_connect(lab.client, VIP, 80))
        running.kill()  # the next one says what it finds
        running.start()
        wait_for("connections are counted", lambda: tables() == {**sizes, "flows": (200, 1024)})
    (row,) = [row for row in running.status("ServiceLB", "shop").status["fill"] if row["limit"] == "flows"]
    assert (row["family"], row["percent"], row["node"]) == ("IPv4", 19, "node1")
    shown = running.run("env", "COLUMNS=200", KUBEBEE, "status", "-f", str(running.manifests)).stdout
    assert "IPv4: 1 of 64 frontends, 2 of 8 backends, 224 of 4,096 slots, 200 of 1,024 flows" in shown


def test_what_the_node_has_no_memory_for_is_refused_and_what_ran_runs_on(
    lab: Lab, running: Running, tmp_path: Path
) -> None:
    running.apply(balancer())
    running.wait_ready("ServiceLB", "shop")
    (tmp_path / "meminfo").write_text("MemTotal: 65536 kB\n")
    lab.on_node("mount", "--bind", str(tmp_path / "meminfo"), "/proc/meminfo")
    running.apply(balancer(flows=1 << 20))
    status = running.wait("ServiceLB", "shop", lambda status: status.reason == "NotEnoughMemory")
    assert "more than 1/2 of the 64 MiB that there are; the largest is kb_lb_" in status.message
    assert http_get(lab.client, VIP) in BACKENDS
    running.apply(balancer(flows=2048))
    running.wait_ready("ServiceLB", "shop", generation=3)
