"""What a unit lives through: restart, kill, edits, removal, sabotage. The kernel is asked, not kubebee."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import BACKENDS, NODE, VIP, Lab, http_get
from support.running import KUBEBEE, Running, wait_for

pytestmark = pytest.mark.root

COUNTER = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
{head}
struct {{
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, {size});
	__type(key, __u32);
	__type(value, {value});
}} counts SEC(".maps");
volatile int step = 1;

SEC("{section}")
int {name}(struct {ctx} *ctx)
{{
	__u32 key = 7;
	{value} one = step, *seen = bpf_map_lookup_elem(&counts, &key);

	(void)ctx;
	if (seen)
		*seen += step;
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	{body}
	return {result};
}}
char _license[] SEC("license") = "GPL";
"""


def counter(name: str = "packets", **changes: str) -> str:
    """C of a program that counts its runs under key 7 of `counts`."""
    fields = {"head": "", "size": "8", "value": "__u64", "section": "xdp", "ctx": "xdp_md", "body": ""}
    fields["result"] = "XDP_PASS"
    return COUNTER.format(name=name, **(fields | changes))


def program(name: str, source: str, attach: dict[str, object], **spec: object) -> dict[str, object]:
    """A BpfProgram of one function called like itself."""
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": name},
        "spec": {"source": {"inline": source}, "programs": [{"name": name, "attach": attach}], **spec},
    }


XDP = {"type": "XDP", "interfaces": {"names": ["eth0"]}}
EXEC = {"type": "RawTracepoint", "name": "sched_process_exec"}


def tracer(name: str = "execs", **changes: str) -> str:
    """C of the same counter at a tracepoint."""
    return counter(name, **({"section": "raw_tp", "ctx": "bpf_raw_tracepoint_args", "result": "0"} | changes))


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    """A kubebee on an empty folder."""
    with Running(lab.node_command, tmp_path) as started:
        yield started


def programs(running: Running) -> set[int]:
    """Ids of the programs that the node's pins hold."""
    return {
        p["id"]
        for p in running.bpftool("prog", "show", "-f")
        if any("kubebee" in x for x in p.get("pinned", []))
    }


def counted(running: Running, unit: str) -> int:
    """The value of `counts` of a unit, read through its pin."""
    found = running.run("sh", "-c", f"ls /sys/fs/bpf/kubebee/m/bpfprogram-{unit}/counts@*").stdout.split()
    assert len(found) == 1, found
    entries = running.bpftool("map", "dump", "pinned", found[0])
    return int(entries[0]["formatted"]["value"]) if entries else 0


def ping(lab: Lab, count: int = 3) -> None:
    """Packets that eth0 of the node receives."""
    lab.client.run("ping", "-c", str(count), "-i", "0.01", "-W", "1", NODE)


