"""A controller that is killed at each of its writes, one after the other: the next one finishes its work."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubebee.controller.kinds import EVENTS, NODES, OURS, leases
from support.controllers import NAMESPACE, Bare, seen
from support.cutting_proxy import CuttingProxy
from support.site import counter, program

MOST_WRITES = 80
KEPT = "kept"


@pytest.fixture
def proxy(bare: Bare) -> Iterator[CuttingProxy]:
    """What a controller that shall be cut off reaches the API server by."""
    pki = bare.cluster.spec.certificates
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    with CuttingProxy(bare.cluster.spec.server, tls) as made:
        yield made


def change_everything(bare: Bare, number: int) -> None:
    """A resource comes, another goes, a third is edited, and a node leaves: every sort of write is due."""
    bare.put(program(f"round-{number + 1}", counter(size=str(number + 3))))
    bare.put(program(KEPT, counter(size=str(number + 101))))
    bare.cluster.kubectl("delete", "bpfprogram", f"round-{number}", "--wait=false")
    bare.api.delete(NODES, f"leaves-{number}")


def settled(bare: Bare, number: int, *nodes: str) -> Callable[[], bool]:
    """Whether what is to run by now is Ready, on these nodes and no others, with nothing left over."""
    programs = {KEPT, f"round-{number}"}

    def look() -> bool:
        bare.obey(*nodes)
        there = {
            item["metadata"]["name"] for _, items in bare.api.pages(OURS["BpfProgram"]) for item in items
        }
        return (
            there == programs
            and bare.names("bpfnodes") == set(nodes)
            and len(bare.names("bundles")) == len(programs)
            and all(bare.ready("BpfProgram", name) for name in programs)
        )

    return look


def finish(bare: Bare, number: int) -> None:
    """Another controller, which nobody disturbs, makes everything so."""
    bare.add_node(f"leaves-{number}")
    bare.api.delete(leases(NAMESPACE), "kubebee-controller")  # whose end need not be waited for
    with bare.acting():
        seen(
            f"all is as it shall be in round {number}", settled(bare, number, "n1", "n2", f"leaves-{number}")
        )
    bare.api.delete(leases(NAMESPACE), "kubebee-controller")


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.full)])
def test_killed_at_each_write_it_is_followed_by_one_that_finishes(
    bare: Bare, proxy: CuttingProxy, tmp_path: Path, step: int
) -> None:
    kubeconfig = proxy.kubeconfig(tmp_path / "proxy.kubeconfig")
    bare.put(program(KEPT, counter()))
    bare.put(program("round-0", counter(size="2")))
    finish(bare, 0)
    killed_at: list[str] = []
    for number, writes in enumerate(range(0, MOST_WRITES, step)):
        change_everything(bare, number)
        controller = bare.start(kubeconfig)
        proxy.allow(writes, controller.process.kill)
        done = settled(bare, number + 1, "n1", "n2")
        seen(
            f"it is killed at write {writes}, or done",
            lambda process=controller.process, done=done: process.poll() is not None or done(),
        )
        if controller.process.poll() is None:
            controller.kill()
            break
        killed_at.append(proxy.writes[-1])
        finish(bare, number + 1)
    else:
        pytest.fail(f"it makes more than {MOST_WRITES} writes: {killed_at}")
    assert len(killed_at) >= 18 // step, killed_at
    told = [
        (item["involvedObject"]["name"], item["reason"], item["message"])
        for _, items in bare.api.pages(EVENTS)
        for item in items
    ]
    assert len(told) == len(set(told)), "an Event was told twice"
