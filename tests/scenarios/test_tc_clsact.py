"""TC programs by filters on clsact, as on kernels before 6.6: `--tc-mode clsact` forces it on any kernel."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubebee.bpf.features import feature
from lab import NODE, Lab
from support.clang import compile_c
from support.running import Running, wait_for
from support.seen import InKernel, pins, program_ids, variable
from support.site import resource
from support.stream import Stream, counted, counter

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

CLSACT = ("--tc-mode", "clsact")
RATE = 10_000
MARKS = "/sys/fs/bpf/kubebee/q"

# Each program puts its own digit behind those of the programs before it, in the packet's mark.
DIGIT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u32 seen; /* digits of the programs that ran, this one's last */
__u32 runs;

SEC("tc")
int digit(struct __sk_buff *skb)
{
	skb->mark = skb->mark * 10 + %(digit)d;
	seen = skb->mark;
	runs++;
	return %(verdict)s;
}

char _license[] SEC("license") = "GPL";
"""
NEXT, ACCEPT, DROP, PIPE, STOLEN = "-1", "0", "2", "3", "4"


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path, CLSACT) as started:
        yield started


def at(direction: str = "Ingress", *interfaces: str) -> dict[str, Any]:
    return {"type": "TC", "interfaces": {"names": list(interfaces or ["eth0"])}, "direction": direction}


def tc(
    digit: int, priority: int = 500, verdict: str = NEXT, attach: dict[str, Any] | None = None
) -> dict[str, Any]:
    programs = [{"name": "digit", "priority": priority, "attach": attach or at()}]
    source = {"inline": DIGIT % {"digit": digit, "verdict": verdict}}
    return resource("BpfProgram", f"digit{digit}", {"source": source, "programs": programs})


def streamed(version: int) -> dict[str, Any]:
    programs = [{"name": "count_stream", "attach": at()}]
    source = {"inline": counter(version, "tc")}
    return resource("BpfProgram", "streamed", {"source": source, "programs": programs})


def filters(running: Running, interface: str = "eth0", side: str = "ingress") -> list[dict[str, Any]]:
    """BPF filters as tc lists them, in the order they run."""
    shown = json.loads(running.run("tc", "-j", "filter", "show", "dev", interface, side).stdout or "[]")
    return [one for one in shown if one.get("options", {}).get("bpf_name")]


def ours(running: Running, interface: str = "eth0", side: str = "ingress") -> dict[str, int]:
    """Program ids of kubebee's filters, by unit."""
    found = filters(running, interface, side)
    names = [one["options"]["bpf_name"].split(":") for one in found]
    ids = [one["options"]["prog"]["id"] for one in found]
    units = {name[2]: prog_id for name, prog_id in zip(names, ids, strict=True) if name[0] == "kubebee"}
    assert len(units) == sum(name[0] == "kubebee" for name in names), "each at one place only"
    return units


def has_qdisc(running: Running, interface: str = "eth0") -> bool:
    return "clsact" in running.run("tc", "qdisc", "show", "dev", interface).stdout


def marks(running: Running) -> list[str]:
    return running.run("sh", "-c", f"ls {MARKS} 2>/dev/null", check=False).stdout.split()


def ping(lab: Lab) -> bool:
    return lab.client.run("ping", "-c", "1", "-W", "1", NODE, check=False).returncode == 0


def order(lab: Lab, running: Running, last: int) -> int:
    """Digits of the programs that a packet passed, in order, as the last one saw them."""
    ping(lab)
    return int(variable(running, f"digit{last}", "seen"))


def foreign(running: Running, tmp_path: Path, *, digit: int = 9, pref: int = 30_000) -> None:
    """Somebody else's filter on eth0."""
    (tmp_path / "foreign.o").write_bytes(compile_c(DIGIT % {"digit": digit, "verdict": NEXT}))
    running.run("tc", "qdisc", "add", "dev", "eth0", "clsact", check=False)
    place = ("dev", "eth0", "ingress", "pref", str(pref))
    running.run("tc", "filter", "add", *place, "bpf", "da", "obj", str(tmp_path / "foreign.o"), "sec", "tc")


def test_both_directions_run_and_the_status_says_how(lab: Lab, running: Running) -> None:
    running.apply(tc(1))
    running.apply(tc(2, attach=at("Egress")))
    for digit, side in ((1, "ingress"), (2, "egress")):
        status = running.wait_ready("BpfProgram", f"digit{digit}")
        (attachment,) = status.attachments
        assert attachment["mode"] == "Clsact"
        assert attachment["point"] == f"eth0 {side}"
        assert attachment["position"] == 0
        assert ours(running, side=side) == {f"bpfprogram-digit{digit}": attachment["progId"]}
        assert attachment["progId"] in program_ids(running, f"digit{digit}")
        assert not pins(running, f"digit{digit}", "l"), "links are for kernels from 6.6"
    assert order(lab, running, 1) == 1
    assert order(lab, running, 2) == 2


