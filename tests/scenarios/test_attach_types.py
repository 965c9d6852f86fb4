"""Each attach type for real: the manifests of examples/ on a running kubebee, and what they wait for."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import BACKENDS, NODE, Lab, tcp_connect
from support.calls import ADDRESS_CALLS, CONGESTION_WINDOW, FAILING_LOOKUP, PYTHON
from support.clang import compile_c
from support.running import Running, Status, wait_for
from support.seen import InKernel, entries, pins, variable

pytestmark = pytest.mark.root

EXAMPLES = Path(__file__).parents[2] / "examples"
BLOCKED = "192.0.2.1"  # xdp-block-list.yaml blocks it
Manifest = dict[str, Any]


def example(file: str) -> Manifest:
    """The BpfProgram of an example."""
    documents = yaml.safe_load_all((EXAMPLES / f"{file}.yaml").read_text())
    return next(document for document in documents if document["kind"] == "BpfProgram")


@dataclass(frozen=True)
class Case:
    """An example, what to do so that its functions run, and how to see that they did.

    Attributes:
        counters: global variables that each count one function's runs; none: its map `counts` fills.
        links: kinds of link that bpftool must show for its attachments, one for each.
    """

    file: str
    provoke: Callable[[Lab], object]
    links: tuple[str, ...]
    counters: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Name of its resource."""
        return str(example(self.file)["metadata"]["name"])

    def counts(self, running: Running) -> dict[str, int]:
        """How often each function ran."""
        if not self.counters:
            return {"entries": len(entries(running, self.unit, "counts"))}
        return {name: int(variable(running, self.unit, name)) for name in self.counters}


def from_blocked_source(lab: Lab) -> None:
    lab.client.ip("address", "replace", f"{BLOCKED}/32", "dev", "lo")
    answer = lab.client.run("ping", "-c", "1", "-W", "0.2", "-I", BLOCKED, NODE, check=False)
    assert answer.returncode != 0, "what the program drops must not be answered"


def connect_to_node(lab: Lab) -> None:
    tcp_connect(lab.client, NODE, 8080).close()


def start_a_process(lab: Lab) -> None:
    lab.on_node("true")


def lose_a_syn(lab: Lab) -> None:
    """The kernel repeats a SYN that gets no answer after a second."""
    with lab.client.socket() as lost:
        lost.settimeout(1.3)
        with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
            lost.connect(("10.1.0.77", 9))


def look_up_a_name(lab: Lab) -> None:
    lab.on_node(*PYTHON, FAILING_LOOKUP, check=False)


def ask_a_backend(lab: Lab) -> None:
    lab.on_node("curl", "-s", "--max-time", "3", f"http://{BACKENDS['backend1']}/")


def call_with_addresses(lab: Lab) -> None:
    lab.on_node(*PYTHON, ADDRESS_CALLS)


EXAMPLE_CASES = (
    Case("xdp-block-list", from_blocked_source, ("xdp",) * 3, ("hits",)),
    Case("xdp-syn-guard", connect_to_node, ("xdp",)),
    Case("tc-both-directions", connect_to_node, ("tcx",) * 6),
    Case(
        "tracepoint-and-raw-tracepoint", start_a_process, ("perf_event", "raw_tracepoint"), ("forks", "exits")
    ),
    Case("tp-btf-retransmits", lose_a_syn, ("raw_tracepoint",)),
    Case("uprobe-name-lookups", look_up_a_name, ("uprobe_multi",) * 2, ("lookups", "failures")),
    Case("cgroup-traffic", ask_a_backend, ("cgroup",) * 3, ("bytes_in", "bytes_out", "established")),
    Case("cgroup-connect-log", ask_a_backend, ("cgroup",) * 2),
    Case(
        "cgroup-sock-addr",
        call_with_addresses,
        ("cgroup",) * 8,
        tuple(f"{call}{n}s" for call in ("bind", "connect", "sendmsg", "recvmsg") for n in (4, 6)),
    ),
    Case(
        "cgroup-sock",
        call_with_addresses,
        ("cgroup",) * 4,
        ("made", "released", "bound4", "bound6"),
    ),
)
BY_EXAMPLE = pytest.mark.parametrize("case", EXAMPLE_CASES, ids=lambda case: case.file)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.node.network.ip("link", "set", "lo", "up")
        yield made


