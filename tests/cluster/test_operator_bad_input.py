"""Bad input in a cluster: kubectl get and describe say what is wrong, on which node and in which line."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, Node
from support import clang
from support.cluster_manifests import balancer, policy
from support.hostile import DAMAGED, GREEDY, SLOW
from support.installed import NAMESPACE, Installed, Status
from support.site import BODY_LINE, EXEC, counter, program, tracer

Manifest = dict[str, Any]
NAME = "bad"
LINE = f"{NAME}.c:{BODY_LINE}"
PATIENCE = 60.0


@dataclass(frozen=True)
class Case:
    """Something that is refused.

    Attributes:
        manifest: of a resource called NAME.
        reason: of its condition Ready.
        words: what `kubectl describe` must say, besides the reason.
        by_node: a node refuses it, and is named; else the controller does.
    """

    manifest: Manifest
    reason: str
    words: tuple[str, ...]
    by_node: bool = True


def templated(text: str, **params: object) -> Manifest:
    return program(NAME, {"template": {"inline": text, "params": params}})


def compiled(elf: bytes, digest: str = "") -> Manifest:
    """The program as a compiled object."""
    given = {"base64": base64.b64encode(elf).decode(), "sha256": digest or hashlib.sha256(elf).hexdigest()}
    return program(NAME, {"object": given})


def renamed(manifest: Manifest, function: str) -> Manifest:
    manifest["spec"]["programs"][0]["name"] = function
    return manifest


def on_interface(name: str) -> dict[str, object]:
    return {"type": "XDP", "interfaces": {"names": [name]}}


OUT_OF_PACKET = "seen = (void *)(long)ctx->data; *(volatile __u64 *)seen;"
LOOPS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
CASES = {
    "C that does not compile": Case(
        program(NAME, counter(body="no_such();")), "CompileFailed", (f"{LINE}:2", "no_such")
    ),
    "a template that does not compile": Case(
        templated(counter(body="no_such();")), "CompileFailed", (f"template:{BODY_LINE}", "no_such")
    ),
    "C that the verifier refuses": Case(
        program(NAME, counter(body=OUT_OF_PACKET)),
        "VerifierRefused",
        (LINE, "offset is outside of the packet", "invalid access to packet"),
    ),
    "a tracer that the verifier refuses": Case(
        program(NAME, tracer(body="*(volatile __u64 *)(__u64)one;"), EXEC),
        "VerifierRefused",
        (LINE, "invalid mem access"),
    ),
    "an include of a secret": Case(
        program(NAME, '#include "/etc/shadow"\n'), "CompileFailed", (f"{NAME}.c:1", "cannot open file")
    ),
    "an include that never ends": Case(
        program(NAME, '#include "/dev/zero"\n'), "CompileFailed", (f"{NAME}.c:1", "cannot open file")
    ),
    "a template that loops": Case(templated(LOOPS), "TemplateTimeout", ("within 2 s",), by_node=False),
    "a template that reads what it must not": Case(
        templated("\n{{ x|attr('__init__') }}", x=1), "TemplateForbidden", ("template:2",), by_node=False
    ),
    "an object of another digest": Case(
        compiled(clang.compile_c(counter()), "0" * 64), "DigestMismatch", ("0" * 64,)
    ),
    "an object that is nowhere": Case(
        program(NAME, {"object": {"path": "/opt/none.o", "sha256": "0" * 64}}),
        "ObjectNotFound",
        ("/opt/none.o", "loader.hostPaths"),
    ),
    "a function that is not in it": Case(
        renamed(program(NAME, counter()), "counter"), "FunctionNotFound", ("'counter'", "it has count")
    ),
    "an attach type that does not fit": Case(
        program(NAME, counter(), EXEC), "AttachTypeMismatch", ("section 'xdp'", "RawTracepoint")
    ),
    "a kernel that lacks it": Case(
        program(NAME, tracer(section="lsm/bpf"), {"type": "Lsm", "hook": "bpf"}), "Unsupported", ("LSM",)
    ),
    "a tracepoint that is not there": Case(
        program(NAME, tracer(section="tp"), {"type": "Tracepoint", "category": "sched", "name": "no_such"}),
        "NoSuchTracepoint",
        ("sched/no_such",),
    ),
    "a file to probe that is not there": Case(
        program(
            NAME,
            tracer(section="uprobe"),
            {"type": "Uprobe", "path": "/usr/bin/none", "offset": 64},
        ),
        "FileNotFound",
        ("/usr/bin/none", "loader.hostPaths"),
    ),
    "an interface that is not there": Case(
        program(NAME, counter(), on_interface("late0")), "TargetNotFound", ("late0", "as soon as it appears")
    ),
    "a ConfigMap that is not there": Case(
        program(NAME, {"configMap": {"namespace": "default", "name": "none", "key": "a.c"}}),
        "SourceNotFound",
        ("default/none",),
        by_node=False,
    ),
    "a field that is not built": Case(
        program(NAME, counter(), overheadBudget={"cpuPercent": 5}),
        "NotImplemented",
        ("spec.overheadBudget", "leave it out"),
        by_node=False,
    ),
    "an expression that is none": Case(
        program(NAME, counter(), {"type": "XDP", "interfaces": {"regexes": ["eth[0"]}}),
        "InvalidSpec",
        ("spec.programs[0].attach.interfaces.regexes", "eth[0"),
        by_node=False,
    ),
}
CASES |= {
    f"an object, {spoil.__name__}": Case(compiled(spoil(clang.compile_c(counter()))), reason, (word,))
    for spoil, reason, word in DAMAGED
}


@pytest.fixture
def site(loaders: Installed) -> Iterator[Installed]:
    """A loader on every node; what is bad goes after the test, and what ran has gone on."""
    yield loaders
    for kind in ("bpfprogram", "servicelb", "hostpolicy"):
        loaders.delete(kind, NAME)
    assert loaders.status("bpfprogram", "resident").ready


def told(site: Installed, kind: str, reason: str, *words: str, name: str = NAME) -> Status:
    """Wait until kubectl get shows a reason, and see that describe says the words and has a Warning."""
    status = site.wait(kind, name, lambda s: s.current and s.reason == reason, PATIENCE)
    row = site.cluster.kubectl("get", kind, name).stdout.splitlines()[1].split()
    assert row[1] == "False"
    assert reason in row

    def described() -> str:
        text = site.cluster.kubectl("describe", kind, name).stdout
        return text if "Warning" in text.partition("Events:")[2] else ""

    text = site.cluster.wait_until(described, "a Warning in describe", PATIENCE)
    for word in words:
        assert word in text, text
    return status


@pytest.mark.parametrize("name", CASES)
def test_is_told_with_its_place(
    cluster: Cluster, site: Installed, name: str, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[name]
    start = time.monotonic()
    site.apply(case.manifest)
    status = told(site, "bpfprogram", case.reason, case.reason, *case.words)
    record_property("seconds", round(time.monotonic() - start, 1))
    nodes = {node.name for node in cluster.nodes}
    named = {failure["node"] for failure in status.status.get("failures", ()) if failure.get("node")}
    assert bool(named & nodes) == case.by_node, status.status
    assert all(failure.get("hint") or failure.get("log") for failure in status.status.get("failures", ()))


@pytest.mark.full
@pytest.mark.parametrize(("source", "reason"), [(SLOW, "CompileTimeout"), (GREEDY, "CompileMemory")])
def test_a_source_that_keeps_the_compiler_busy_is_stopped_and_holds_up_nobody(
    cluster: Cluster, site: Installed, source: str, reason: str
) -> None:
    """All nodes' compilers here share the processors until their limits end them: that takes its time."""
    site.apply(program(NAME, source))
    site.apply(program("meanwhile", tracer(body="bpf_ktime_get_ns();"), EXEC))
    try:
        site.wait_ready("bpfprogram", "meanwhile", nodes=site.size)
        told(site, "bpfprogram", reason, "macros", cluster.nodes[0].name)
    finally:
        site.delete("bpfprogram", "meanwhile")