def test_they_run_by_priority_whenever_they_come(lab: Lab, running: Running) -> None:
    running.apply(tc(3, 300))
    running.wait_ready("BpfProgram", "digit3")
    running.apply(tc(1, 100))
    running.wait_ready("BpfProgram", "digit1")
    assert order(lab, running, 3) == 13
    running.kill()
    running.apply(tc(2, 200))  # comes while nobody looks
    running.start()
    running.wait_ready("BpfProgram", "digit2")
    wait_for("all three in order", lambda: order(lab, running, 3) == 123)
    kept = {n: ours(running)[f"bpfprogram-digit{n}"] for n in (1, 2, 3)}
    running.apply(tc(1, 900))  # only its priority changes
    running.wait_ready("BpfProgram", "digit1", 2)
    wait_for("the new order", lambda: order(lab, running, 1) == 231)
    assert {n: ours(running)[f"bpfprogram-digit{n}"] for n in (1, 2, 3)} == kept, "nothing was loaded"

    def positions() -> list[int]:
        return [running.status("BpfProgram", f"digit{n}").attachments[0]["position"] for n in (2, 3, 1)]

    wait_for("positions in status", lambda: positions() == [0, 1, 2])


@pytest.mark.parametrize("mode", ["clsact", *(["tcx"] if feature("tcx").available else [])])
@pytest.mark.parametrize("verdict", [ACCEPT, DROP, PIPE, STOLEN], ids=["accept", "drop", "pipe", "stolen"])
def test_verdicts_do_what_the_documents_say(lab: Lab, tmp_path: Path, verdict: str, mode: str) -> None:
    with Running(lab.node_command, tmp_path, ("--tc-mode", mode)) as running:
        running.apply(tc(2, 200))
        running.wait_ready("BpfProgram", "digit2")
        running.apply(tc(1, 100, verdict))
        running.wait_ready("BpfProgram", "digit1")
        before = variable(running, "digit2", "runs")
        answers, next_runs = ping(lab), variable(running, "digit2", "runs") > before
        assert variable(running, "digit1", "seen") == 1
        takes = {DROP} if mode == "tcx" else {DROP, STOLEN}
        assert answers == (verdict not in takes)
        assert next_runs == (mode == "clsact" and verdict == PIPE)


def test_an_edit_under_traffic_loses_no_packet_and_no_count(lab: Lab, running: Running) -> None:
    running.apply(streamed(1))
    running.wait_ready("BpfProgram", "streamed")
    (before,) = filters(running)
    with Stream(lab, RATE) as stream:
        for version in (2, 3):
            running.apply(streamed(version))
            running.wait_ready("BpfProgram", "streamed", version)
    (after,) = filters(running)
    assert after["pref"] == before["pref"]
    assert after["options"]["prog"]["id"] != before["options"]["prog"]["id"]
    wait_for("all counted", lambda: counted(lab, "streamed") >= stream.sent, 2)
    assert counted(lab, "streamed") == stream.sent


def test_a_killed_and_restarted_kubebee_adopts_and_loses_no_packet(lab: Lab, running: Running) -> None:
    running.apply(streamed(1))
    running.wait_ready("BpfProgram", "streamed")
    before = filters(running)
    with Stream(lab, RATE) as stream:
        running.kill()
        running.start()
        wait_for("adoption", lambda: any("adopted" in event["message"] for event in running.events()))
    assert filters(running) == before
    wait_for("all counted", lambda: counted(lab, "streamed") >= stream.sent, 2)
    assert counted(lab, "streamed") == stream.sent


def test_a_broken_edit_leaves_the_old_program(lab: Lab, running: Running) -> None:
    running.apply(tc(1))
    running.wait_ready("BpfProgram", "digit1")
    before = filters(running)
    running.apply(tc(1, verdict="no_such_name"))
    running.wait_reason("BpfProgram", "digit1", "CompileFailed")
    assert filters(running) == before
    running.kill()
    running.start()
    running.wait_reason("BpfProgram", "digit1", "CompileFailed")
    wait_for("the old one runs on", lambda: filters(running) == before and order(lab, running, 1) == 1)


def test_deleting_it_leaves_nothing(lab: Lab, running: Running) -> None:
    running.apply(tc(1, attach=at("Ingress", "eth0", "eth1")))
    running.apply(tc(2, attach=at("Egress")))
    made = [InKernel.of(running, running.wait_ready("BpfProgram", f"digit{n}")) for n in (1, 2)]
    assert len(marks(running)) == 2
    running.delete("bpfprogram-digit1.yaml")
    wait_for("eth1 is as it was", lambda: not has_qdisc(running, "eth1"))
    assert has_qdisc(running), "the other one needs it"
    running.delete("bpfprogram-digit2.yaml")
    wait_for("eth0 is as it was", lambda: not has_qdisc(running) and not marks(running))
    for one in made:
        wait_for("programs and maps are gone", lambda one=one: one.gone(running))


