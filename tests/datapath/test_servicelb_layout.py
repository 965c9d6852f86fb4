"""User space and the datapath agree on every byte: what one packs, the other's BTF decodes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import pytest

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_codec import Decoded, decode
from kubebee.bpf.btf_types import Enum
from kubebee.bpf.elf import parse_elf
from kubebee.lb import layout, moving
from kubebee.lb.layout import (
    Affinity,
    BackendFlag,
    BackendValue,
    DsrFlow,
    Flow,
    FlowKey,
    FrontendValue,
    NextHop,
    Reverse,
    Stat,
)
from kubebee.lb.model import FrontendKey, LbConfig, Prefix, Protocol, format_address, parse_address
from support.clang import compile_c
from support.servicelb import elf


@dataclass(frozen=True)
class Case:
    """A family's structures and two of its addresses."""

    suffix: str
    one: str
    two: str

    @property
    def addresses(self) -> tuple[bytes, bytes]:
        return parse_address(self.one), parse_address(self.two)


IPV4, IPV6 = Case("", "192.0.2.1", "10.9.8.7"), Case("6", "2001:db8::1", "2001:db8:1:2:3:4:5:6")


@pytest.fixture(scope="module")
def btf() -> Btf:
    section = parse_elf(elf()).section(".BTF")
    assert section is not None
    return Btf(section.data)