def test_two_frontends_of_one_address_are_told_of_each_other(site: Installed) -> None:
    backends = [("192.0.2.1", 80)]
    site.apply(balancer("first", "198.51.100.7", 80, backends, socketLB={"enabled": False}))
    try:
        site.wait_ready("servicelb", "first")
        site.apply(balancer(NAME, "198.51.100.7", 80, backends, socketLB={"enabled": False}))
        told(site, "servicelb", "DuplicateFrontend", "198.51.100.7:80", "ServiceLB/first")
    finally:
        site.delete("servicelb", "first")


def test_policies_that_overlap_are_told_of_each_other(site: Installed) -> None:
    """Both are in force; the one that hides a rule of the other says so."""
    rule = {"name": "rule", "from": [{"cidr": "192.0.2.0/24"}]}
    site.apply(policy("aaa", {**rule, "action": "Deny"}))
    site.apply(policy(NAME, {**rule, "action": "Allow"}))
    try:
        status = site.wait(
            "hostpolicy",
            NAME,
            lambda s: s.ready and f"aaa/rule hides {NAME}/rule" in s.condition("Ready")["message"],
        )
        assert status.nodes == f"{site.size}/{site.size}"
        assert f"aaa/rule hides {NAME}/rule" in site.cluster.kubectl("describe", "hostpolicy", NAME).stdout
    finally:
        site.delete("hostpolicy", "aaa")


