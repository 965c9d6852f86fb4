"""One folder with every kind of attachment, on whatever kernel this is: each runs, or says what is missing.

`make test-kernels` runs this on Debian's kernels under qemu, where a program takes seconds to compile: all
manifests are applied at once, and deadlines are wide.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import BACKENDS, NODE, VIP, Lab, http_get, is_denied
from support.running import NotReachedError, Running, Status, wait_for
from support.seen import entries, pins, variable

pytestmark = [pytest.mark.root, pytest.mark.timeout(500)]

EXAMPLES = Path(__file__).parents[2] / "examples"
SETTLED_WITHIN_S = 300.0
Manifest = dict[str, Any]
Version = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """An example and how to see that it works.

    Attributes:
        since: the first version of Linux that has all it needs.
        lacks: what its status must name on an older one.
        provoke: makes its events happen.
        counters: global variables that each count one function's runs; none: its map `counts` fills.
    """

    file: str
    since: Version
    lacks: str
    provoke: Callable[[Lab], object]
    counters: tuple[str, ...] = ()
    edits: Callable[[Manifest], None] = lambda _manifest: None

    @property
    def manifest(self) -> Manifest:
        """Its BpfProgram."""
        documents = yaml.safe_load_all((EXAMPLES / f"{self.file}.yaml").read_text())
        found: Manifest = next(document for document in documents if document["kind"] == "BpfProgram")
        self.edits(found)
        return found

    @property
    def name(self) -> str:
        """Name of its resource."""
        return str(self.manifest["metadata"]["name"])


def kernel() -> Version:
    major, minor = platform.release().split("-")[0].split(".")[:2]
    return int(major), int(minor)


def from_node(lab: Lab) -> None:
    lab.on_node("curl", "-s", "--max-time", "5", f"http://{BACKENDS['backend1']}/")


def start_a_process(lab: Lab) -> None:
    lab.on_node("true")


def look_up_a_name(lab: Lab) -> None:
    failing = "socket.getaddrinfo('no-number', None, flags=socket.AI_NUMERICHOST)"
    lab.on_node("/usr/bin/python3", "-c", f"import socket; {failing}", check=False)


def open_nothing(lab: Lab) -> None:
    lab.on_node("cat", "/nonexistent", check=False)


def connect_nowhere(lab: Lab) -> None:
    lab.on_node("/usr/bin/python3", "-c", "import socket; socket.socket().connect_ex(('255.255.255.255', 1))")


def list_programs(lab: Lab) -> None:
    lab.on_node("bpftool", "prog", "show")


def ping_a_blocked_source(lab: Lab) -> None:
    lab.backends["backend1"].ip("address", "replace", "192.0.2.1/32", "dev", "lo")
    lab.backends["backend1"].run("ping", "-c", "1", "-W", "1", "-I", "192.0.2.1", "10.2.1.1", check=False)


def by_the_driver(manifest: Manifest) -> None:
    manifest["spec"]["programs"][0]["attach"] |= {"mode": "Native", "interfaces": {"names": ["eth1"]}}


def on_one_interface(manifest: Manifest) -> None:
    for program in manifest["spec"]["programs"]:
        program["attach"]["interfaces"] = {"names": ["eth1"]}


# Links on perf events came with 5.15, those of struct_ops with 6.4; what TC needs was there long before.
CASES = (
    Case("xdp-block-list", (5, 10), "xdp", ping_a_blocked_source, ("hits",), by_the_driver),
    Case("tc-both-directions", (5, 10), "clsact", from_node, (), on_one_interface),
    Case("tracepoint-and-raw-tracepoint", (5, 15), "perf events", start_a_process, ("forks", "exits")),
    Case("uprobe-name-lookups", (5, 15), "perf events", look_up_a_name, ("lookups", "failures")),
    Case("kprobe-opens", (5, 15), "kprobe|perf events", open_nothing, ("opens", "failures")),
    Case("fentry-tcp-connect", (5, 10), "fentry", connect_nowhere, ("connects", "failures")),
    Case("lsm-bpf-audit", (5, 10), "lsm", list_programs, ("calls",)),
    Case("cgroup-traffic", (5, 10), "cgroup", from_node, ("bytes_in", "bytes_out", "established")),
)
SETTLING = (
    ("tp-btf-retransmits", (5, 10), "tp_btf"),
    ("iter-maps", (5, 10), "iter"),
    ("struct-ops-congestion-control", (6, 4), "struct_ops"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def running(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(lab.node_command, tmp_path_factory.mktemp("kernels"))
    for case in CASES:
        made.apply(case.manifest)
    for file, _, _ in SETTLING:
        made.apply((EXAMPLES / f"{file}.yaml").read_text())
    for kind in ("hostpolicy", "servicelb"):
        made.apply((EXAMPLES / "quickstart" / f"{kind}.yaml").read_text())
    with made:
        yield made


def settled(running: Running, kind: str, name: str) -> Status:
    """Its status once it is Ready or nothing but an edit or another kernel helps."""

    def look() -> Status | None:
        status = running.status(kind, name)
        assert running.process is not None
        if running.process.poll() is not None:
            pytest.fail(f"kubebee ended: {running.log.read_text()[-4000:]}")
        return status if status.ready or status.stalled else None

    try:
        return wait_for(f"{kind}/{name} is decided", look, SETTLED_WITHIN_S)
    except NotReachedError as error:
        state = yaml.safe_dump(running.status(kind, name).document)
        raise NotReachedError(f"{error}\n{state}\n{running.log.read_text()[-4000:]}") from None


def supported(status: Status, since: Version, lacks: str) -> bool:
    """Whether it runs; if not, that is for what this kernel lacks, and status names it.

    Debian's kernels have all that their version has; others are built with less.
    """
    whole = "Debian" in platform.version()
    if status.ready:
        assert not whole or kernel() >= since, f"kubebee learned to run this before {since}: say so above"
        return True
    said = f"{status.message} {status.failures}"
    assert status.reason == "Unsupported", yaml.safe_dump(status.document)
    assert any(word in said.lower() for word in lacks.split("|")), said
    assert not whole or kernel() < since, said
    return False


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_it_runs_at_its_event_or_names_what_is_missing(lab: Lab, running: Running, case: Case) -> None:
    if not supported(settled(running, "BpfProgram", case.name), case.since, case.lacks):
        assert not pins(running, case.name), "nothing of it is loaded"
        return

    def counted() -> bool:
        case.provoke(lab)
        if not case.counters:
            return bool(entries(running, case.name, "counts"))
        return all(int(variable(running, case.name, name)) for name in case.counters)

    wait_for(f"events of {case.file}", counted, 60)


@pytest.mark.parametrize(("file", "since", "lacks"), SETTLING, ids=[file for file, _, _ in SETTLING])
def test_it_is_attached_or_names_what_is_missing(
    running: Running, file: str, since: Version, lacks: str
) -> None:
    name = yaml.safe_load((EXAMPLES / f"{file}.yaml").read_text())["metadata"]["name"]
    status = settled(running, "BpfProgram", name)
    if supported(status, since, lacks):
        assert all(attachment["linkId"] for attachment in status.attachments)


def test_the_load_balancer_and_the_firewall_share_an_interface(lab: Lab, running: Running) -> None:
    for kind, name in (("ServiceLB", "shop"), ("HostPolicy", "edge")):
        status = settled(running, kind, name)
        assert status.ready, yaml.safe_dump(status.document)
    wait_for("an answer by the VIP", lambda: http_get(lab.client, VIP).startswith("backend"), 60)
    wait_for("a denied port", lambda: is_denied(lab.client, NODE, 8080, timeout=3), 60)
