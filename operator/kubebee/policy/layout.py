"""Sizes and structures of the maps, as templates/include/policy_types.h declares them (host byte order)."""

from __future__ import annotations

import struct
from typing import NamedTuple

RULES = 1024
RULE_WORDS = RULES // 64
HALVES = 2

NODE_CHUNK = 0x8000
LINE_NODES = 32
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


class Table(NamedTuple):
    """A map that exists in two halves; sizes in bytes."""

    map: str
    entry_size: int
    entries: int

    @property
    def half_size(self) -> int:
        """Bytes of one half; the second half starts there."""
        return self.entry_size * self.entries


TABLES = (
    Table("kb_p_enforced", RULE_BITS.size, 1),
    Table("kb_p_rules", RULE.size, RULE_ENTRIES),
    Table("kb_p_root", 2 * LINE_NODES, ROOT_NODES // LINE_NODES),
    Table("kb_p_chunks", 2 * CHUNK_NODES, CHUNKS),
    Table("kb_p_l4", 2 * LINE_NODES, L4_KEYS // LINE_NODES),
    Table("kb_p_src_bits", RULE_BITS.size, CLASSES),
    Table("kb_p_l4_bits", RULE_BITS.size, CLASSES),
)
ACTIVE = "kb_p_active"
HITS_MAP = "kb_p_hits"
LOCAL = "kb_local"


def pack_bits(bits: int) -> bytes:
    """Return a set of rules (bit i = rule i) as struct kb_rule_bits."""
    words = struct.unpack(f"<{RULE_WORDS}Q", bits.to_bytes(RULE_WORDS * 8, "little"))
    summary = sum(1 << i for i, word in enumerate(words) if word)
    return RULE_BITS.pack(summary, *words)