@pytest.fixture(scope="module")
def running(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path_factory.mktemp("types")) as started:
        yield started


def no_pins(running: Running, unit: str) -> bool:
    return not pins(running, unit)


@pytest.fixture
def applied(running: Running) -> Iterator[Callable[[Manifest], Status]]:
    """Apply manifests and wait until they are Ready; all are deleted after the test, and gone."""
    names: dict[str, Status] = {}

    def apply(manifest: Manifest) -> Status:
        name = manifest["metadata"]["name"]
        before = running.status("BpfProgram", name).generation
        running.apply(manifest)
        names[name] = running.wait_ready("BpfProgram", name, before + 1)
        return names[name]

    yield apply
    in_kernel = {name: InKernel.of(running, status) for name, status in names.items()}
    for name in names:
        running.delete(f"bpfprogram-{name}.yaml")
    for name, seen in in_kernel.items():
        wait_for(f"no pins of {name}", partial(no_pins, running, name))
        wait_for(f"nothing left of {name}", partial(seen.gone, running))


Apply = Callable[[Manifest], Status]


@BY_EXAMPLE
def test_its_functions_run_at_its_event(lab: Lab, running: Running, applied: Apply, case: Case) -> None:
    status = applied(example(case.file))
    links = {one["id"]: one for one in running.bpftool("link", "show")}
    shown = [links[a["linkId"]] for a in status.attachments]
    assert sorted(one["type"] for one in shown) == sorted(case.links)
    assert [one["prog_id"] for one in shown] == [a["progId"] for a in status.attachments]
    case.provoke(lab)
    assert all(case.counts(running).values()), case.counts(running)


EDITABLE = [case for case in EXAMPLE_CASES if case.counters]
IN_PLACE = {"xdp", "tcx", "cgroup"}  # whose links the kernel lets change their program


@pytest.mark.parametrize("case", EDITABLE, ids=lambda case: case.file)
def test_an_edit_of_its_code_keeps_what_it_counted(
    lab: Lab, running: Running, applied: Apply, case: Case
) -> None:
    manifest = example(case.file)
    before = applied(manifest)
    case.provoke(lab)
    counted = case.counts(running)
    applied(with_code(manifest, "const volatile int edited = 1;"))
    after = running.status("BpfProgram", case.unit)
    assert not {a["progId"] for a in before.attachments} & {a["progId"] for a in after.attachments}
    for old, new, kind in zip(before.attachments, after.attachments, case.links, strict=True):
        assert (old["linkId"] == new["linkId"]) == (kind in IN_PLACE), kind
    assert InKernel(programs_of(before), set(), set()).gone(running)
    case.provoke(lab)
    assert all(count > counted[name] for name, count in case.counts(running).items())


def with_code(manifest: Manifest, declaration: str) -> Manifest:
    """The manifest with a declaration added to its source."""
    edited = copy.deepcopy(manifest)
    edited["spec"]["source"]["inline"] += f"\n{declaration}\n"
    return edited


def programs_of(status: Status) -> set[int]:
    return {a["progId"] for a in status.attachments}


def test_an_iterator_reports_when_its_pin_is_read(running: Running, applied: Apply) -> None:
    applied(example("iter-maps"))
    (pin,) = pins(running, "maps", "l")
    report = running.run("cat", pin).stdout
    listed = {line.split(":")[0] for line in report.splitlines()}
    assert listed >= {f"map {one['id']}" for one in running.bpftool("map", "show")}


def congestion_window(lab: Lab) -> int:
    """The window of a connection under the example's congestion control."""
    return int(lab.on_node(*PYTHON, CONGESTION_WINDOW, BACKENDS["backend1"], "80").stdout)


