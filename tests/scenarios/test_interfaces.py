"""Which interfaces a program is attached to, as they come, go, and change their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab import Lab
from support.running import Running, wait_for

pytestmark = pytest.mark.root

XDP = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int pass(struct xdp_md *ctx) { (void)ctx; return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""
TC = XDP.replace('SEC("xdp")', 'SEC("tc")').replace("xdp_md", "__sk_buff").replace("XDP_PASS", "-1")
DEADLINE_S = 1.5  # promised is one second; the look with bpftool takes some of it


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def running(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path_factory.mktemp("interfaces")) as started:
        yield started


@pytest.fixture
def spare(lab: Lab) -> Iterator[list[str]]:
    """Names of interfaces to remove after the test."""
    made: list[str] = []
    yield made
    for name in made:
        lab.node.network.run("ip", "link", "del", name, check=False)


@pytest.fixture(params=["XDP", "TC"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def program(kind: str, interfaces: dict[str, Any]) -> dict[str, Any]:
    attach: dict[str, Any] = {"type": kind, "interfaces": interfaces}
    if kind == "TC":
        attach["direction"] = "Ingress"
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": "pass"},
        "spec": {
            "source": {"inline": XDP if kind == "XDP" else TC},
            "programs": [{"name": "pass", "attach": attach}],
        },
    }


def apply(running: Running, kind: str, interfaces: dict[str, Any]) -> None:
    """Apply and wait until the status speaks of it."""
    before = running.status("BpfProgram", "pass").generation
    running.apply(program(kind, interfaces))
    running.wait("BpfProgram", "pass", lambda s: s.generation > before, f"{interfaces}")


def attached(running: Running, kind: str) -> set[str]:
    """Interfaces of the node that have such a program, as bpftool says."""
    (shown,) = running.bpftool("net", "show")
    return {one["devname"] for one in shown[kind.lower()]}


def soon(running: Running, kind: str, names: set[str]) -> None:
    """Wait until just these interfaces have a program: by news of them, not by the look every two seconds."""
    wait_for(f"{kind} on {names}", lambda: attached(running, kind) == names, DEADLINE_S)


def add(lab: Lab, spare: list[str], name: str) -> None:
    lab.node.network.ip("link", "add", name, "type", "veth", "peer", "name", f"p-{name}")
    spare.append(name)


@pytest.mark.parametrize(
    ("interfaces", "names"),
    [
        ({"names": ["eth1"]}, {"eth1"}),
        ({"regexes": ["eth[12]"]}, {"eth1", "eth2"}),
        ({"regexes": ["th0", "eth"]}, set()),  # matched against the whole name
        ({"primary": True}, {"eth0"}),
        ({"all": True}, {"eth0", "eth1", "eth2"}),  # never loopback
        ({"all": True, "exclude": ["eth[01]"]}, {"eth2"}),
        ({"names": ["eth0", "eth1"], "exclude": ["eth0"]}, {"eth1"}),
        ({"names": ["lo"]}, {"lo"}),
    ],
    ids=str,
)
def test_a_selector_chooses_these(running: Running, interfaces: dict[str, Any], names: set[str]) -> None:
    apply(running, "TC", interfaces)
    assert attached(running, "TC") == names
    points = running.status("BpfProgram", "pass").attachments
    assert {a["point"].split()[0] for a in points} == names


def test_an_invalid_expression_is_refused_and_never_means_all(running: Running) -> None:
    apply(running, "TC", {"names": ["eth1"]})
    running.apply(program("TC", {"regexes": ["eth[0"]}))
    status = running.wait("BpfProgram", "pass", lambda s: s.stalled, "a refusal")
    assert "regexes" in status.message
    assert "eth[0" in status.message
    assert attached(running, "TC") == {"eth1"}


def test_an_interface_that_comes_is_attached_within_a_second(
    lab: Lab, running: Running, spare: list[str], kind: str
) -> None:
    apply(running, kind, {"regexes": ["veth.*"], "exclude": ["veth-not"]})
    for name in ("xveth0", "veth-not", "veth-a"):
        add(lab, spare, name)
    soon(running, kind, {"veth-a"})


def test_an_interface_made_again_under_its_name_is_attached_again(
    lab: Lab, running: Running, spare: list[str], kind: str
) -> None:
    add(lab, spare, "again0")
    apply(running, kind, {"names": ["again0"]})
    soon(running, kind, {"again0"})
    lab.node.network.ip("link", "del", "again0")
    missing = running.wait("BpfProgram", "pass", lambda s: not s.ready, "it is missed")
    assert missing.reason == "TargetNotFound"
    assert not missing.stalled, "it may come back without an edit"
    add(lab, spare, "again0")
    soon(running, kind, {"again0"})
    status = running.wait("BpfProgram", "pass", lambda s: s.ready, "it is back")
    assert len(status.attachments) == 1


def test_a_renamed_interface_is_chosen_by_its_new_name(
    lab: Lab, running: Running, spare: list[str], kind: str
) -> None:
    add(lab, spare, "wrong0")
    apply(running, kind, {"regexes": ["right.*"]})
    assert attached(running, kind) == set()
    lab.node.network.ip("link", "set", "wrong0", "name", "right0")
    spare.append("right0")
    soon(running, kind, {"right0"})
    lab.node.network.ip("link", "set", "right0", "name", "wrong0")
    soon(running, kind, set())


def test_the_primary_interface_follows_the_default_route(lab: Lab, running: Running) -> None:
    apply(running, "TC", {"primary": True})
    assert attached(running, "TC") == {"eth0"}
    lab.node.network.ip("route", "replace", "default", "via", "10.2.1.2")
    wait_for("the other interface", lambda: attached(running, "TC") == {"eth1"}, 5)