def test_an_interface_that_is_no_longer_chosen_is_left(running: Running) -> None:
    running.apply(tc(1, attach=at("Ingress", "eth0", "eth1")))
    running.wait_ready("BpfProgram", "digit1")
    running.apply(tc(1, attach=at("Ingress", "eth1")))
    running.wait_ready("BpfProgram", "digit1", 2)
    wait_for("eth0 is as it was", lambda: not has_qdisc(running))
    assert ours(running, "eth1")


def test_filters_of_others_and_their_qdisc_stay(lab: Lab, running: Running, tmp_path: Path) -> None:
    foreign(running, tmp_path)
    theirs = filters(running)
    running.apply(tc(1))
    running.wait_ready("BpfProgram", "digit1")
    wait_for("both run", lambda: order(lab, running, 1) == 1 and len(filters(running)) == 2)
    assert marks(running) == []
    running.delete("bpfprogram-digit1.yaml")
    wait_for("ours is gone", lambda: filters(running) == theirs)
    assert has_qdisc(running)


def test_our_qdisc_stays_while_somebody_else_uses_it(running: Running, tmp_path: Path) -> None:
    running.apply(tc(1))
    running.wait_ready("BpfProgram", "digit1")
    foreign(running, tmp_path)
    running.delete("bpfprogram-digit1.yaml")
    wait_for("ours is gone", lambda: not ours(running))
    assert len(filters(running)) == 1
    running.run("tc", "filter", "del", "dev", "eth0", "ingress", "pref", "30000")
    running.apply(tc(2, attach=at("Ingress", "eth1")))  # any pass
    wait_for("the last one has gone", lambda: not has_qdisc(running))


@pytest.mark.parametrize(
    "how",
    [
        ("filter", "del", "dev", "eth0", "ingress", "pref", "20000"),
        ("qdisc", "del", "dev", "eth0", "clsact"),
        ("filter", "replace", "dev", "eth0", "ingress", "pref", "20000", "handle", "1", "bpf", "da"),
    ],
    ids=["filter removed", "qdisc removed", "filter taken"],
)
def test_what_was_detached_behind_its_back_is_attached_again(
    lab: Lab, running: Running, tmp_path: Path, how: tuple[str, ...]
) -> None:
    running.apply(tc(1))
    before = running.wait_ready("BpfProgram", "digit1").attachments[0]["progId"]
    if "replace" in how:
        (tmp_path / "taken.o").write_bytes(compile_c(DIGIT % {"digit": 9, "verdict": NEXT}))
        how = (*how, "obj", str(tmp_path / "taken.o"), "sec", "tc")
    running.run("tc", *how)
    found = wait_for("it is back", lambda: ours(running), 5)
    assert found == {"bpfprogram-digit1": before}, "the same program"
    assert len(filters(running)) == (2 if "replace" in how else 1)
    wait_for("an Event", lambda: any(event["reason"] == "Reattached" for event in running.events()))
    assert order(lab, running, 1) % 10 == 1


def test_a_renamed_interface_keeps_its_filter(lab: Lab, running: Running) -> None:
    running.apply(tc(1, attach={**at(), "interfaces": {"regexes": ["eth1|uplink"]}}))
    running.wait_ready("BpfProgram", "digit1")
    before = filters(running, "eth1")
    network = lab.node.network
    network.ip("link", "set", "eth1", "down")
    network.ip("link", "set", "eth1", "name", "uplink")
    network.ip("link", "set", "uplink", "up")

    def points() -> list[str]:
        return [one["point"] for one in running.status("BpfProgram", "digit1").attachments]

    wait_for("its new name", lambda: points() == ["uplink ingress"])
    assert filters(running, "uplink") == before


def test_an_interface_that_goes_and_comes_again_is_attached_again(lab: Lab, running: Running) -> None:
    network = lab.node.network
    network.ip("link", "add", "again0", "type", "veth", "peer", "name", "p-again0")
    running.apply(tc(1, attach=at("Egress", "again0")))
    running.wait_ready("BpfProgram", "digit1")
    network.ip("link", "del", "again0")
    running.wait("BpfProgram", "digit1", lambda s: s.reason == "TargetNotFound")
    wait_for("its mark is gone", lambda: not marks(running))
    network.ip("link", "add", "again0", "type", "veth", "peer", "name", "p-again0")
    wait_for("it is attached", lambda: ours(running, "again0", "egress"))