def test_a_congestion_control_steers_connections_and_is_replaced(
    lab: Lab, running: Running, applied: Apply
) -> None:
    manifest = example("struct-ops-congestion-control")
    applied(manifest)
    assert congestion_window(lab) == 20
    edited = copy.deepcopy(manifest)
    source = edited["spec"]["source"]
    source["inline"] = source["inline"].replace("WINDOW 20", "WINDOW 33")
    applied(edited)
    assert congestion_window(lab) == 33
    (link,) = [one for one in running.bpftool("link", "show") if one["type"] == "struct_ops"]
    assert [a["linkId"] for a in running.status("BpfProgram", "fixed-window").attachments] == [link["id"]]


@pytest.mark.parametrize("mode", ["Native", "Generic", "Auto"])
def test_the_status_says_which_xdp_mode_runs(running: Running, applied: Apply, mode: str) -> None:
    manifest = example("xdp-block-list")
    attach = manifest["spec"]["programs"][0]["attach"]
    attach |= {"mode": mode, "interfaces": {"names": ["eth1"]}}
    (attachment,) = applied(manifest).attachments
    assert attachment["mode"] == ("Generic" if mode == "Generic" else "Native")  # veth has native XDP
    (device,) = running.bpftool("net", "show")[0]["xdp"]
    assert (device["devname"], device["mode"]) == (
        "eth1",
        "generic" if mode == "Generic" else "driver",
    )


def test_an_xdp_mode_is_changed_by_an_edit(running: Running, applied: Apply) -> None:
    manifest = example("xdp-block-list")
    attach = manifest["spec"]["programs"][0]["attach"]
    for mode in ("Native", "Generic", "Native"):
        attach |= {"mode": mode, "interfaces": {"names": ["eth1"]}}
        assert [a["mode"] for a in applied(manifest).attachments] == [mode]


LACKS = {
    "kprobe-opens": ("opens", "kprobe"),
    "fentry-tcp-connect": ("tcp-connects", "fentry"),
    "lsm-bpf-audit": ("bpf-audit", "lsm"),
}


@pytest.mark.parametrize("file", LACKS)
def test_what_the_kernel_lacks_is_named(running: Running, file: str) -> None:
    name, feature = LACKS[file]
    running.apply(example(file))
    status = running.wait("BpfProgram", name, lambda s: s.ready or s.stalled, f"{file} is decided")
    running.delete(f"bpfprogram-{name}.yaml")
    if status.ready:
        pytest.skip(f"this kernel has {feature}")
    assert status.reason == "Unsupported"
    assert feature in status.message.lower()
    wait_for("no pins", partial(no_pins, running, name))


def test_a_compiled_object_is_attached_like_source(lab: Lab, running: Running, applied: Apply) -> None:
    manifest = example("tracepoint-and-raw-tracepoint")
    elf = compile_c(manifest["spec"]["source"]["inline"])
    manifest["spec"]["source"] = {
        "object": {"base64": base64.b64encode(elf).decode(), "sha256": hashlib.sha256(elf).hexdigest()}
    }
    applied(manifest)
    start_a_process(lab)
    assert variable(running, "process-life", "forks") > 0


def test_source_from_a_config_map_follows_its_edits(lab: Lab, running: Running, applied: Apply) -> None:
    manifest = example("tracepoint-and-raw-tracepoint")
    source = manifest["spec"]["source"]["inline"]
    manifest["spec"]["source"] = {"configMap": {"name": "code", "namespace": "default", "key": "life.c"}}
    running.apply(config_map(source))
    before = programs_of(applied(manifest))
    running.apply(config_map(source + "\nconst volatile int edited = 1;\n"))
    running.wait("BpfProgram", "process-life", lambda s: not programs_of(s) & before, "the edit")
    start_a_process(lab)
    assert variable(running, "process-life", "forks") > 0


def config_map(source: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "code", "namespace": "default"},
        "data": {"life.c": source},
    }
