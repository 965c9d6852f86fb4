"""Bytes of ServiceLB's maps: the user-space half of templates/include/lb_types.h and lb_flow.h.

Addresses are bytes in network order, ports plain integers; ports go to the maps in network byte order,
everything else in the machine's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntFlag
from typing import NamedTuple

from kubebee.lb.model import FrontendKey, LbConfig, Prefix, Protocol

ROW_SLOTS = 16
ROW_BYTES = ROW_SLOTS * 4
NO_MACS = bytes(12)


def _by_family(ipv4: str, ipv6: str) -> dict[int, struct.Struct]:
    """By length of an address."""
    return {4: struct.Struct(ipv4), 16: struct.Struct(ipv6)}


_U32 = struct.Struct("=I")
_FRONTEND_KEYS = _by_family(">4sHBx", ">16sHBx")
_FRONTEND = struct.Struct("=IIIIIIIH2x")
_ENDPOINTS = _by_family(">4sH", ">16sH")
_BACKEND_REST = struct.Struct("=HII12sHH")
_CONFIG_SEED = struct.Struct("=Q")
_CONFIG_ENCAP = struct.Struct(">II")
_CONFIG_PORTS = struct.Struct("=HH")
_OWN = _by_family(">4s4sHBB", ">16s16sHBB")
_OWN_PLACES = 1 << 10
_DEVICE = struct.Struct("=I4s16s")
_STAT = struct.Struct("=QQQ")
_FLOW_KEYS = _by_family(">4s4sHHB3x", ">16s16sHHB3x")
_FLOW_HEAD = struct.Struct("=QI")
_FLOW_NATS = _by_family(">4sH", ">16sH")
_FLOW_FLAGS = struct.Struct("=H")
_REVERSE_CLIENTS = _by_family(">4s4sHH", ">16s16sHH")
_DSR_FLOW = struct.Struct("=QIIIH2x")
_SOURCES = _by_family("=II4s", "=II16s")
_AFFINITY = struct.Struct("=QI4x")
_NAMESPACE = struct.Struct("=I4xQ")
_SOURCE_BITS = 32
"""Of a source range's key before the address: the frontend's id, which is always compared whole."""

FRONTEND_BYTES = _FRONTEND.size
KEY_BYTES = {length: key.size for length, key in _FRONTEND_KEYS.items()}
"""Of a frontend's key, by length of an address; so the others."""
BACKEND_BYTES = {4: 32, 16: 64}
SOURCE_BYTES = {length: source.size for length, source in _SOURCES.items()}
SNAT_SOURCES = 16
"""LB_SNAT_SOURCES: places for source addresses of a family."""
CONFIG_BYTES = 360
_IPV4_KEY_BYTES, _IPV4_FLOW_KEY_BYTES, _IPV4_FLOW_BYTES, _IPV4_REVERSE_BYTES = KEY_BYTES[4], 16, 24, 32


class FrontendFlag(IntFlag):
    """enum lb_frontend_flags."""

    DSR_IPIP = 1
    ADDRESS = 2
    SOURCES = 4
    SOCKETS_ONLY = 8
    DROP_OUTSIDE = 16
    RESERVED = 32
    PORT_RESERVED = 64
    MOVING = 128
    L2 = 256
    IP_OPTION = 512
    RANDOM = 1024


class BackendFlag(IntFlag):
    """enum lb_backend_flags."""

    USED = 1
    GONE = 2
    NEXT_HOP = 4
    NOT_OUTSIDE = 8
    NOT_INSIDE = 16
    LOCAL = 32
    NO_FRAMES = 64
    GATEWAY = 128


# Plain numbers: arithmetic of enums takes ten times as long.
_NEXT_HOP, _LOCAL = int(BackendFlag.NEXT_HOP), int(BackendFlag.LOCAL)
_WAYS = int(BackendFlag.NEXT_HOP | BackendFlag.LOCAL | BackendFlag.NO_FRAMES | BackendFlag.GATEWAY)


class FlowFlag(IntFlag):
    """enum lb_flow_flags."""

    FIN = 1
    RST = 2
    SEEN = 4
    OLDER = 8
    OPTION = 16


