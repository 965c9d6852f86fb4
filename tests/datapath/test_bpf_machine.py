"""What the machine has is found by looking: features, file systems, interfaces, ring buffers."""

from __future__ import annotations

import select
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kubebee.bpf import features, iface
from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.ringbuf import RingBuffer
from kubebee.errors import UnsupportedError
from lab.netns import Namespace, inside, veth
from support.clang import HEADERS, LICENSE, compile_c

pytestmark = pytest.mark.root


@pytest.mark.parametrize("name", features.FEATURES)
def test_every_feature_is_there_or_says_what_is_missing(name: str) -> None:
    found = features.feature(name)
    assert found.available == (found.why == "")
    if not found.available:
        with pytest.raises(UnsupportedError, match=name):
            features.require(name)


def test_preflight_finds_nothing_wrong_where_all_is_there(bpffs: Path) -> None:
    assert features.preflight(bpffs / "not" / "yet" / "there") == []


def test_preflight_says_where_no_bpf_file_system_is(tmp_path: Path) -> None:
    (problem,) = features.preflight(tmp_path)
    assert problem.reason == "NoBpffs"
    assert problem.hint == f"mount -t bpf bpf {tmp_path}"


def test_interfaces_come_with_index_state_and_address(netns: Callable[[str], Namespace]) -> None:
    node = netns("node")
    veth(node, "veth-a", node, "veth-b")
    with inside(node):
        found = iface.interfaces()
        assert {"lo", "veth-a", "veth-b"} <= set(found)
        assert found["lo"].loopback
        assert found["veth-a"].up
        assert found["veth-a"].index == iface.ifindex("veth-a") == node.ifindex("veth-a")
        assert len(found["veth-a"].address) == 6
        assert found["veth-a"].xdp is None
        with pytest.raises(iface.NoSuchInterfaceError, match="nope"):
            iface.ifindex("nope")


def test_the_primary_interface_has_the_default_route_of_lowest_metric(
    netns: Callable[[str], Namespace],
) -> None:
    node = netns("node")
    veth(node, "veth-a", node, "veth-b")
    with inside(node):
        assert iface.primary_interface() is None
        node.ip("-6", "route", "add", "default", "dev", "veth-b", "metric", "5")
        assert iface.primary_interface() == "veth-b"
        node.ip("route", "add", "default", "dev", "veth-a", "metric", "200")
        node.ip("route", "add", "default", "dev", "veth-b", "metric", "300")
        assert iface.primary_interface() == "veth-a"


def test_the_watcher_hears_of_interfaces_that_come_and_go(netns: Callable[[str], Namespace]) -> None:
    node = netns("node")
    with inside(node), iface.LinkWatcher() as watcher:
        assert watcher.read() == []

        def heard(name: str, gone: bool) -> bool:
            while select.select([watcher], [], [], 5)[0]:
                if any((c.interface.name, c.gone) == (name, gone) for c in watcher.read() or []):
                    return True
            return False

        veth(node, "veth-a", node, "veth-b")
        assert heard("veth-a", gone=False)
        node.ip("link", "delete", "veth-a")
        assert heard("veth-a", gone=True)


RECORDS = (
    HEADERS
    + """
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} kb_ring SEC(".maps");
__u64 next = 0;

SEC("xdp") int emit(void *ctx __attribute__((unused)))
{
    __u64 *record = bpf_ringbuf_reserve(&kb_ring, 12, 0);
    if (!record)
        return XDP_DROP;
    *record = next++;
    if (*record % 3 == 2)
        bpf_ringbuf_discard(record, 0);
    else
        bpf_ringbuf_submit(record, 0);
    return XDP_PASS;
}
"""
    + LICENSE
)


def test_a_ring_buffer_gives_records_in_order_across_its_end() -> None:
    with BpfObject.open(compile_c(RECORDS)) as obj:
        obj.load()
        with (
            obj.maps["kb_ring"].duplicate() as ring,
            obj.programs["emit"].duplicate() as program,
            RingBuffer(ring) as reader,
        ):
            assert not reader.poll(0)
            seen: list[int] = []
            for _ in range(4):  # 4 x 90 records of 24 bytes: twice round the 4096
                program.test_run(b"\0" * 64, repeat=90)
                assert reader.poll(5)
                while records := reader.read(limit=50):
                    assert {len(record) for record in records} == {12}
                    seen += [struct.unpack_from("=Q", record)[0] for record in records]
            assert seen == [i for i in range(360) if i % 3 != 2]
            assert not reader.poll(0)


def test_a_ring_buffer_takes_no_other_map() -> None:
    with Map.create(MapType.HASH, 4, 4, 1) as table, pytest.raises(ValueError, match="HASH, not RINGBUF"):
        RingBuffer(table)
