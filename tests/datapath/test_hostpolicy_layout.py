"""User space and the datapath agree on where every byte of a rule set is."""

from __future__ import annotations

import struct

import pytest

from kubebee import names
from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_types import Composite
from kubebee.bpf.globals import read_globals
from kubebee.policy import layout
from support.hostpolicy import elf, firewall

Spans = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def btf() -> Btf:
    return read_globals(elf()).btf


def members(btf: Btf, struct: str) -> Spans:
    """Start and size of each member of a structure, in bytes."""
    type_id = btf.find(struct)
    assert type_id is not None
    found = btf.expect(type_id, Composite).members
    return {member.name: (member.offset // 8, btf.size(member.type)) for member in found}


def test_a_rule_sets_tables_lie_where_user_space_writes_them(btf: Btf) -> None:
    start, size = members(btf, "kb_policy")["half"]
    tables = [table for table in layout.TABLES.values() if table.map == layout.VARIABLE_MAP]
    for half in range(layout.HALVES):
        at = start + half * size // layout.HALVES
        assert {table.name: (table.start(half), table.size) for table in tables} == {
            name: (at + offset, length) for name, (offset, length) in members(btf, "kb_policy_half").items()
        }


def test_what_is_switched_and_the_addresses_of_the_host_come_first(btf: Btf) -> None:
    policy = members(btf, "kb_policy")
    assert policy["active"] == (0, layout.ACTIVE_HALF.size)
    assert policy["local"] == (layout.LOCAL_AT, layout.LOCAL_BYTES)


def test_the_variable_is_the_only_one_of_its_map() -> None:
    variables = read_globals(elf()).variables.values()
    (policy,) = (each for each in variables if each.section == layout.VARIABLE_MAP)
    assert (policy.name, policy.offset, policy.size) == ("kb_policy", 0, layout.VARIABLE_BYTES)


def test_entries_have_the_sizes_that_user_space_packs(btf: Btf) -> None:
    for name, packed in (
        ("kb_rule_bits", layout.RULE_BITS),
        ("kb_rule", layout.RULE),
        ("kb_policy_active", layout.ACTIVE_HALF),
        ("kb_hits", layout.HITS),
        ("kb_name", struct.Struct(f"{names.BYTES}s")),
    ):
        type_id = btf.find(name)
        assert type_id is not None
        assert btf.size(type_id) == packed.size, name


@pytest.mark.root
def test_the_maps_have_the_sizes_that_user_space_writes() -> None:
    with firewall() as host:
        hits, chunks = host.maps[layout.HITS_MAP].info, host.maps[layout.CHUNKS_MAP].info
    assert (hits.value_size, hits.max_entries) == (layout.HITS.size, layout.HIT_SLOTS)
    assert chunks.value_size == 2 * layout.CHUNK_NODES
    assert chunks.value_size * chunks.max_entries == layout.HALVES * layout.TABLES["chunks"].size
