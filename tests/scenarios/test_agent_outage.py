"""`kubebee agent` without an API server: what runs goes on, and a node comes up as it was."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lab import CLIENT, NODE, Lab
from support.api_server import ApiServer, bound
from support.node_agent import NODE_NAME, NodeAgent
from support.running import wait_for
from support.seen import entries
from support.site import EXEC, counter, policy, program, tracer

pytestmark = pytest.mark.root
PACKETS, EXECS = program("packets", counter()), program("execs", tracer(), EXEC)


def links(agent: NodeAgent) -> set[tuple[int, int]]:
    """(link id, program id) of what is pinned."""
    found = agent.run("find", "/sys/fs/bpf/kubebee/l", "-type", "f").stdout.split()
    # Some versions of bpftool fail though they have shown it.
    shown = [agent.run("bpftool", "-j", "link", "show", "pinned", pin, check=False).stdout for pin in found]
    return {(link["id"], link["prog_id"]) for link in map(json.loads, shown)}


def packets_seen(lab: Lab, agent: NodeAgent) -> int:
    """What the XDP program has counted, after some traffic."""
    lab.client.run("ping", "-c", "2", "-i", "0.01", "-W", "1", NODE)
    return int(entries(agent, "packets", "counts")[0]["formatted"]["value"])


def start_with(agent: NodeAgent, api: ApiServer, *manifests: dict) -> None:  # type: ignore[type-arg]
    """Start with these resources and wait until they run."""
    api.set_spec(NODE_NAME, [api.put_bundle(manifest) for manifest in manifests])
    agent.start()
    for manifest in manifests:
        agent.wait_running(manifest["metadata"]["name"])


def test_an_outage_changes_nothing_and_edits_come_in_after_it(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    start_with(agent, api, PACKETS, EXECS)
    before, counted = links(agent), packets_seen(lab, agent)
    edited = api.put_bundle(program("packets", counter(body="key++;")), 2)
    with api.away():
        api.set_spec(NODE_NAME, [edited])
        wait_for("the outage is noticed", lambda: agent.metric("kubebee_loader_watching") == 0)
        lab.on_node("ip", "link", "add", "other0", "type", "bridge")  # gives it a pass to make
        assert links(agent) == before
        assert packets_seen(lab, agent) > counted
        assert agent.get("/readyz")[0] == agent.get("/healthz")[0] == 200
    agent.wait_running("packets", 2)
    wait_for("execs is gone", lambda: not agent.resource_status("execs"))


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_a_restart_during_an_outage_adopts_everything(
    lab: Lab, api: ApiServer, agent: NodeAgent, silent: bool
) -> None:
    start_with(agent, api, PACKETS, EXECS)
    before, counted = links(agent), packets_seen(lab, agent)
    agent.stop(signal.SIGKILL)
    with api.away(silent=silent):
        agent.start()
        agent.wait_ready_by_probe()
        assert links(agent) == before
        assert packets_seen(lab, agent) > counted
        assert "going on with the plan kept on disk" in agent.log.read_text()
    wanted = {(name, reason) for name in ("packets", "execs") for reason in ("Loaded", "Adopted")}

    def said() -> bool:
        return {(one["name"], one["reason"]) for one in agent.node_status()["happenings"]} == wanted

    wait_for("the status after the outage", said)


def test_a_reboot_during_an_outage_loads_everything_anew(lab: Lab, api: ApiServer, agent: NodeAgent) -> None:
    start_with(agent, api, PACKETS, policy("edge", "Deny"))
    agent.kill()
    agent.run("rm", "-r", "/sys/fs/bpf/kubebee")  # as good as a reboot: nothing holds a program any more
    wait_for("nothing runs", lambda: not agent.bpftool("net", "show")[0]["xdp"])
    with api.away():
        agent.start()
        agent.wait_ready_by_probe()
        assert packets_seen(lab, agent) > 0
        assert [one["devname"] for one in agent.bpftool("net", "show")[0]["xdp"]] == ["eth0"]


def test_without_an_api_server_and_a_plan_nothing_is_touched(
    lab: Lab, api: ApiServer, agent: NodeAgent, tmp_path: Path
) -> None:
    start_with(agent, api, PACKETS)
    before = links(agent)
    agent.kill()
    agent.cache = tmp_path / "another disk"
    with api.away():
        agent.start()
        wait_for("tries without an answer", lambda: _unanswered(agent) > 2)
        assert agent.get("/readyz")[0] == 503
        assert links(agent) == before
        assert agent.stop(signal.SIGTERM) == 0
        assert links(agent) == before


def _unanswered(agent: NodeAgent) -> float:
    return agent.metric('kubebee_loader_api_requests_total{code="0",verb="list"}')


def test_a_spec_that_names_nothing_new_keeps_a_deleted_bpfnodes_programs(
    lab: Lab, api: ApiServer, agent: NodeAgent
) -> None:
    start_with(agent, api, PACKETS)
    before = links(agent)
    api.delete_node(NODE_NAME)
    wait_for("it is noticed", lambda: "no BpfNode" in agent.log.read_text())
    agent.kill()
    agent.start()
    agent.wait_ready_by_probe()
    assert links(agent) == before
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS)])
    agent.wait_running("packets")
    assert links(agent) == before
    api.set_spec(NODE_NAME, [])
    wait_for("nothing runs", lambda: not links(agent))


def test_a_cut_cable_is_noticed_within_30_seconds(lab: Lab, tmp_path: Path) -> None:
    """No packet comes back and no connection is reset: as when a server or the way to it is gone."""
    with ApiServer(bound(lab.client.socket, CLIENT)) as api:
        agent = NodeAgent(lab, api, tmp_path)
        try:
            start_with(agent, api, EXECS)
            lab.client.ip("route", "add", "blackhole", NODE)
            wait_for("the cut is noticed", lambda: agent.metric("kubebee_loader_watching") == 0, 35)
            api.set_spec(NODE_NAME, [api.put_bundle(EXECS, 2)])
            lab.client.ip("route", "del", "blackhole", NODE)
            agent.wait_running("execs", 2)
        finally:
            if agent.process is not None:
                agent.kill()
