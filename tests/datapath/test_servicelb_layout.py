"""User space and the datapath agree on every byte: what one packs, the other's BTF decodes."""

from __future__ import annotations

from enum import IntFlag

import pytest

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_codec import Decoded, decode
from kubebee.bpf.btf_types import Enum
from kubebee.bpf.elf import parse_elf
from kubebee.lb import layout
from kubebee.lb.layout import BackendFlag, BackendValue, Flow, FlowKey, FrontendValue, NextHop, Reverse, Stat
from kubebee.lb.model import FrontendKey, LbConfig, Protocol, format_address, parse_address
from support.clang import compile_c
from support.servicelb import elf

ONE, TWO = "192.0.2.1", "10.9.8.7"
A, B = parse_address(ONE), parse_address(TWO)


@pytest.fixture(scope="module")
def btf() -> Btf:
    section = parse_elf(elf()).section(".BTF")
    assert section is not None
    return Btf(section.data)


def as_c(btf: Btf, struct: str, data: bytes) -> dict[str, Decoded]:
    type_id = btf.find(struct)
    assert type_id is not None
    assert btf.size(type_id) == len(data)
    decoded = decode(btf, type_id, data)
    assert isinstance(decoded, dict)
    return {name: value for name, value in decoded.items() if name != "pad"}


def test_frontends(btf: Btf) -> None:
    key = layout.pack_key(FrontendKey(A, 8080, Protocol.UDP))
    assert as_c(btf, "kb_lb_frontend_key", key) == {"address": ONE, "port": 8080, "protocol": 17}
    assert layout.unpack_key(key) == FrontendKey(A, 8080, Protocol.UDP)
    assert layout.unpack_key(layout.pack_address_key(A)) == A
    value = FrontendValue(1, 2, 3, 4, 5, 6, 7, 8)
    assert as_c(btf, "kb_lb_frontend", value.pack()) == value._asdict()
    assert FrontendValue.unpack(value.pack()) == value


def test_backends(btf: Btf) -> None:
    macs = bytes(range(1, 13))
    value = BackendValue(A, 8080, 7, 9, NextHop(3, macs, 1500), BackendFlag.USED)
    found = as_c(btf, "kb_lb_backend", value.pack())
    assert (found["address"], found["port"], found["weight"], found["frontend"]) == (ONE, 8080, 7, 9)
    assert (found["ifindex"], found["mtu"]) == (3, 1500)
    assert found["flags"] == BackendFlag.USED | BackendFlag.NEXT_HOP
    assert macs in value.pack()
    assert BackendValue.unpack(value.pack()) == value
    assert as_c(btf, "kb_lb_row", bytes(layout.ROW_BYTES)) == {"backend": [0] * layout.ROW_SLOTS}


def test_settings(btf: Btf) -> None:
    config = LbConfig(encap_source=B, encap_prefix=16, snat_address=A, hash_seed=5)
    assert as_c(btf, "kb_lb_config", layout.pack_config(config)) == {
        "encap_source": "10.9.0.0",
        "encap_host_mask": "0.0.255.255",
        "snat_source": ONE,
        "snat_first": 61000,
        "snat_ports": 4536,
        "hash_seed": 5,
    }


def test_counters(btf: Btf) -> None:
    stat = Stat(1, 2, 3)
    assert as_c(btf, "kb_lb_stat", stat.pack()) == {"packets": 1, "bytes": 2, "connections": 3}
    assert Stat.sum(stat.pack() * 2) == (2, 4, 6)


def test_flows(btf: Btf) -> None:
    key = FlowKey(A, B, 1000, 2000, 6)
    found = as_c(btf, "kb_lb_flow_key", key.pack())
    assert found == {"saddr": ONE, "daddr": TWO, "sport": 1000, "dport": 2000, "protocol": 6}
    assert FlowKey.unpack(key.pack()) == key

    raw = bytes(range(24))
    flow = as_c(btf, "kb_lb_flow", raw)
    read = Flow.unpack(raw)
    assert flow["nat_address"] == format_address(read.nat_address)
    assert [flow[name] for name in ("seen", "backend", "nat_port", "flags")] == [
        read[0],
        read[1],
        read[3],
        read[4],
    ]

    raw = bytes(range(32))
    reverse = as_c(btf, "kb_lb_rev", raw)
    back = Reverse.unpack(raw)
    assert (reverse["client"], reverse["vip"]) == (format_address(back.client), format_address(back.vip))
    names = ("seen", "backend", "client_port", "vip_port", "flags")
    assert {name: reverse[name] for name in names} == {name: getattr(back, name) for name in names}


@pytest.mark.parametrize(
    ("enum", "flags", "prefix"),
    [
        ("lb_frontend_flags", layout.FrontendFlag, "LB_FE_"),
        ("lb_backend_flags", layout.BackendFlag, "LB_BE_"),
        ("lb_flow_flags", layout.FlowFlag, "LB_FLOW_"),
    ],
)
def test_flags(enum: str, flags: type[IntFlag], prefix: str) -> None:
    source = f'#include "lb_types.h"\n#include "lb_flow.h"\nenum {enum} in_btf;\n'
    section = parse_elf(compile_c(source)).section(".BTF")
    assert section is not None
    btf = Btf(section.data)
    found = btf[btf.find(enum) or 0]
    assert isinstance(found, Enum)
    values = {name.removeprefix(prefix): number for name, number in found.values}
    assert values == {flag.name: flag.value for flag in flags}
