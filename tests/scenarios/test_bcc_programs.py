"""Programs in BCC's dialect, made by the real python3-bpfcc and attached by kubebee like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubebee.errors import UnsupportedError
from kubebee.toolchain import bcc
from lab import NODE, Lab
from support.running import Running, wait_for
from support.seen import InKernel, entries, pins

pytestmark = pytest.mark.root

EXAMPLE = Path(__file__).parents[2] / "examples" / "bcc-config-map.yaml"
COUNTER = """
BPF_HASH(counts, u32, u64);
int count(struct xdp_md *ctx) { u32 key = 0; counts.increment(key); return XDP_PASS; }
"""


@pytest.fixture(autouse=True, scope="module")
def _needs_bcc() -> None:
    if not Path("/usr/lib/python3/dist-packages/bcc").is_dir():
        pytest.skip("python3-bpfcc is not installed")
    try:
        bcc.find_headers()
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def running(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path_factory.mktemp("bcc")) as started:
        yield started


def program(name: str, source: str, attach: dict[str, object], function: str = "count") -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": name},
        "spec": {
            "toolchain": "Bcc",
            "source": {"inline": source},
            "programs": [{"name": function, "attach": attach}],
        },
    }


def xdp(name: str, source: str = COUNTER, interface: str = "eth0") -> dict[str, Any]:
    return program(name, source, {"type": "XDP", "interfaces": {"names": [interface]}})


def packets(running: Running, unit: str) -> int:
    (entry,) = entries(running, unit, "counts")
    return int.from_bytes(bytes(int(byte, 16) for byte in entry["value"]), "little")


def ping(lab: Lab) -> None:
    lab.client.run("ping", "-c", "3", "-i", "0.01", "-W", "1", NODE)


def test_the_example_counts_wakeups_with_source_from_a_config_map(running: Running) -> None:
    running.apply(EXAMPLE.read_text(), "bcc.yaml")
    status = running.wait_ready("BpfProgram", "wakeups")
    seen = InKernel.of(running, status)
    wait_for("wakeups", lambda: entries(running, "wakeups", "counts"))
    running.delete("bcc.yaml")
    wait_for("no pins", lambda: not pins(running, "wakeups"))
    wait_for("nothing left in the kernel", lambda: seen.gone(running))


def test_xdp_runs_alone_on_its_interface_through_edits_and_restarts(lab: Lab, running: Running) -> None:
    running.apply(xdp("packets"))
    first = running.wait_ready("BpfProgram", "packets").attachments
    assert [(a["point"], a["mode"]) for a in first] == [("eth0", "Native")]
    ping(lab)
    counted = packets(running, "packets")
    assert counted >= 3

    running.kill()
    running.start()
    wait_for("adoption", lambda: any("adopted" in event["message"] for event in running.events()))
    assert running.status("BpfProgram", "packets").attachments == first
    ping(lab)
    assert packets(running, "packets") >= counted + 3

    counted = packets(running, "packets")
    running.apply(xdp("packets", COUNTER.replace("u32 key = 0;", "u32 key = 0; bpf_ktime_get_ns();")))
    (edited,) = running.wait_ready("BpfProgram", "packets", 2).attachments
    assert edited["linkId"] == first[0]["linkId"]
    assert edited["progId"] != first[0]["progId"]
    ping(lab)
    assert packets(running, "packets") >= counted + 3
    assert not [event for event in running.events() if event["reason"] == "Repinned"]
    running.delete("bpfprogram-packets.yaml")
    wait_for("no pins", lambda: not pins(running, "packets"))


def test_xdp_does_not_share_an_interface_and_leaves_the_other_alone(lab: Lab, running: Running) -> None:
    running.apply(xdp("dialect", interface="eth1"))
    alone = running.wait_ready("BpfProgram", "dialect").attachments
    libbpf = xdp("libbpf", C_COUNTER, "eth1")
    del libbpf["spec"]["toolchain"]
    running.apply(libbpf)
    status = running.wait("BpfProgram", "dialect", lambda s: not s.ready, "dialect is refused")
    assert status.reason == "NotLinkable"
    assert "can't share an interface" in status.message
    assert [a["point"] for a in running.wait_ready("BpfProgram", "libbpf").attachments] == ["eth1"]
    running.delete("bpfprogram-libbpf.yaml")
    again = running.wait("BpfProgram", "dialect", lambda s: s.ready and s.attachments, "dialect is back")
    assert [a["point"] for a in again.attachments] == [a["point"] for a in alone]
    running.delete("bpfprogram-dialect.yaml")


C_COUNTER = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int count(struct xdp_md *ctx) { (void)ctx; return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""


def test_an_error_of_the_compiler_names_the_users_line(running: Running) -> None:
    running.apply(xdp("broken", "BPF_HASH(counts, u32, u64);\nint count(void *ctx) { return nothing; }\n"))
    status = running.wait("BpfProgram", "broken", lambda s: s.stalled, "broken is refused")
    running.delete("bpfprogram-broken.yaml")
    assert status.reason == "CompileFailed"
    assert "broken.c:2:" in status.message


def test_a_function_that_is_not_there_is_named(running: Running) -> None:
    running.apply(program("absent", COUNTER, {"type": "RawTracepoint", "name": "sched_wakeup"}, "nothing"))
    status = running.wait("BpfProgram", "absent", lambda s: s.stalled, "absent is refused")
    running.delete("bpfprogram-absent.yaml")
    assert "nothing" in status.message


def test_kprobes_are_unsupported_where_the_kernel_has_none(running: Running) -> None:
    source = "int count(struct pt_regs *ctx) { return 0; }"
    running.apply(program("probe", source, {"type": "Kprobe", "symbol": "do_sys_openat2"}))
    status = running.wait("BpfProgram", "probe", lambda s: s.ready or s.stalled, "probe is decided")
    running.delete("bpfprogram-probe.yaml")
    if status.ready:
        pytest.skip("this kernel has kprobes")
    assert status.reason == "Unsupported"
    assert "kprobe" in status.message


def test_attach_types_that_bcc_cannot_load_are_refused(running: Running) -> None:
    attach = {"type": "CgroupSockAddr", "hook": "Connect4"}
    running.apply(program("connects", "int count(void *ctx) { return 1; }", attach))
    status = running.wait("BpfProgram", "connects", lambda s: s.stalled, "connects is refused")
    running.delete("bpfprogram-connects.yaml")
    assert status.reason == "NotImplemented"
    assert "use toolchain Clang" in f"{status.message} {status.failures}"
