"""TC programs of one interface and direction run by priority, whenever each of them came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import NODE, Lab
from support.clang import compile_c
from support.running import Running, wait_for

pytestmark = pytest.mark.root

FOREIGN = "/sys/fs/bpf/foreign"

# Each program puts its own digit behind those of the programs before it, in the packet's mark.
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define DIGIT %d

__u32 seen; /* digits of the programs that ran, this one's last */

SEC("tc")
int digit(struct __sk_buff *skb)
{
	skb->mark = skb->mark * 10 + DIGIT;
	seen = skb->mark;
	return -1; /* TCX_NEXT */
}

char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def tc(digit: int, priority: int) -> dict[str, Any]:
    attach = {"type": "TC", "interfaces": {"names": ["eth0"]}, "direction": "Ingress"}
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": f"digit{digit}"},
        "spec": {
            "source": {"inline": SOURCE % digit},
            "programs": [{"name": "digit", "priority": priority, "attach": attach}],
        },
    }


def order(lab: Lab, running: Running, last: int) -> int:
    """Digits of the programs that a packet passed, in order, as the last one saw them."""
    lab.client.run("ping", "-c", "1", "-W", "1", NODE)
    pin = f"/sys/fs/bpf/kubebee/m/bpfprogram-digit{last}/%2Ebss@*"
    found = running.run("sh", "-c", f"bpftool -j map dump pinned {pin}").stdout
    return int(found.rpartition('"seen":')[2].rstrip("]}\n"))


def test_they_run_by_priority_through_additions_restarts_and_edits(lab: Lab, running: Running) -> None:
    running.apply(tc(3, 300))
    running.wait_ready("BpfProgram", "digit3")
    running.apply(tc(1, 100))  # came later, runs before
    running.wait_ready("BpfProgram", "digit1")
    assert order(lab, running, 3) == 13

    running.kill()
    running.apply(tc(2, 200))  # comes while nobody looks
    running.start()
    running.wait_ready("BpfProgram", "digit2")
    assert order(lab, running, 3) == 123

    kept = {n: running.status("BpfProgram", f"digit{n}").attachments[0]["linkId"] for n in (2, 3)}
    running.apply(tc(1, 900))  # only its priority changes
    running.wait_ready("BpfProgram", "digit1", 2)
    wait_for("the new order", lambda: order(lab, running, 1) == 231)
    for n, link in kept.items():
        assert running.status("BpfProgram", f"digit{n}").attachments[0]["linkId"] == link, "need not move"

    def positions() -> list[int]:
        return [running.status("BpfProgram", f"digit{n}").attachments[0]["position"] for n in (2, 3, 1)]

    wait_for("positions in status", lambda: positions() == [0, 1, 2])
    running.delete("bpfprogram-digit2.yaml")
    wait_for("two left", lambda: order(lab, running, 1) == 31)


def test_programs_of_others_keep_their_place(lab: Lab, running: Running, tmp_path: Path) -> None:
    (tmp_path / "foreign.o").write_bytes(compile_c(SOURCE % 9))
    running.run("bpftool", "prog", "load", str(tmp_path / "foreign.o"), FOREIGN, "type", "tcx/ingress")
    running.run("bpftool", "net", "attach", "tcx_ingress", "pinned", FOREIGN, "dev", "eth0")
    running.apply(tc(2, 200))
    assert running.wait_ready("BpfProgram", "digit2").attachments[0]["mode"] == "TCX"
    running.apply(tc(1, 100))
    running.wait_ready("BpfProgram", "digit1")
    assert order(lab, running, 2) == 912
