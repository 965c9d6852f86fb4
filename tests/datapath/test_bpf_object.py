"""Objects go through libbpf into the kernel, and a refusal says which program and why."""

from __future__ import annotations

import os
import struct

import pytest

from kubebee.bpf.constants import MapType, ProgType
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject, LoadError
from support.clang import HEADERS, LICENSE, compile_c

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

COUNTER = (
    HEADERS
    + """
const volatile __u32 step = 1;
__u64 total = 0;
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} kb_count SEC(".maps");

SEC("xdp") int count(struct xdp_md *ctx)
{
    __u32 key = 2;
    __u64 *value = bpf_map_lookup_elem(&kb_count, &key);
    if (value)
        *value += step;
    total += step;
    return ctx->data_end - ctx->data >= 60 ? XDP_PASS : XDP_DROP;
}
"""
    + LICENSE
)

REFUSED = (
    HEADERS
    + """
SEC("xdp") int fine(struct xdp_md *ctx) { return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP; }
SEC("xdp") int reads_past_end(struct xdp_md *ctx) { return *(int *)(long)ctx->data; }
"""
    + LICENSE
)


def test_a_loaded_program_runs_on_a_packet_and_its_maps_count() -> None:
    with BpfObject.open(compile_c(COUNTER)) as obj:
        assert set(obj.maps) == {"kb_count", ".rodata", ".bss"}
        assert obj.programs["count"].section == "xdp"
        assert obj.programs["count"].prog_type is ProgType.XDP
        obj.maps[".rodata"].initial_value = struct.pack("=I", 7)
        obj.load()
        with obj.programs["count"].duplicate() as program, obj.maps["kb_count"].duplicate() as counts:
            assert program.test_run(b"\0" * 60, repeat=3).retval == 2
            assert program.test_run(b"\0" * 40).retval == 1
            values = counts.lookup_percpu(struct.pack("=I", 2))
            assert sum(struct.unpack("=Q", v)[0] for v in values) == 4 * 7
            assert program.info.name == "count"
            assert counts.info.id in program.info.map_ids
            assert program.info.jited
            assert program.info.btf_id


def test_two_objects_share_a_map_that_is_passed_in() -> None:
    elf = compile_c(COUNTER)
    with Map.create(MapType.PERCPU_ARRAY, 4, 8, 4, "shared") as shared:
        for _ in range(2):
            with BpfObject.open(elf) as obj:
                obj.maps["kb_count"].reuse_fd(shared.fd)
                obj.load()
                with obj.programs["count"].duplicate() as program:
                    program.test_run(b"\0" * 60)
        values = shared.lookup_percpu(struct.pack("=I", 2))
        assert sum(struct.unpack("=Q", v)[0] for v in values) == 2


def test_a_refused_program_is_named_with_the_verifiers_log() -> None:
    with BpfObject.open(compile_c(REFUSED)) as obj, pytest.raises(LoadError) as caught:
        obj.load()
    assert caught.value.program == "reads_past_end"
    assert caught.value.reason == "EACCES"
    assert "invalid access to packet" in caught.value.log
    assert "R1 offset is outside of the packet" in caught.value.message


def test_a_refused_program_can_be_left_out() -> None:
    with BpfObject.open(compile_c(REFUSED)) as obj:
        obj.programs["reads_past_end"].set_autoload(False)
        obj.load()
        assert obj.programs["fine"].fd >= 0
        assert obj.programs["reads_past_end"].fd == -1


@pytest.mark.parametrize("elf", [b"", b"not an ELF file", b"\x7fELF" + b"\0" * 60])
def test_what_is_no_bpf_object_is_refused(elf: bytes) -> None:
    with pytest.raises(LoadError, match="cannot read the object"):
        BpfObject.open(elf)


def test_a_closed_object_says_so_instead_of_crashing() -> None:
    obj = BpfObject.open(compile_c(COUNTER))
    declared = obj.maps["kb_count"]
    obj.close()
    with pytest.raises(ValueError, match="closed"):
        _ = declared.name
