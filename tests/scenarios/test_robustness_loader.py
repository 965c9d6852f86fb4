"""Edits and nodes that change at awkward moments: the kernel is asked what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import Lab
from support.running import KUBEBEE, Running, wait_for
from support.seen import program_ids, variable
from support.site import counter, program, tracer

pytestmark = pytest.mark.root

EXEC = {"type": "RawTracepoint", "name": "sched_process_exec"}
STEP = "volatile int step = 7;"


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    """A kubebee on an empty folder."""
    with Running(lab.node_command, tmp_path) as started:
        yield started


def at(running: Running, name: str) -> list[tuple[str, int]]:
    """Where a program is attached, and by which link."""
    return [(a["point"], a["linkId"]) for a in running.status("BpfProgram", name).attachments]


def on(kind: str, *regexes: str, **more: object) -> dict[str, Any]:
    """Attach to interfaces."""
    return {"type": kind, "interfaces": {"regexes": list(regexes)}, **more}


def tc(name: str) -> dict[str, Any]:
    """A program at tc of every interface called up or down."""
    source = counter(section="tc", ctx="struct __sk_buff", result="-1")
    return program(name, source, on("TC", "(up|down)0", direction="Ingress"))


def renamed(lab: Lab, old: str, new: str) -> None:
    """Give an interface of the node another name."""
    lab.node.network.ip("link", "set", old, "down")
    lab.node.network.ip("link", "set", old, "name", new)


@pytest.mark.parametrize("down", [False, True], ids=["watched", "while it is down"])
def test_an_interface_that_is_renamed_keeps_its_links(lab: Lab, running: Running, down: bool) -> None:
    lab.node.network.ip("link", "add", "up0", "type", "veth", "peer", "name", "peer0")
    running.apply(program("packets", counter(), on("XDP", "(up|down)0")))
    running.apply(tc("flows"))
    before = {}
    for name in ("packets", "flows"):
        running.wait_ready("BpfProgram", name)
        ((_, before[name]),) = at(running, name)
    if down:
        running.kill()
    renamed(lab, "up0", "down0")
    if down:
        running.start()
    for name, link in before.items():
        status = running.wait("BpfProgram", name, lambda s: s.attachments[0]["point"].startswith("down0"))
        assert status.ready
        assert [a["linkId"] for a in status.attachments] == [link]
    assert not [e for e in running.events() if e["type"] == "Warning"]


def test_a_mode_that_the_interface_lacks_leaves_the_program_in_the_one_it_has(running: Running) -> None:
    where = {"type": "XDP", "interfaces": {"names": ["lo"]}}
    running.apply(program("packets", counter(), {**where, "mode": "Generic"}))
    running.wait_ready("BpfProgram", "packets")
    running.apply(program("packets", counter(), {**where, "mode": "Native"}))
    status = running.wait("BpfProgram", "packets", lambda s: s.generation == 2 and not s.ready)
    assert [(a["point"], a["mode"]) for a in status.attachments] == [("lo", "Generic")]
    links = running.bpftool("link", "show")
    assert status.attachments[0]["linkId"] in [link["id"] for link in links]
    running.apply(program("packets", counter(), {**where, "mode": "Generic"}))
    running.wait_ready("BpfProgram", "packets", 3)


def test_a_failure_goes_with_the_interface_that_caused_it(lab: Lab, running: Running) -> None:
    lab.node.network.ip("link", "add", "up0", "type", "veth", "peer", "name", "peer0")
    lab.node.network.ip("link", "set", "peer0", "mtu", "9000")  # more than native XDP takes in one piece
    running.apply(program("packets", counter(), on("XDP", "up0", "eth0", mode="Native")))
    running.wait("BpfProgram", "packets", lambda s: s.failures, "refused")
    lab.node.network.ip("link", "del", "up0")
    running.wait("BpfProgram", "packets", lambda s: s.ready)


@pytest.mark.parametrize("down", [False, True], ids=["with an edit of the code", "while it is down"])
def test_a_variable_no_longer_declared_has_its_first_value_again(running: Running, down: bool) -> None:
    source = tracer(body='asm volatile("" :: "r"(step));').replace('SEC("raw_tp")', f'{STEP}\nSEC("raw_tp")')
    running.apply(program("execs", source, EXEC, globals={"step": 1000}))
    running.wait_ready("BpfProgram", "execs")
    assert variable(running, "execs", "step", ".data") == 1000
    if down:
        running.kill()
    running.apply(program("execs", source if down else f"{source}\n/* edited */\n", EXEC))
    if down:
        running.start()
    running.wait_ready("BpfProgram", "execs", 2)
    assert variable(running, "execs", "step", ".data") == 7


def test_a_name_used_again_has_no_past(running: Running) -> None:
    running.apply(program("execs", tracer(), EXEC))
    running.wait_ready("BpfProgram", "execs")
    running.kill()
    running.delete("bpfprogram-execs.yaml")
    running.start()
    running.wait("BpfNode", "node1", lambda s: s.status and not s.status.get("resources"))
    running.apply(program("execs", tracer(body="no_such_function();"), EXEC))
    running.wait_reason("BpfProgram", "execs", "CompileFailed")
    running.kill()
    running.start()
    wait_for("a pass", lambda: running.log.read_text().count("CompileFailed") >= 2)
    assert not running.status("BpfProgram", "execs").attachments


def test_a_long_cgroup_path_is_adopted_like_any_other(running: Running) -> None:
    path = f"kubepods-{'long' * 25}.slice/{'deep' * 25}.scope"
    root = running.run("sh", "-c", "awk '/ - cgroup2 /{print $5; exit}' /proc/self/mountinfo").stdout.strip()
    running.run("mkdir", "-p", f"{root}/{path}")
    try:
        source = counter(section="cgroup_skb/ingress", ctx="struct __sk_buff", result="1")
        running.apply(program("skbs", source, {"type": "CgroupSkb", "direction": "Ingress", "cgroup": path}))
        running.wait_ready("BpfProgram", "skbs")
        before = at(running, "skbs")
        running.kill()
        running.start()
        wait_for("adoption", lambda: any("adopted" in e["message"] for e in running.events()))
        assert at(running, "skbs") == before
        assert before[0][1] in [link["id"] for link in running.bpftool("link", "show")]
        assert "Traceback" not in running.log.read_text()
    finally:
        running.run("rmdir", "-p", "--ignore-fail-on-non-empty", f"{root}/{path}", check=False)


def test_a_folder_that_is_away_for_a_while_takes_nothing_with_it(running: Running) -> None:
    running.apply(program("packets", counter()))
    running.wait_ready("BpfProgram", "packets")
    before = at(running, "packets")
    away = running.manifests.with_name("away")
    running.manifests.rename(away)
    wait_for("the complaint", lambda: "can't be read" in running.log.read_text())
    edited = yaml.safe_dump(program("packets", counter(body="bpf_ktime_get_ns();")))
    (away / "bpfprogram-packets.yaml").write_text(edited)
    away.rename(running.manifests)
    running.wait_ready("BpfProgram", "packets", 2)
    assert at(running, "packets") == before
    assert "Traceback" not in running.log.read_text()


def test_an_instance_whose_directory_was_removed_is_still_taken(running: Running) -> None:
    running.apply(program("execs", tracer(), EXEC))
    running.wait_ready("BpfProgram", "execs")
    running.run("rm", "-r", "/sys/fs/bpf/kubebee")
    wait_for("pins", lambda: running.run("ls", "/sys/fs/bpf/kubebee/p", check=False).stdout.strip())
    folder = str(running.manifests)
    other = running.run("timeout", "10", KUBEBEE, "run", "-f", folder, check=False)
    assert "another kubebee process" in other.stderr


def test_edits_leave_no_descriptor_behind(running: Running) -> None:
    def edit(number: int) -> None:
        running.apply(program("packets", counter(body=f"key += {number % 3};")))
        before = program_ids(running, "execs")
        running.apply(program("execs", tracer(body=f"key += {number % 3};"), EXEC))
        wait_for("the edit", lambda: len(now := program_ids(running, "execs")) == 1 and now != before)

    def descriptors() -> int:
        assert running.process is not None
        return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))

    for number in range(4):
        edit(number)
    before = descriptors()
    for number in range(4, 40):
        edit(number)
    wait_for("all closed", lambda: descriptors() <= before + 2, 5)