class OwnFlag(IntFlag):
    """enum lb_own_flags."""

    OWN = 1
    ALONE = 2


def of_client(flags: int) -> int:
    """Flags of a client's side that count: where not all its packets are seen anybody may have said RST.

    A true one is noted with the backend's side (templates/include/lb_ip_option.h).
    """
    return flags & ~FlowFlag.RST if flags & FlowFlag.OPTION else flags


class DevFlag(IntFlag):
    """enum lb_dev_flags."""

    FRAMES = 1


class FrontendValue(NamedTuple):
    """struct kb_lb_frontend. A table is a first slot and a number of slots.

    Attributes:
        base, size: table for packets from outside.
        inside_base, inside_size: table for the node's sockets; the same one where nothing differs.
        fingerprint: of both tables' contents.
        affinity: seconds.
    """

    base: int = 0
    size: int = 0
    inside_base: int = 0
    inside_size: int = 0
    id: int = 0
    fingerprint: int = 0
    affinity: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """Return the map's value."""
        return _FRONTEND.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> FrontendValue:
        """Read the map's value."""
        return cls(*_FRONTEND.unpack(value))


class NextHop(NamedTuple):
    """How packets reach a backend without a route lookup.

    Attributes:
        ifindex: interface that leads there; 0 for an address of the node itself.
        macs: destination, then source address: 12 bytes.
        mtu: largest IP packet on that interface.
        way: flags of the backend: NEXT_HOP, with NO_FRAMES if XDP can't send there and GATEWAY if the MAC
            address is another host's; or LOCAL, and then there are no MAC addresses.
    """

    ifindex: int
    macs: bytes
    mtu: int
    way: int = _NEXT_HOP

    @property
    def is_local(self) -> bool:
        """Whether the backend is on this node."""
        return bool(self.way & _LOCAL)

    @property
    def is_behind_gateway(self) -> bool:
        """Whether another host is between this node and the backend."""
        return bool(self.way & BackendFlag.GATEWAY)

    @classmethod
    def local(cls, ifindex: int = 0) -> NextHop:
        """To the node itself, or to a pod of it behind an interface: the stack delivers."""
        return cls(ifindex, NO_MACS, 0, _LOCAL)


class BackendValue(NamedTuple):
    """struct kb_lb_backend."""

    address: bytes
    port: int
    weight: int
    frontend: int
    hop: NextHop | None
    flags: int

    def pack(self) -> bytes:
        """Return the map's value."""
        ifindex, macs, mtu, way = self.hop or (0, NO_MACS, 0, 0)
        rest = _BACKEND_REST.pack(self.weight, self.frontend, ifindex, macs, mtu, self.flags | way)
        length = len(self.address)
        packed = _ENDPOINTS[length].pack(self.address, self.port) + rest
        return packed if length == 4 else packed.ljust(BACKEND_BYTES[length], b"\0")

    @classmethod
    def unpack(cls, value: bytes) -> BackendValue:
        """Read the map's value."""
        endpoint = _ENDPOINTS[4 if len(value) == BACKEND_BYTES[4] else 16]
        address, port = endpoint.unpack_from(value)
        weight, frontend, ifindex, macs, mtu, flags = _BACKEND_REST.unpack_from(value, endpoint.size)
        way = flags & _WAYS
        hop = NextHop(ifindex, macs, mtu, way) if way else None
        return cls(address, port, weight, frontend, hop, flags & ~_WAYS)


