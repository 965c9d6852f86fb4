"""One interface, many XDP programs: HostPolicy, ServiceLB, then the user's by priority, each on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import NODE, VIP, Lab, http_get, is_denied
from support.running import Running, wait_for
from support.seen import entries, variable
from support.site import balancer, policy

pytestmark = pytest.mark.root

# Entry, helper function, map and variables have the same names in every program here.
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");
__u64 runs;
int step = 1;

__attribute__((noinline)) int add(__u64 *to)
{
	if (!to)
		return -1;
	*to += step;
	return 0;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 key = 0;

	(void)ctx;
	add(bpf_map_lookup_elem(&counts, &key));
	__sync_fetch_and_add(&runs, 1);
	return @RESULT@;
}

char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def program(name: str, priority: int, result: str = "XDP_PASS", **more: object) -> dict[str, Any]:
    attach = {"type": "XDP", "interfaces": {"names": ["eth0"]}}
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": name},
        "spec": {
            "source": {"inline": SOURCE.replace("@RESULT@", result)},
            "globals": {"step": priority},
            "programs": [{"name": "count", "priority": priority, "attach": attach, **more}],
        },
    }


def place(running: Running, kind: str, name: str) -> dict[str, Any]:
    """Where a resource runs on eth0, as its status says."""
    attachments = running.status(kind, name).attachments
    return next((a for a in attachments if a["point"] == "eth0"), {})


def runs(running: Running, name: str) -> int:
    return int(variable(running, name, "runs"))


def steps(running: Running, name: str) -> int:
    return int(entries(running, name, "counts")[0]["formatted"]["value"])


def ping(lab: Lab) -> None:
    lab.client.run("ping", "-c", "2", "-i", "0.01", "-W", "0.3", NODE, check=False)


def test_the_order_is_policy_then_load_balancer_then_programs_by_priority(lab: Lab, running: Running) -> None:
    chain = [
        policy("edge", "Deny"),
        balancer("shop"),
        program("early", 100),
        program("late", 900),
    ]
    for manifest in reversed(chain):
        running.apply(manifest)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in chain]
    for kind, name in names:
        running.wait_ready(kind, name)
    wait_for("positions", lambda: [place(running, *name)["position"] for name in names] == [0, 1, 2, 3])
    assert len({place(running, *name)["linkId"] for name in names}) == 1
    wait_for("an answer", lambda: http_get(lab.client, VIP), 5)
    assert is_denied(lab.client, NODE, 8080)
    ping(lab)
    assert runs(running, "late") >= 2


def test_programs_of_equal_names_inside_have_each_their_own_map_and_variables(
    lab: Lab, running: Running
) -> None:
    for name, priority in (("one", 3), ("two", 7)):
        running.apply(program(name, priority))
    for name in ("one", "two"):
        running.wait_ready("BpfProgram", name)
    ping(lab)
    for name, step in (("one", 3), ("two", 7)):
        assert runs(running, name) >= 2
        assert steps(running, name) % step == 0
        assert steps(running, name) >= 2 * step


def test_coming_and_going_of_one_leaves_the_link_and_the_counts_of_others(lab: Lab, running: Running) -> None:
    running.apply(program("stays", 500))
    running.wait_ready("BpfProgram", "stays")
    link = place(running, "BpfProgram", "stays")["linkId"]
    ping(lab)
    before = runs(running, "stays")
    running.apply(program("guest", 100))
    running.wait_ready("BpfProgram", "guest")
    assert place(running, "BpfProgram", "guest")["linkId"] == link
    assert runs(running, "stays") >= before
    running.delete("bpfprogram-guest.yaml")
    wait_for("alone again", lambda: place(running, "BpfProgram", "stays")["position"] == 0)
    assert place(running, "BpfProgram", "stays")["linkId"] == link
    ping(lab)
    assert runs(running, "stays") >= before + 2


@pytest.mark.parametrize(
    ("verdict", "proceed_on", "next_runs"),
    [
        ("XDP_PASS", None, True),
        ("XDP_DROP", None, False),
        ("XDP_DROP", ["Drop", "Pass"], True),
        ("XDP_PASS", ["Drop"], False),
    ],
)
def test_the_next_program_runs_after_the_verdicts_of_proceed_on(
    lab: Lab, running: Running, verdict: str, proceed_on: list[str] | None, next_runs: bool
) -> None:
    running.apply(program("first", 100, verdict, **({"proceedOn": proceed_on} if proceed_on else {})))
    running.apply(program("second", 200))
    for name in ("first", "second"):
        running.wait_ready("BpfProgram", name)
    wait_for("one chain", lambda: place(running, "BpfProgram", "second")["position"] == 1)
    first, second = runs(running, "first"), runs(running, "second")
    ping(lab)
    assert runs(running, "first") > first
    assert (runs(running, "second") > second) == next_runs


def test_a_program_that_the_verifier_refuses_leaves_the_others_attached(lab: Lab, running: Running) -> None:
    running.apply(program("good", 100))
    running.wait_ready("BpfProgram", "good")
    before = place(running, "BpfProgram", "good")
    running.apply(program("bad", 50, "*(int *)(long)ctx->data"))
    status = running.wait("BpfProgram", "bad", lambda s: s.stalled, "bad is refused")
    assert status.reason == "VerifierRefused"
    assert status.failures[0]["log"]
    assert not status.attachments
    assert place(running, "BpfProgram", "good") == before
    count = runs(running, "good")
    ping(lab)
    assert runs(running, "good") >= count + 2
