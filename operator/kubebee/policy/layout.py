"""Sizes and structures of the maps, as templates/include/policy_types.h declares them (host byte order)."""

from __future__ import annotations

import struct
from typing import NamedTuple

RULES = 1024
RULE_WORDS = RULES // 64
HALVES = 2

NODE_CHUNK = 0x8000
ROOT_NODES = 65536
CHUNK_NODES = 256
CHUNKS = 4096
CLASSES = 4096

L4_TCP = 0
L4_UDP = 65536
L4_ICMP = 131072
L4_OTHER = 196608
L4_FRAGMENT = L4_OTHER + 256
L4_KEYS = L4_FRAGMENT + 256

RULE_DEFAULT = RULES
RULE_AUDIT_DEFAULT = RULES + 1
RULE_ESTABLISHED = RULES + 2
RULE_ENTRIES = RULES + 3

HIT_SLOTS = 4096
HIT_NONE = 0

FLAG_DENY = 1 << 0
FLAG_AUDIT = 1 << 1
POLICY_ENFORCED = 1 << 0
POLICY_AUDITED = 1 << 1

RULE_BITS = struct.Struct(f"={1 + RULE_WORDS}Q")  # summary, words
RULE = struct.Struct("=QII")  # identity, slot, flags
ACTIVE_HALF = struct.Struct("=II")  # half, policy flags
HITS = struct.Struct("=QQQQ")  # packets, bytes, audit packets, audit bytes
INDEX = struct.Struct("=I")  # key of an array

LOCAL_LINE_BITS = 12
LOCAL_SLOTS = 8
LOCAL_HASH = 0x9E3779B1
LOCAL_AT = 32  # in VARIABLE_MAP, behind struct kb_policy_active and padding
LOCAL_BYTES = 4 * LOCAL_SLOTS << LOCAL_LINE_BITS

VARIABLE_MAP = ".bss"
"""Holds struct kb_policy, the stage's only global variable; it starts with struct kb_policy_active."""
CHUNKS_MAP = "kb_p_chunks"
HITS_MAP = "kb_p_hits"
CROWDED_MAP = "kb_p_crowded"
NAMES_MAP = "kb_p_names"


class Table(NamedTuple):
    """Part of a rule set; there are two of it, a half each, in the memory of a map. Sizes in bytes."""

    map: str
    name: str
    size: int
    first: int  # where that of half 0 starts
    step: int  # from there to that of half 1

    def start(self, half: int) -> int:
        """Where the table of a half starts in the map's memory."""
        return self.first + half * self.step


def _half_members() -> tuple[Table, ...]:
    """The members of struct kb_policy_half, in their order; none needs padding."""
    sizes = {
        "enforced": RULE_BITS.size,
        "rules": RULE.size * RULE_ENTRIES,
        "root": 2 * ROOT_NODES,
        "l4": 2 * L4_KEYS,
        "src_bits": RULE_BITS.size * CLASSES,
        "l4_bits": RULE_BITS.size * CLASSES,
    }
    step, at, tables = sum(sizes.values()), LOCAL_AT + LOCAL_BYTES, []
    for name, size in sizes.items():
        tables.append(Table(VARIABLE_MAP, name, size, at, step))
        at += size
    return tuple(tables)


_CHUNKS_SIZE = 2 * CHUNK_NODES * CHUNKS
TABLES = {
    table.name: table
    for table in (*_half_members(), Table(CHUNKS_MAP, "chunks", _CHUNKS_SIZE, 0, _CHUNKS_SIZE))
}
VARIABLE_BYTES = LOCAL_AT + LOCAL_BYTES + HALVES * TABLES["root"].step


def pack_bits(bits: int) -> bytes:
    """Return a set of rules (bit i = rule i) as struct kb_rule_bits."""
    words = struct.unpack(f"<{RULE_WORDS}Q", bits.to_bytes(RULE_WORDS * 8, "little"))
    summary = sum(1 << i for i, word in enumerate(words) if word)
    return RULE_BITS.pack(summary, *words)