def test_a_foreign_program_at_the_interface_is_left_alone_and_told_by_its_id(
    cluster: Cluster, site: Installed, tmp_path: Path
) -> None:
    node, foreign = cluster.nodes[0], tmp_path / "foreign.o"
    stranger = 'SEC("xdp") int stranger(struct xdp_md *ctx) { (void)ctx; return XDP_PASS; }\n'
    foreign.write_bytes(clang.compile_c(clang.HEADERS + stranger + clang.LICENSE))
    node.run("ip", "link", "add", "taken0", "type", "veth", "peer", "name", "taken1")
    try:
        node.run("ip", "link", "set", "dev", "taken0", "xdpdrv", "object", str(foreign), "section", "xdp")
        selector = {"kubernetes.io/hostname": node.name}
        site.apply(program(NAME, counter(), on_interface("taken0"), nodeSelector=selector))
        told(
            site,
            "bpfprogram",
            "ForeignProgram",
            *(
                node.name,
                "taken0: already runs an XDP program that is not ours: id",
                "bpftool net detach xdp",
            ),
        )
        node.run("ip", "link", "set", "dev", "taken0", "xdpdrv", "off")
        site.wait_ready("bpfprogram", NAME, nodes=1)
    finally:
        site.delete("bpfprogram", NAME)
        node.run("ip", "link", "del", "taken0")


def test_a_map_that_changes_is_said_to_have_lost_its_contents(site: Installed) -> None:
    site.apply(program(NAME, tracer(), EXEC))
    site.wait_ready("bpfprogram", NAME, nodes=site.size)
    site.apply(program(NAME, tracer(value="__u32"), EXEC))
    lost = "map counts was made anew: its layout changed, its contents are lost"
    site.wait("bpfprogram", NAME, lambda s: s.ready and lost in s.condition("Ready")["message"])
    assert lost in site.cluster.kubectl("describe", "bpfprogram", NAME).stdout


def test_a_link_detached_behind_its_back_is_attached_again_and_told(
    cluster: Cluster, site: Installed
) -> None:
    node = cluster.nodes[0]
    site.apply(program(NAME, counter()))
    before = site.wait_ready("bpfprogram", NAME, nodes=site.size)
    (place,) = [each for each in before.status["attachments"] if each["node"] == node.name]
    node.run("bpftool", "link", "detach", "id", str(place["linkId"]))
    cluster.wait_until(lambda: site.xdp(node), "attached again")
    event = cluster.wait_until(
        lambda: [e for e in site.events(NAME) if e["reason"] == "Reattached"], "an Event"
    )
    assert node.name in event[0]["message"]
    assert "eth0" in event[0]["message"]
    site.wait_ready("bpfprogram", NAME, nodes=site.size)


def test_a_second_loader_on_a_node_is_refused(cluster: Cluster, site: Installed) -> None:
    node = cluster.nodes[0]
    pod = site.loader_pod(node)
    second = ("kubebee", "agent", "--node", node.name, "--metrics-port", "0")
    words = ("exec", "-n", NAMESPACE, pod, "-c", "loader", "--", *second)
    done = cluster.kubectl(*words, check=False)
    assert done.returncode != 0
    assert "another kubebee process" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bpffs_that_is_mounted_anew_stops_nothing_and_has_all_pins_with_the_next_loader(
    cluster: Cluster, site: Installed
) -> None:
    """The loader's pod has a mount of its own of the old one, which keeps what is pinned there."""
    node = cluster.nodes[0]
    site.apply(program(NAME, counter()))
    site.wait_ready("bpfprogram", NAME, nodes=site.size)
    before = site.xdp(node)
    node.run("umount", "--lazy", "/sys/fs/bpf")
    node.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    assert not site.pins(node)
    assert site.xdp(node) == before
    restart_loader(site, node)
    cluster.wait_until(lambda: any(NAME in pin for pin in site.pins(node)), "pins in the new one")
    cluster.wait_until(lambda: site.xdp(node), "its program at eth0")
    site.wait_ready("bpfprogram", NAME, nodes=site.size)


def test_a_full_cache_disk_is_told_and_stops_nothing(cluster: Cluster, site: Installed) -> None:
    node = cluster.nodes[0]
    cache = "/var/lib/kubebee"
    node.run("mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=8", "tmpfs", cache)
    try:
        node.run("sh", "-c", f"cat /dev/zero >{cache}/full", check=False)
        restart_loader(site, node)
        site.apply(program(NAME, tracer(body="bpf_ktime_get_ns();"), EXEC))
        full = "not written: No space left on device"
        status = site.wait("bpfprogram", NAME, lambda s: s.ready and full in json.dumps(s.status))
        assert status.nodes == f"{site.size}/{site.size}"
        assert full in cluster.kubectl("describe", "bpfprogram", NAME).stdout
    finally:
        site.delete("bpfprogram", NAME)
        node.run("umount", "--lazy", cache)
        restart_loader(site, node)


def restart_loader(site: Installed, node: Node) -> None:
    """Its pod's mounts are those of its start."""
    old = site.loader_pod(node)
    site.cluster.kubectl("delete", "pod", "-n", NAMESPACE, old, "--grace-period=0", "--force")
    site.cluster.wait_until(lambda: site.loader_pod(node) != old, f"another loader on {node.name}", 120)
