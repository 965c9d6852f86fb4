"""`kubebee agent` on a node: what its BpfNode asks for runs, and the BpfNode says so."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from kubebee.planner.declared import Rendered
from kubebee.toolchain.diagnostics import SourceLine
from lab import VIP, Lab, http_get
from support.api_server import ApiServer
from support.node_agent import NODE_NAME, NodeAgent
from support.running import wait_for
from support.site import EXEC, balancer, counter, policy, program, tracer

pytestmark = pytest.mark.root
PACKETS, EXECS = program("packets", counter()), program("execs", tracer(), EXEC)
CAPABILITIES = "-all,+bpf,+perfmon,+net_admin"
BROKEN = program("packets", counter(body="this is no C"))


def in_kernel(agent: NodeAgent, resource: dict[str, Any]) -> set[tuple[int, int]]:
    """(program id, link id) of a resource's status that the kernel has."""
    named = {(p["progId"], a["linkId"]) for p in resource["programs"] for a in p["attachments"]}
    return named & {(link["prog_id"], link["id"]) for link in agent.bpftool("link", "show")}


def pins(agent: NodeAgent) -> list[str]:
    """Pinned files of ours."""
    return agent.run("find", "/sys/fs/bpf/kubebee", "-type", "f").stdout.split()


def test_what_the_spec_names_runs_and_the_status_says_so(api: ApiServer, agent: NodeAgent) -> None:
    refs = [api.put_bundle(PACKETS), api.put_bundle(EXECS, 4)]
    generation = api.set_spec(NODE_NAME, refs)
    agent.start()
    packets, execs = agent.wait_running("packets"), agent.wait_running("execs", 4)
    assert agent.node_status()["observedGeneration"] == generation
    assert [packets["bundle"], execs["bundle"]] == [ref["hash"] for ref in refs]
    for resource in (packets, execs):
        assert len(in_kernel(agent, resource)) == 1
    happened = {(one["name"], one["reason"]) for one in agent.node_status()["happenings"]}
    assert {("packets", "Loaded"), ("execs", "Loaded")} <= happened
    wait_for("what the kernel has", lambda: agent.node_status().get("features"))


def test_all_kinds_work_together(lab: Lab, api: ApiServer, agent: NodeAgent) -> None:
    kinds = [PACKETS, balancer("shop"), policy("edge", "Deny")]
    api.set_spec(NODE_NAME, [api.put_bundle(manifest) for manifest in kinds])
    agent.start()
    for name in ("packets", "shop", "edge"):
        agent.wait_running(name)
    for backend in ("10.2.1.2", "10.2.2.2"):
        lab.on_node("ping", "-c", "1", "-W", "1", backend)
    assert http_get(lab.client, VIP).startswith("backend")


def test_the_capabilities_of_its_pod_suffice(lab: Lab, api: ApiServer, tmp_path: Path) -> None:
    """What the chart gives. Without SYS_ADMIN neither others' programs nor links by id can be listed."""
    kinds = [PACKETS, EXECS, balancer("shop"), policy("edge", "Deny")]
    names = [manifest["metadata"]["name"] for manifest in kinds]
    api.set_spec(NODE_NAME, [api.put_bundle(manifest) for manifest in kinds])
    limited = ["setpriv", "--bounding-set", CAPABILITIES, "--inh-caps", "-all", "--no-new-privs"]
    agent = NodeAgent(lab, api, tmp_path, under=limited)
    try:
        agent.start()
        for name in names:
            agent.wait_running(name)
        wait_for("what the kernel has", lambda: agent.node_status().get("features"))
        before = {name: agent.wait_running(name)["programs"] for name in names}
        agent.kill()
        api.clear_status(NODE_NAME)
        agent.start()
        assert {name: agent.wait_running(name)["programs"] for name in names} == before, "adopted"
        api.set_spec(NODE_NAME, [])
        wait_for("nothing runs", lambda: agent.node_status().get("resources", []) == [])
        assert pins(agent) == []
    finally:
        if agent.process is not None:
            agent.kill()


def test_an_edit_replaces_and_a_removal_leaves_nothing(api: ApiServer, agent: NodeAgent) -> None:
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS), api.put_bundle(EXECS)])
    agent.start()
    before = agent.wait_running("packets")
    edited = api.put_bundle(program("packets", counter(body="key++;")), 2)
    api.set_spec(NODE_NAME, [edited])
    after = agent.wait_running("packets", 2)
    assert after["runningHash"] != before["runningHash"]
    wait_for("execs is gone", lambda: not agent.resource_status("execs"))
    assert not [pin for pin in pins(agent) if "execs" in pin]
    api.set_spec(NODE_NAME, [])
    wait_for("nothing runs", lambda: not agent.node_status().get("resources"))
    assert pins(agent) == []


