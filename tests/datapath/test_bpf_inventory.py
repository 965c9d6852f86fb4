"""The inventory shows every program with where it is attached, foreign ones too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubebee.bpf import attach, clsact, iface
from kubebee.bpf.attach import Position
from kubebee.bpf.clsact import Hook
from kubebee.bpf.constants import AttachType, ProgType
from kubebee.bpf.features import enable_stats
from kubebee.bpf.inventory import AttachPoint, ProgramRecord, programs, tcx_programs
from kubebee.bpf.object import BpfObject
from lab.netns import Namespace, inside, veth
from support.clang import HEADERS, LICENSE, compile_c

pytestmark = pytest.mark.root

TC = HEADERS + 'SEC("tc") int kb_inv(void *skb __attribute__((unused))) { return -1; }\n' + LICENSE
XDP = HEADERS + 'SEC("xdp") int kb_inv(void *ctx __attribute__((unused))) { return XDP_PASS; }\n' + LICENSE


def loaded(source: str) -> BpfObject:
    obj = BpfObject.open(compile_c(source))
    obj.load()
    return obj


def record(prog_id: int) -> ProgramRecord:
    return next(r for r in programs() if r.id == prog_id)


def prog_id(obj: BpfObject) -> int:
    with obj.programs["kb_inv"].duplicate() as program:
        return program.info.id


def test_a_program_is_listed_with_its_holder_pins_and_runs(bpffs: Path) -> None:
    (bpffs / "someone").mkdir()
    stats = enable_stats()
    try:
        with loaded(XDP) as obj, obj.programs["kb_inv"].duplicate() as program:
            program.pin(bpffs / "someone" / "program")
            program.test_run(b"\0" * 64, repeat=10)
            found = record(prog_id(obj))
            assert (found.type, found.name) == (ProgType.XDP, "kb_inv")
            assert os.getpid() in found.pids
            assert found.pins == (str(bpffs / "someone" / "program"),)
            assert found.owner == "someone"
            assert found.attach_points == ()
            assert found.run_cnt == 10
            assert found.run_time_ns > 0
    finally:
        os.close(stats)


def test_links_and_netlink_attachments_are_both_seen(netns: Callable[[str], Namespace], bpffs: Path) -> None:
    node = netns("node")
    veth(node, "veth-a", node, "veth-b")
    with inside(node), loaded(XDP) as mine, loaded(XDP) as foreign:
        with foreign.programs["kb_inv"].duplicate() as program:
            program.pin(bpffs / "foreign")
        node.ip("link", "set", "veth-b", "xdp", "pinned", str(bpffs / "foreign"))
        with attach.attach_xdp(mine.programs["kb_inv"].fd, iface.ifindex("veth-a"), "native") as link:
            assert record(prog_id(mine)).attach_points == (AttachPoint("xdp", "veth-a", None, link.info.id),)
        assert record(prog_id(foreign)).attach_points == (AttachPoint("xdp", "veth-b"),)
        state = iface.xdp_program_on(iface.ifindex("veth-b"))
        assert state == iface.XdpState(prog_id(foreign), "native", None)


def test_filters_of_tc_are_listed_in_the_order_they_run(netns: Callable[[str], Namespace]) -> None:
    node = netns("node")
    veth(node, "veth-a", node, "veth-b")
    with inside(node), loaded(TC) as one, loaded(TC) as two:
        hook = Hook(iface.ifindex("veth-a"), ingress=False)
        clsact.add_clsact(hook.ifindex)
        clsact.attach_filter(one.programs["kb_inv"].fd, hook, 20, "one")
        clsact.attach_filter(two.programs["kb_inv"].fd, hook, 10, "two")
        assert record(prog_id(one)).attach_points == (AttachPoint("clsact_egress", "veth-a", 1),)
        assert record(prog_id(two)).attach_points == (AttachPoint("clsact_egress", "veth-a", 0),)


def test_tcx_programs_are_listed_in_the_order_they_run(netns: Callable[[str], Namespace]) -> None:
    node = netns("node")
    veth(node, "veth-a", node, "veth-b")
    with inside(node), loaded(TC) as one, loaded(TC) as two:
        index = iface.ifindex("veth-a")
        assert tcx_programs(index, ingress=True) == []
        with (
            attach.attach_tcx(one.programs["kb_inv"].fd, index, True) as later,
            attach.attach_tcx(two.programs["kb_inv"].fd, index, True, Position.first()) as first,
        ):
            order = [(prog_id(two), first.info.id), (prog_id(one), later.info.id)]
            assert tcx_programs(index, ingress=True) == order
            assert record(prog_id(one)).attach_points == (
                AttachPoint("tcx_ingress", "veth-a", 1, later.info.id),
            )


def test_a_cgroup_program_names_its_hook_and_cgroup() -> None:
    source = (
        HEADERS
        + 'SEC("cgroup_skb/egress") int kb_inv(void *s __attribute__((unused))) { return 1; }\n'
        + LICENSE
    )
    hybrid = Path("/sys/fs/cgroup/unified")
    root = hybrid if hybrid.is_dir() else Path("/sys/fs/cgroup")
    if not (root / "cgroup.procs").exists():
        pytest.skip("no cgroup2 at /sys/fs/cgroup")
    folder = root / f"kb-{os.getpid()}-inventory"
    folder.mkdir()
    try:
        with (
            loaded(source) as obj,
            attach.attach_cgroup(obj.programs["kb_inv"].fd, folder, AttachType.CGROUP_INET_EGRESS) as link,
        ):
            point = AttachPoint("cgroup_inet_egress", f"cgroup {folder.stat().st_ino}", None, link.info.id)
            assert record(prog_id(obj)).attach_points == (point,)
    finally:
        folder.rmdir()