def test_a_program_counts_what_arrives(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    status = running.wait_ready("BpfProgram", "packets")
    assert [(a["point"], a["mode"]) for a in status.attachments] == [("eth0", "Native")]
    ping(lab, 5)
    assert counted(running, "packets") >= 5


def test_a_restart_adopts_what_runs(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.apply(program("execs", tracer(), EXEC))
    names = ("packets", "execs")
    links = [running.wait_ready("BpfProgram", name).attachments for name in names]
    ping(lab)
    before, count = programs(running), counted(running, "packets")
    running.kill()
    ping(lab)
    running.start()
    wait_for("adoption", lambda: sum("adopted" in e["message"] for e in running.events()) == 2)
    assert programs(running) == before
    assert [running.status("BpfProgram", name).attachments for name in names] == links
    assert counted(running, "packets") >= count + 3


@pytest.mark.parametrize("delay_ms", [0, 20, 60, 120, 250, 500])
def test_killed_at_any_point_it_converges(lab: Lab, running: Running, delay_ms: int) -> None:
    running.apply(program("packets", counter(), XDP))
    running.wait_ready("BpfProgram", "packets")
    running.apply(program("packets", counter(head=f"/* edit {delay_ms} */ int extra;", body="extra++;"), XDP))
    running.apply(program("execs", tracer(), EXEC))
    running.run("sleep", str(delay_ms / 1000))
    running.kill()
    running.start()
    running.wait_ready("BpfProgram", "packets", 2)
    running.wait_ready("BpfProgram", "execs")
    before = counted(running, "packets")
    ping(lab)
    assert counted(running, "packets") >= before + 3
    pinned = running.run("sh", "-c", "ls /sys/fs/bpf/kubebee/p/*/ /sys/fs/bpf/kubebee/l/*/").stdout.split()
    assert len([name for name in pinned if "@" in name]) == 4, pinned


def test_an_edit_of_the_code_keeps_the_map_and_the_link(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    first = running.wait_ready("BpfProgram", "packets").attachments[0]
    ping(lab)
    count = counted(running, "packets")
    running.apply(program("packets", counter(body="bpf_ktime_get_ns();"), XDP))
    second = running.wait_ready("BpfProgram", "packets", 2).attachments[0]
    assert second["linkId"] == first["linkId"]
    assert second["progId"] != first["progId"]
    ping(lab)
    assert counted(running, "packets") >= count + 3


def test_an_edit_of_a_live_variable_loads_nothing(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.wait_ready("BpfProgram", "packets")
    before = programs(running)
    running.apply(program("packets", counter(), XDP, globals={"step": 1000}))
    running.wait_ready("BpfProgram", "packets", 2)
    assert programs(running) == before
    ping(lab)
    assert counted(running, "packets") >= 3000


def test_a_version_that_does_not_compile_leaves_the_old_one_counting(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    first = running.wait_ready("BpfProgram", "packets").attachments
    running.apply(program("packets", counter(body="no_such_function();"), XDP))
    status = running.wait("BpfProgram", "packets", lambda s: s.generation == 2 and not s.ready)
    assert status.stalled
    assert status.reason == "CompileFailed"
    assert "packets.c:" in status.message
    assert "stays attached" in status.message
    assert status.attachments == first
    count = counted(running, "packets")
    ping(lab)
    assert counted(running, "packets") >= count + 3


def test_a_broken_edit_while_it_is_down_leaves_the_old_one_counting(lab: Lab, running: Running) -> None:
    for name, source, attach in (("packets", counter, XDP), ("execs", tracer, EXEC)):
        running.apply(program(name, source(), attach))
        running.wait_ready("BpfProgram", name)
    running.kill()
    for name, source, attach in (("packets", counter, XDP), ("execs", tracer, EXEC)):
        running.apply(program(name, source(body="no_such_function();"), attach))
    running.start()
    for name in ("packets", "execs"):
        status = running.wait("BpfProgram", name, lambda s: s.generation == 2 and not s.ready)
        assert status.reason == "CompileFailed"
        assert status.attachments
    count = counted(running, "packets")
    ping(lab)
    assert counted(running, "packets") >= count + 3


def test_deleting_a_resource_leaves_nothing_of_it(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.apply(program("execs", tracer(), EXEC))
    links = {
        a["linkId"] for n in ("packets", "execs") for a in running.wait_ready("BpfProgram", n).attachments
    }
    ours = programs(running)
    maps = {m for p in running.bpftool("prog", "show") if p["id"] in ours for m in p.get("map_ids", [])}
    assert links
    assert maps
    running.delete("bpfprogram-packets.yaml")
    running.delete("bpfprogram-execs.yaml")

    def nothing_left() -> bool:
        left = running.run("sh", "-c", "ls /sys/fs/bpf/kubebee/*/* 2>/dev/null", check=False).stdout
        return not (
            left.strip()
            or ours & {p["id"] for p in running.bpftool("prog", "show")}
            or maps & {m["id"] for m in running.bpftool("map", "show")}
            or links & {link["id"] for link in running.bpftool("link", "show")}
        )

    wait_for("nothing left", nothing_left)
    assert running.status("BpfProgram", "packets").document == {}


def test_what_was_detached_behind_its_back_is_attached_again(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    link = running.wait_ready("BpfProgram", "packets").attachments[0]["linkId"]
    running.run("bpftool", "link", "detach", "id", str(link))

    def attached_anew() -> bool:
        return running.status("BpfProgram", "packets").attachments[0]["linkId"] != link

    wait_for("attached again", attached_anew, 5)
    wait_for("Event", lambda: any(e["reason"] == "Reattached" for e in running.events()))
    count = counted(running, "packets")
    ping(lab)
    assert counted(running, "packets") >= count + 3


def test_removed_pins_are_made_again(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.apply(program("execs", tracer(), EXEC))
    running.wait_ready("BpfProgram", "packets")
    running.wait_ready("BpfProgram", "execs")
    before = programs(running)
    running.run("sh", "-c", "rm -r /sys/fs/bpf/kubebee/[lpm]/*")
    wait_for("pins", lambda: programs(running) == before, 5)
    wait_for("Event", lambda: any(e["reason"] == "Repinned" for e in running.events()))


def test_an_interface_that_appears_later_is_attached(lab: Lab, running: Running) -> None:
    attach = {"type": "XDP", "interfaces": {"regexes": ["late[0-9]+"]}}
    running.apply(program("packets", counter(), attach))
    running.wait_ready("BpfProgram", "packets")
    lab.node.network.ip("link", "add", "late0", "type", "veth", "peer", "name", "xlate0")
    status = running.wait("BpfProgram", "packets", lambda s: s.attachments, "attached")
    assert [a["point"] for a in status.attachments] == ["late0"]
    lab.node.network.ip("link", "del", "late0")
    running.wait("BpfProgram", "packets", lambda s: not s.attachments, "gone")


def test_a_second_process_is_refused(running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.wait_ready("BpfProgram", "packets")
    other = running.run(KUBEBEE, "run", "-f", str(running.manifests), check=False)
    assert other.returncode != 0
    assert "another kubebee process" in other.stderr


def test_programs_of_one_interface_run_in_order_and_come_and_go(lab: Lab, running: Running) -> None:
    for name, priority in (("second", 200), ("first", 100)):
        manifest = program(name, counter(name), XDP)
        manifest["spec"]["programs"][0]["priority"] = priority  # type: ignore[index]
        running.apply(manifest)
    for name in ("first", "second"):
        running.wait_ready("BpfProgram", name)
    places = {n: running.status("BpfProgram", n).attachments[0] for n in ("first", "second")}
    assert [places["first"]["position"], places["second"]["position"]] == [0, 1]
    assert places["first"]["linkId"] == places["second"]["linkId"]
    ping(lab)
    assert min(counted(running, "first"), counted(running, "second")) >= 3
    count = counted(running, "second")
    running.delete("bpfprogram-first.yaml")
    alone = running.wait("BpfProgram", "second", lambda s: s.attachments[0]["position"] == 0)
    assert alone.attachments[0]["linkId"] == places["second"]["linkId"]
    ping(lab)
    assert counted(running, "second") >= count + 3


def test_only_what_changed_is_compiled(lab: Lab, running: Running) -> None:
    names = [f"p{number}" for number in range(5)]
    for name in names:
        running.apply(program(name, tracer(name), EXEC))
    for name in names:
        running.wait_ready("BpfProgram", name)
    before = {n: running.status("BpfProgram", n).attachments[0]["progId"] for n in names}
    running.apply(program("p0", tracer("p0", body="bpf_ktime_get_ns();"), EXEC))
    running.wait_ready("BpfProgram", "p0", 2)
    after = {n: running.status("BpfProgram", n).attachments[0]["progId"] for n in names}
    assert [n for n in names if before[n] != after[n]] == ["p0"]


def load_balancer(frontends: int) -> dict[str, object]:
    """A ServiceLB of many frontends, each with all servers of the lab."""
    backends = [{"address": address, "port": port} for address in BACKENDS.values() for port in (80, 8080)]
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {
            "interfaces": {"all": True},
            "frontends": [
                {"name": f"f{n}", "address": VIP, "port": 1000 + n, "backends": backends}
                for n in range(frontends)
            ],
        },
    }


def test_maps_of_the_load_balancer_grow_with_what_is_served(lab: Lab, running: Running) -> None:
    running.apply(load_balancer(3))
    running.wait_ready("ServiceLB", "shop")
    small = slots(running)
    running.apply(load_balancer(900))
    running.wait_ready("ServiceLB", "shop", 2)
    assert slots(running) > small
    wait_for("an answer", lambda: http_get(lab.client, VIP, 1899), 5)
    assert http_get(lab.client, VIP, 1000) in BACKENDS


def slots(running: Running) -> int:
    """Rows of the slot map that the node's XDP programs use."""
    maps = running.bpftool("map", "show")
    return max(int(m["max_entries"]) for m in maps if m.get("name") == "kb_lb_slots")


def test_the_node_itself_has_a_status(lab: Lab, running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.wait_ready("BpfProgram", "packets")
    status = running.wait(
        "BpfNode", "node1", lambda s: s.status.get("resources") and s.status.get("features")
    ).status
    (entry,) = status["resources"]
    assert (entry["kind"], entry["name"], entry["stage"]) == ("BpfProgram", "packets", "Running")
    (function,) = entry["programs"]
    assert [place["point"] for place in function["attachments"]] == ["eth0"]
    assert entry["wantedHash"] == entry["runningHash"]
    assert {f["name"] for f in status["features"] if f.get("available")} >= {"tcx"}


def test_every_edit_has_a_generation_of_its_own_refused_ones_too(running: Running) -> None:
    running.apply(program("packets", counter(), XDP))
    running.wait_ready("BpfProgram", "packets")
    running.apply(program("packets", counter(), XDP, overheadBudget={"cpuPercent": 5}))
    refused = running.wait_reason("BpfProgram", "packets", "NotImplemented")
    running.apply(program("packets", counter(), XDP))
    mended = running.wait_ready("BpfProgram", "packets", refused.generation + 1)
    assert (refused.generation, mended.generation) == (2, 3)