def test_an_agent_that_ends_with_nothing_to_run_leaves_no_file(api: ApiServer, agent: NodeAgent) -> None:
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS)])
    agent.start()
    agent.wait_running("packets")
    generation = api.set_spec(NODE_NAME, [])
    agent.wait_observed(generation)
    assert agent.stop(signal.SIGTERM) == 0
    agent.run("test", "!", "-e", "/sys/fs/bpf/kubebee")
    assert list(agent.cache.iterdir()) == []


def test_a_version_that_does_not_compile_leaves_the_old_one_running(api: ApiServer, agent: NodeAgent) -> None:
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS)])
    agent.start()
    good = agent.wait_running("packets")
    bad = api.put_bundle(BROKEN, 2)
    generation = api.set_spec(NODE_NAME, [bad])
    agent.wait_observed(generation)
    status = agent.resource_status("packets")
    assert (status["generation"], status["bundle"]) == (2, bad["hash"])
    assert status["failure"]["reason"] == "CompileFailed"
    assert "packets.c" in status["failure"]["log"]
    assert in_kernel(agent, status) == in_kernel(agent, good) != set()


def test_a_disk_that_is_full_keeps_no_status_from_the_api_server(api: ApiServer, agent: NodeAgent) -> None:
    agent.cache.mkdir(parents=True, exist_ok=True)
    agent.run("mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=8", "tmpfs", str(agent.cache))
    agent.run("sh", "-c", f"cat /dev/zero >{agent.cache}/full", check=False)
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS)])
    agent.start()
    agent.wait_running("packets")
    generation = api.set_spec(NODE_NAME, [api.put_bundle(PACKETS), api.put_bundle(EXECS)])
    agent.wait_observed(generation)
    agent.wait_running("execs")
    assert agent.log.read_text().count("the disk can't be written: No space left on device") == 1


def test_an_agent_that_is_killed_or_ended_leaves_all_running(api: ApiServer, agent: NodeAgent) -> None:
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS)])
    agent.start()
    before = in_kernel(agent, agent.wait_running("packets"))
    for how in (signal.SIGKILL, signal.SIGTERM):
        code = agent.stop(how)
        assert code == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        assert in_kernel(agent, agent.resource_status("packets")) == before
        api.clear_status(NODE_NAME)
        agent.start()
        assert in_kernel(agent, agent.wait_running("packets")) == before
    reasons = [one["reason"] for one in agent.node_status()["happenings"]]
    assert reasons == ["Loaded", "Adopted"], "what happened before is still said, and a repeat once"


def test_probes_and_metrics_are_served(api: ApiServer, agent: NodeAgent) -> None:
    agent.start()
    wait_for("liveness without a plan", lambda: agent.get("/healthz")[0] == 200)
    code, why = agent.get("/readyz")
    assert (code, "no plan" in why) == (503, True)
    api.set_spec(NODE_NAME, [api.put_bundle(PACKETS)])
    agent.wait_ready_by_probe()
    agent.wait_running("packets")
    text = agent.get("/metrics")[1]
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert {name for name in names if f"`{name}`" not in documented} == set()
    assert agent.metric('kubebee_loader_api_requests_total{code="200",verb="watch"}') >= 1
    assert agent.metric("kubebee_loader_watching") == 1


def test_it_takes_less_than_80_mib(api: ApiServer, agent: NodeAgent) -> None:
    kinds = [PACKETS, EXECS, balancer("shop"), policy("edge", "Deny")]
    api.set_spec(NODE_NAME, [api.put_bundle(manifest) for manifest in kinds])
    agent.start()
    for name in ("packets", "execs", "shop", "edge"):
        agent.wait_running(name)
    wait_for("a look at all programs", lambda: agent.node_status().get("features"))
    wait_for("what is compiled ahead", lambda: list(agent.cache.glob("**/*.pch")))  # the peak of it all
    assert agent.get("/metrics")[0] == 200
    assert agent.process is not None
    said = agent.run("cat", f"/proc/{agent.process.pid}/status").stdout
    assert int(said.partition("VmRSS:")[2].split()[0]) < 80 * 1024, said


def test_source_that_was_rendered_elsewhere_keeps_its_lines(api: ApiServer, agent: NodeAgent) -> None:
    manifest = program("packets", {"template": {"inline": "never rendered here: {{ missing }}"}})
    text = counter(body="this is no C")
    lines = tuple(SourceLine("mine.j2", 1000 + n) for n in range(1, text.count("\n") + 2))
    api.set_spec(NODE_NAME, [api.put_bundle(manifest, rendered=Rendered(text, lines))])
    agent.start()
    wait_for("its failure", lambda: "failure" in agent.resource_status("packets"))
    failure = agent.resource_status("packets")["failure"]
    assert failure["reason"] == "CompileFailed"
    assert "mine.j2:10" in failure["log"]