def test_an_ingress_qdisc_of_others_serves_ingress_and_refuses_egress(lab: Lab, running: Running) -> None:
    running.run("tc", "qdisc", "add", "dev", "eth0", "ingress")
    running.apply(tc(1))
    running.wait_ready("BpfProgram", "digit1")
    assert order(lab, running, 1) == 1
    running.apply(tc(2, attach=at("Egress")))
    status = running.wait_reason("BpfProgram", "digit2", "ForeignQdisc")
    assert "eth0 egress" in status.message
    assert order(lab, running, 1) == 1, "it did not land on the wrong side"
    running.delete("bpfprogram-digit1.yaml")
    wait_for("ours is gone", lambda: not filters(running))
    running.run("tc", "qdisc", "del", "dev", "eth0", "ingress")
    running.wait_ready("BpfProgram", "digit2")


@pytest.mark.parametrize("modes", [("tcx", "clsact"), ("clsact", "tcx")], ids=" to ".join)
def test_another_mode_cleans_up_after_the_one_before(
    lab: Lab, tmp_path: Path, modes: tuple[str, str]
) -> None:
    if not feature("tcx").available:
        with Running(lab.node_command, tmp_path, ("--tc-mode", "tcx")) as running:
            assert running.process is not None
            assert running.process.wait(20) != 0
        assert "tcx needs Linux 6.6" in running.log.read_text()
        return
    seen = []
    for mode in modes:
        with Running(lab.node_command, tmp_path, ("--tc-mode", mode)) as running:
            running.apply(tc(1))
            wait_for(f"nothing but {mode}", lambda r=running, m=mode: only(r, m))
            seen.append(running.status("BpfProgram", "digit1").attachments[0]["progId"])
            assert order(lab, running, 1) == 1
    assert seen[0] == seen[1], "it is not loaded again"


def only(running: Running, mode: str) -> bool:
    """Whether the status and the kernel have just this way of attaching."""
    told = [one["mode"].lower() for one in running.status("BpfProgram", "digit1").attachments]
    links, found = bool(pins(running, "digit1", "l")), bool(filters(running))
    by_tcx = mode == "tcx"
    return told == [mode] and (links, found, has_qdisc(running)) == (by_tcx, not by_tcx, not by_tcx)


def test_pins_removed_while_it_was_dead_leave_no_filter_behind(lab: Lab, running: Running) -> None:
    running.apply(tc(1))
    running.wait_ready("BpfProgram", "digit1")
    running.apply(tc(2, attach=at("Egress", "eth1")))
    running.wait_ready("BpfProgram", "digit2")
    running.kill()
    running.run("sh", "-c", "rm -r /sys/fs/bpf/kubebee/[lpmq]/*")
    running.delete("bpfprogram-digit2.yaml")
    running.start()
    wait_for("the unwanted one is gone", lambda: not ours(running, "eth1", "egress"))
    wait_for("one filter, its own", lambda: set(ours(running).values()) == program_ids(running, "digit1"))
    assert order(lab, running, 1) == 1


def test_remove_on_exit_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    with Running(lab.node_command, tmp_path, (*CLSACT, "--remove-on-exit")) as running:
        running.apply(tc(1))
        running.wait_ready("BpfProgram", "digit1")
        assert running.stop() == 0
        assert not has_qdisc(running)
        assert not running.run("find", "/sys/fs/bpf/kubebee", check=False).stdout


def test_killed_anywhere_it_converges(lab: Lab, running: Running) -> None:
    choice = random.Random(20261124)
    places = (at(), at("Egress"), at("Ingress", "eth0", "eth1"), at("Egress", "eth1"))
    for _ in range(15):
        for _ in range(choice.randint(1, 3)):
            digit = choice.randint(1, 3)
            file = running.manifests / f"bpfprogram-digit{digit}.yaml"
            if choice.random() < 0.2:
                file.unlink(missing_ok=True)
            else:
                running.apply(
                    tc(digit, choice.randint(0, 1000), choice.choice([NEXT, ACCEPT]), choice.choice(places))
                )
        time.sleep(choice.uniform(0, 0.6))  # any moment of what it does
        running.kill()
        running.start()
    for path in running.manifests.glob("bpfprogram-*.yaml"):
        path.unlink()
    for digit in (2, 1, 3):
        running.apply(tc(digit, digit * 100))

    def settled() -> bool:
        statuses = [running.status("BpfProgram", f"digit{n}") for n in (1, 2, 3)]
        assert all(status.ready for status in statuses)
        wanted = [(f"bpfprogram-digit{n}", s.attachments[0]["progId"]) for n, s in enumerate(statuses, 1)]
        return list(ours(running).items()) == wanted

    wait_for("three filters in order", settled)
    wait_for(
        "nothing elsewhere", lambda: not has_qdisc(running, "eth1") and not ours(running, "eth0", "egress")
    )
    wait_for("they run", lambda: order(lab, running, 3) == 123)