class Stat(NamedTuple):
    """struct kb_lb_stat, of one CPU or summed up."""

    packets: int = 0
    ip_bytes: int = 0
    connections: int = 0

    def plus(self, other: Stat) -> Stat:
        """Return the sum by field."""
        return Stat(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    def pack(self) -> bytes:
        """Return the map's value."""
        return _STAT.pack(*self)

    @classmethod
    def sum(cls, values: bytes) -> Stat:
        """Add up the concatenated values of all CPUs."""
        columns = zip(*_STAT.iter_unpack(values), strict=True)
        return cls(*(sum(column) for column in columns))


class FlowKey(NamedTuple):
    """struct kb_lb_flow_key: a packet's addresses and ports."""

    saddr: bytes
    daddr: bytes
    sport: int
    dport: int
    protocol: int

    def pack(self) -> bytes:
        """Return the map's key."""
        return _FLOW_KEYS[len(self.saddr)].pack(*self)

    @classmethod
    def unpack(cls, key: bytes) -> FlowKey:
        """Read the map's key."""
        return cls(*_FLOW_KEYS[4 if len(key) == _IPV4_FLOW_KEY_BYTES else 16].unpack(key))


class Flow(NamedTuple):
    """struct kb_lb_flow: client to VIP. `seen` in ns of CLOCK_MONOTONIC."""

    seen: int
    backend: int
    nat_address: bytes
    nat_port: int
    flags: int

    @classmethod
    def unpack(cls, value: bytes) -> Flow:
        """Read the map's value."""
        nat = _FLOW_NATS[4 if len(value) == _IPV4_FLOW_BYTES else 16]
        return cls(
            *_FLOW_HEAD.unpack_from(value),
            *nat.unpack_from(value, _FLOW_HEAD.size),
            *_FLOW_FLAGS.unpack_from(value, _FLOW_HEAD.size + nat.size),
        )


class Reverse(NamedTuple):
    """struct kb_lb_rev: backend to our SNAT address."""

    seen: int
    backend: int
    client: bytes
    vip: bytes
    client_port: int
    vip_port: int
    flags: int

    @classmethod
    def unpack(cls, value: bytes) -> Reverse:
        """Read the map's value."""
        ends = _REVERSE_CLIENTS[4 if len(value) == _IPV4_REVERSE_BYTES else 16]
        return cls(
            *_FLOW_HEAD.unpack_from(value),
            *ends.unpack_from(value, _FLOW_HEAD.size),
            *_FLOW_FLAGS.unpack_from(value, _FLOW_HEAD.size + ends.size),
        )


class DsrFlow(NamedTuple):
    """struct kb_lb_dsr_flow. `seen` in ns of CLOCK_MONOTONIC; `hash` finds the slot."""

    seen: int
    backend: int
    hash: int
    frontend: int
    flags: int

    def pack(self) -> bytes:
        """Return the map's value."""
        return _DSR_FLOW.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> DsrFlow:
        """Read the map's value."""
        return cls(*_DSR_FLOW.unpack(value))

    @classmethod
    def unpack_many(cls, values: bytes) -> Iterator[tuple[int, int, int, int, int]]:
        """Read concatenated values: the fields, in less time."""
        return _DSR_FLOW.iter_unpack(values)


class Affinity(NamedTuple):
    """struct kb_lb_affinity: the backend that a client had. `used` in ns of CLOCK_MONOTONIC."""

    used: int
    backend: int

    def pack(self) -> bytes:
        """Return the map's value."""
        return _AFFINITY.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> Affinity:
        """Read the map's value."""
        return cls(*_AFFINITY.unpack(value))


def u32(number: int) -> bytes:
    """Return an array index as a map key."""
    return _U32.pack(number)


def pack_key(key: FrontendKey) -> bytes:
    """Return the frontend map's key."""
    return _FRONTEND_KEYS[len(key.address)].pack(*key)


def pack_address_key(address: bytes) -> bytes:
    """Return the key that stands for a whole address."""
    return _FRONTEND_KEYS[len(address)].pack(address, 0, 0)


def unpack_key(key: bytes) -> FrontendKey | bytes:
    """Read the frontend map's key: a frontend's, or the address that a FrontendFlag.ADDRESS entry is for."""
    address, port, protocol = _FRONTEND_KEYS[4 if len(key) == _IPV4_KEY_BYTES else 16].unpack(key)
    return FrontendKey(address, port, Protocol(protocol)) if protocol else address


def pack_source(frontend: int, prefix: Prefix) -> bytes:
    """Return the source map's key for a range of a frontend, by its id; bits behind the prefix become 0."""
    length = len(prefix.address)
    rest = 8 * length - prefix.length
    address = (int.from_bytes(prefix.address) >> rest << rest).to_bytes(length)
    return _SOURCES[length].pack(_SOURCE_BITS + prefix.length, frontend, address)


def unpack_source(key: bytes) -> tuple[int, Prefix]:
    """Read the source map's key: a frontend's id and a range."""
    bits, frontend, address = _SOURCES[4 if len(key) == SOURCE_BYTES[4] else 16].unpack(key)
    return frontend, Prefix(address, bits - _SOURCE_BITS)


def pack_client(frontend: int, address: bytes) -> bytes:
    """Return the affinity map's key of a client of a frontend, by its id."""
    return _U32.pack(frontend) + address


def pack_here(frontend: int, address: bytes) -> bytes:
    """Return the key of a backend in the map of those on this node; `frontend` is an id."""
    return _U32.pack(frontend) + address


def own_place(backend: bytes, key: FrontendKey) -> int:
    """Return the number of the place that lb_own() of lb_here.h looks for this in."""
    return flow_hash(backend, key.address, key.port, key.protocol, 0) * _OWN_PLACES >> 32


def pack_own(backend: bytes, key: FrontendKey, flags: int) -> bytes:
    """Return struct kb_lb_own."""
    return _OWN[len(backend)].pack(backend, *key, flags)


def pack_namespace(frontend: int, cookie: int) -> bytes:
    """Return the key of a network namespace in the affinity map of sockets."""
    return _NAMESPACE.pack(frontend, cookie)


def pack_config(config: LbConfig) -> bytes:
    """Return the value of the settings map."""
    source = int.from_bytes(config.encap_source or config.snat_address)
    host_mask = 0xFFFFFFFF >> config.encap_prefix
    ports = config.snat_port_last - config.snat_port_first + 1
    parts = (
        _CONFIG_SEED.pack(config.hash_seed),
        _CONFIG_ENCAP.pack(source & ~host_mask, host_mask),
        _CONFIG_PORTS.pack(config.snat_port_first, ports),
        _spread(config.snat_sources, 4),
        (config.encap_source6 or config.snat_address6).ljust(16, b"\0"),
        _spread(config.snat_sources6, 16),
    )
    return b"".join(parts).ljust(CONFIG_BYTES, b"\0")


def _spread(sources: Sequence[bytes], length: int) -> bytes:
    """A place after the other, as evenly as they can be."""
    if not sources:
        return bytes(SNAT_SOURCES * length)
    return b"".join(sources[place % len(sources)] for place in range(SNAT_SOURCES))


def pack_device(flags: int, source: bytes, source6: bytes) -> bytes:
    """Return struct kb_lb_dev; b"" is no address."""
    return _DEVICE.pack(flags, source, source6)


def hash_seed(config: bytes) -> int:
    """Read the seed of flow hashes in the settings map's value."""
    return int(_CONFIG_SEED.unpack_from(config)[0])


def flow_keys(keys: bytes, address_bytes: int) -> Iterator[tuple[bytes, bytes, int, int, int]]:
    """Read many keys of flows, concatenated: the fields of FlowKey, in a third of its time."""
    return _FLOW_KEYS[address_bytes].iter_unpack(keys)


def flow_hash(saddr: bytes, daddr: bytes, sport: int, dport: int, seed: int) -> int:
    """Return lb_hash() of lb_select.h, a 32-bit number, for a packet's fields."""
    if len(saddr) > 4:
        return _flow_hash6(saddr, daddr, sport, dport, seed)
    wire = struct.pack(">4s4sHH", saddr, daddr, sport, dport)
    words: tuple[int, int, int, int] = struct.unpack("=IIHH", wire)
    source, destination, sport, dport = words
    x = ((source << 32 | destination) ^ seed) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    x ^= x >> 32
    x ^= sport << 16 | dport
    return (x * 0xFF51AFD7ED558CCD & (1 << 64) - 1) >> 32


def _flow_hash6(saddr: bytes, daddr: bytes, sport: int, dport: int, seed: int) -> int:
    """lb_hash6()."""
    x, mask = seed, (1 << 64) - 1
    words = struct.unpack("=8I", saddr + daddr)
    for high, low in zip(words[::2], words[1::2], strict=True):
        x = (x ^ (high << 32 | low)) * 0x9E3779B97F4A7C15 & mask
        x ^= x >> 32
    sport, dport = struct.unpack("=HH", struct.pack(">HH", sport, dport))
    x ^= sport << 16 | dport
    return (x * 0xFF51AFD7ED558CCD & mask) >> 32
