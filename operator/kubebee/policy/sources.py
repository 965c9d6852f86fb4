"""The source tree: from an IPv4 address to the class of rules that accept it as sender.

Strides are 16, 8 and 8 bits. A node is a class, or the number of a chunk of 256 nodes for the next 8 bits.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from kubebee.policy.classes import Classes
from kubebee.policy.layout import CHUNK_NODES, CHUNKS, NODE_CHUNK, ROOT_NODES
from kubebee.policy.model import PolicyError, PolicyRule, Source

_ANYWHERE = (Source(IPv4Network("0.0.0.0/0")),)

_Prefix = tuple[int, int]
"""Length and address (host order): sorts shorter prefixes first."""


@dataclass(frozen=True, slots=True)
class SourceTables:
    """Contents of the tables root, chunks and src_bits."""

    root: bytes
    chunks: bytes
    bits: bytes


@dataclass
class _Change:
    """What changes at a prefix, as sets of rules and of sources (bit i)."""

    rules: int = 0  # begin: sources without exceptions
    begin: int = 0  # sources that have exceptions
    end: int = 0  # their exceptions


@dataclass
class _Regions:
    """Every prefix that a rule names, and the sources that need their exceptions tracked."""

    prefixes: dict[_Prefix, _Change] = field(default_factory=lambda: defaultdict(_Change))
    owners: list[int] = field(default_factory=list)  # rule of each source that has exceptions

    def add(self, rule: int, source: Source) -> None:
        at = self.prefixes[_prefix(source.network)]
        if not source.excepts:
            at.rules |= 1 << rule
            return
        bit = 1 << len(self.owners)
        self.owners.append(rule)
        at.begin |= bit
        for part in source.excepts:
            self.prefixes[_prefix(part)].end |= bit

    def resolve(self) -> Iterator[tuple[_Prefix, int]]:
        """Yield each prefix, shorter ones first, and the rules in force where no longer one holds."""
        state: dict[_Prefix, tuple[int, int]] = {}
        lengths: list[int] = []
        owned = {0: 0}  # of a set of sources; few differ, so each is worked out once
        for prefix in sorted(self.prefixes):
            change = self.prefixes[prefix]
            rules, partial = self._enclosing(prefix, lengths, state)
            rules |= change.rules
            partial = (partial | change.begin) & ~change.end
            state[prefix] = rules, partial
            if not lengths or lengths[-1] != prefix[0]:
                lengths.append(prefix[0])
            if partial not in owned:
                owned[partial] = _rules_of(partial, self.owners)
            yield prefix, rules | owned[partial]

    @staticmethod
    def _enclosing(
        prefix: _Prefix, lengths: Sequence[int], state: dict[_Prefix, tuple[int, int]]
    ) -> tuple[int, int]:
        length, address = prefix
        for shorter in reversed(lengths):
            if shorter < length:
                found = state.get((shorter, address >> (32 - shorter) << (32 - shorter)))
                if found is not None:
                    return found
        return 0, 0


class _Tree:
    """The nodes. Prefixes must be painted shorter ones first."""

    def __init__(self, outside: int) -> None:
        self.root = array("H", [outside]) * ROOT_NODES
        self.chunks: list[array[int]] = []

    def paint(self, length: int, address: int, class_number: int) -> None:
        """Give all addresses of a prefix a class."""
        top, middle, low = address >> 16, address >> 8 & 0xFF, address & 0xFF
        if length <= 16:
            _fill(self.root, top, 1 << (16 - length), class_number)
            return
        second = self._chunk_at(self.root, top)
        if length <= 24:
            _fill(second, middle, 1 << (24 - length), class_number)
            return
        _fill(self._chunk_at(second, middle), low, 1 << (32 - length), class_number)

    def _chunk_at(self, nodes: array[int], index: int) -> array[int]:
        node = nodes[index]
        if node & NODE_CHUNK:
            return self.chunks[node & ~NODE_CHUNK]
        if len(self.chunks) == CHUNKS:
            raise PolicyError(
                f"the rules' prefixes are spread over more than {CHUNKS} networks",
                reason="PolicyTooLarge",
                hint="merge prefixes longer than /16",
            )
        chunk = array("H", [node]) * CHUNK_NODES
        nodes[index] = NODE_CHUNK | len(self.chunks)
        self.chunks.append(chunk)
        return chunk


def compile_sources(rules: Sequence[PolicyRule]) -> SourceTables:
    """Build the source tree of rules; rule i has bit i.

    Raises:
        PolicyError: reason PolicyTooLarge, if a table has no room.
    """
    regions = _Regions()
    for index, rule in enumerate(rules):
        for source in rule.sources or _ANYWHERE:
            regions.add(index, source)
    classes = Classes("groups of senders")
    tree = _Tree(outside=classes.number(0))
    for (length, address), bits in regions.resolve():
        tree.paint(length, address, classes.number(bits))
    chunks = b"".join(chunk.tobytes() for chunk in tree.chunks)
    return SourceTables(tree.root.tobytes(), chunks, classes.pack())


def _prefix(network: IPv4Network) -> _Prefix:
    return network.prefixlen, int(network.network_address)


def _fill(nodes: array[int], start: int, count: int, value: int) -> None:
    nodes[start : start + count] = array("H", [value]) * count


def _rules_of(sources: int, owners: Sequence[int]) -> int:
    """Return the set of rules that own a set of sources."""
    rules = 0
    while sources:
        lowest = sources & -sources
        rules |= 1 << owners[lowest.bit_length() - 1]
        sources ^= lowest
    return rules