@pytest.fixture(params=[IPV4, IPV6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


def as_c(btf: Btf, struct: str, data: bytes) -> dict[str, Decoded]:
    """Fields by name; an IPv6 address becomes text, as BTF makes it of an IPv4 one."""
    type_id = btf.find(struct)
    assert type_id is not None
    assert btf.size(type_id) == len(data)
    decoded = decode(btf, type_id, data)
    assert isinstance(decoded, dict)
    return {name: plain(value) for name, value in decoded.items() if name != "pad"}


def plain(value: Decoded) -> Decoded:
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict) and value.keys() == {"words"}:
        assert isinstance(value["words"], list)
        return format_address(b"".join(parse_address(str(word)) for word in value["words"]))
    return value


def test_frontends(btf: Btf, family: Case) -> None:
    one, _ = family.addresses
    key = layout.pack_key(FrontendKey(one, 8080, Protocol.UDP))
    expected = {"address": family.one, "port": 8080, "protocol": 17}
    assert as_c(btf, "kb_lb_frontend_key" + family.suffix, key) == expected
    assert layout.unpack_key(key) == FrontendKey(one, 8080, Protocol.UDP)
    assert layout.unpack_key(layout.pack_address_key(one)) == one
    assert layout.KEY_BYTES[len(one)] == len(key)
    value = FrontendValue(1, 2, 3, 4, 5, 6, 7, 8)
    assert as_c(btf, "kb_lb_frontend", value.pack()) == value._asdict()
    assert FrontendValue.unpack(value.pack()) == value


def test_backends(btf: Btf, family: Case) -> None:
    macs = bytes(range(1, 13))
    one, _ = family.addresses
    value = BackendValue(one, 8080, 7, 9, NextHop(3, macs, 1500), BackendFlag.USED)
    found = as_c(btf, "kb_lb_backend" + family.suffix, value.pack())
    assert (found["address"], found["port"], found["weight"], found["frontend"]) == (family.one, 8080, 7, 9)
    assert (found["ifindex"], found["mtu"]) == (3, 1500)
    assert found["flags"] == BackendFlag.USED | BackendFlag.NEXT_HOP
    assert macs in value.pack()
    assert BackendValue.unpack(value.pack()) == value
    assert layout.BACKEND_BYTES[len(one)] == len(value.pack())
    assert as_c(btf, "kb_lb_row", bytes(layout.ROW_BYTES)) == {"backend": [0] * layout.ROW_SLOTS}


def test_settings(btf: Btf) -> None:
    (a, b), (a6, b6) = IPV4.addresses, IPV6.addresses
    config = LbConfig(
        encap_source=b,
        encap_prefix=16,
        snat_address=a,
        snat_others=(b, a),
        encap_source6=b6,
        snat_address6=a6,
        hash_seed=5,
    )
    one, two = IPV4.one, IPV4.two
    assert len(layout.pack_config(config)) == layout.CONFIG_BYTES
    assert as_c(btf, "kb_lb_config", layout.pack_config(config)) == {
        "encap_source": "10.9.0.0",
        "encap_host_mask": "0.0.255.255",
        "snat_source": [one, two, one] * 5 + [one],
        "snat_first": 61000,
        "snat_ports": 4536,
        "hash_seed": 5,
        "encap_source6": IPV6.two,
        "snat_source6": [IPV6.one] * 16,
    }


def test_the_outer_source_is_that_of_snat_where_none_is_given(btf: Btf) -> None:
    config = LbConfig(snat_address=IPV4.addresses[0], snat_address6=IPV6.addresses[0])
    found = as_c(btf, "kb_lb_config", layout.pack_config(config))
    assert (found["encap_source"], found["encap_source6"]) == (IPV4.one, IPV6.one)


def test_places_that_are_the_nodes_own(family: Case) -> None:
    section = parse_elf(elf(six=bool(family.suffix))).section(".BTF")
    assert section is not None
    backend, vip = family.addresses
    packed = layout.pack_own(backend, FrontendKey(vip, 8080, Protocol.UDP), layout.OwnFlag.OWN)
    expected = {"backend": family.one, "vip": family.two, "port": 8080, "protocol": 17, "flags": 1}
    assert as_c(Btf(section.data), "kb_lb_own" + family.suffix, packed) == expected


def test_source_ranges(btf: Btf, family: Case) -> None:
    one, _ = family.addresses
    key = layout.pack_source(7, Prefix(one, 20))
    prefix = Prefix(parse_address("192.0.0.0" if family is IPV4 else "2001::"), 20)
    assert as_c(btf, "kb_lb_source" + family.suffix, key) == {
        "prefixlen": 52,
        "frontend": 7,
        "address": format_address(prefix.address),
    }
    assert layout.unpack_source(key) == (7, prefix)
    assert layout.SOURCE_BYTES[len(one)] == len(key)


def test_affinity(btf: Btf, family: Case) -> None:
    one, _ = family.addresses
    key = layout.pack_client(7, one)
    assert as_c(btf, "kb_lb_client" + family.suffix, key) == {"frontend": 7, "address": family.one}
    known = Affinity(1 << 40, 9)
    assert as_c(btf, "kb_lb_affinity", known.pack()) == {"used": 1 << 40, "backend": 9}
    assert Affinity.unpack(known.pack()) == known


def test_counters(btf: Btf) -> None:
    stat = Stat(1, 2, 3)
    assert as_c(btf, "kb_lb_stat", stat.pack()) == {"packets": 1, "bytes": 2, "connections": 3}
    assert Stat.sum(stat.pack() * 2) == (2, 4, 6)


def test_flows(btf: Btf, family: Case) -> None:
    key = FlowKey(*family.addresses, 1000, 2000, 6)
    found = as_c(btf, "kb_lb_flow_key" + family.suffix, key.pack())
    assert found == {
        "saddr": family.one,
        "daddr": family.two,
        "sport": 1000,
        "dport": 2000,
        "protocol": 6,
    }
    assert FlowKey.unpack(key.pack()) == key

    raw = bytes(range(32 if family.suffix else 24))
    flow = as_c(btf, "kb_lb_flow" + family.suffix, raw)
    read = Flow.unpack(raw)
    assert flow["nat_address"] == format_address(read.nat_address)
    names = ("seen", "backend", "nat_port", "flags")
    assert {name: flow[name] for name in names} == {name: getattr(read, name) for name in names}

    raw = bytes(range(56 if family.suffix else 32))
    reverse = as_c(btf, "kb_lb_rev" + family.suffix, raw)
    back = Reverse.unpack(raw)
    assert (reverse["client"], reverse["vip"]) == (format_address(back.client), format_address(back.vip))
    names = ("seen", "backend", "client_port", "vip_port", "flags")
    assert {name: reverse[name] for name in names} == {name: getattr(back, name) for name in names}


def test_connections_under_dsr(btf: Btf) -> None:
    flow = DsrFlow(1 << 40, 2, 3, 4, 5)
    assert as_c(btf, "kb_lb_dsr_flow", flow.pack()) == flow._asdict()
    assert DsrFlow.unpack(flow.pack()) == flow
    assert list(DsrFlow.unpack_many(flow.pack() * 2)) == [flow, flow]


def test_slots() -> None:
    names = {"NUMBER": moving.NUMBER, "FLOWS": moving.FLOWS, "BEFORE": moving.BEFORE, "NOBODY": moving.NOBODY}
    checks = "".join(f'_Static_assert(LB_SLOT_{name} == {value}U, "");\n' for name, value in names.items())
    compile_c(f'#include "lb_types.h"\n{checks}')


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
