"""Maps in the kernel are read back as values of their C types."""

from __future__ import annotations

import subprocess

import pytest

from kubebee.bpf.map import Map, possible_cpus
from kubebee.bpf.map_decode import Entry, entries
from kubebee.bpf.object import BpfObject

pytestmark = pytest.mark.root

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct peer { __be32 address; __be16 port; __u16 zone; };
enum state { CLOSED, OPEN };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8);
	__type(key, struct peer); __type(value, enum state); } peers SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1);
	__type(key, __u32); __type(value, __u32); } hits SEC(".maps");
int level = 3;
char label[8] = "live";
SEC("xdp") int run(struct xdp_md *ctx)
{
	__u32 zero = 0, *hit = bpf_map_lookup_elem(&hits, &zero);
	if (hit)
		*hit += level + label[0] + (ctx->data == 0) + !!bpf_map_lookup_elem(&peers, &(struct peer){0});
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def loaded() -> BpfObject:
    command = [
        "clang-19", "-target", "bpf", "-O2", "-g", "-I/usr/include/x86_64-linux-gnu",
        "-I/usr/include/aarch64-linux-gnu", "-x", "c", "-c", "-", "-o", "/dev/stdout",
    ]  # fmt: skip
    done = subprocess.run(command, input=SOURCE.encode(), capture_output=True, check=True, timeout=30)
    obj = BpfObject.open(done.stdout)
    obj.load()
    return obj


def test_structs_addresses_and_enums(loaded: BpfObject) -> None:
    with loaded.maps["peers"].duplicate() as map_:
        map_.update(bytes([192, 0, 2, 1, 0, 53, 7, 0]), (1).to_bytes(4, "little"))
        assert list(entries(map_)) == [Entry({"address": "192.0.2.1", "port": 53, "zone": 7}, "OPEN")]


def test_one_value_per_cpu(loaded: BpfObject) -> None:
    with loaded.maps["hits"].duplicate() as map_:
        stride = b"".join((10 + cpu).to_bytes(8, "little") for cpu in range(possible_cpus()))
        map_.update(bytes(4), stride)
        assert list(entries(map_)) == [Entry(0, None, tuple(10 + cpu for cpu in range(possible_cpus())))]


def test_a_data_section_is_its_variables(loaded: BpfObject) -> None:
    with loaded.maps[".data"].duplicate() as map_:
        assert [entry.value for entry in entries(map_)] == [{"level": 3, "label": "live"}]


def test_maps_without_types_are_hex() -> None:
    with Map.create(2, 4, 4, 1, name="plain") as map_:
        assert list(entries(map_)) == [Entry(0, "00000000")]
