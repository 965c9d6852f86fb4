"""Values between people and the kernel: Python values <-> bytes of a C type that BTF describes.

Numbers are little endian, as BPF objects here are; ``__be16``, ``__be32`` and ``__be64`` take plain numbers
and hold them in network order. Addresses are text where the C type can hold one: IPv4 in ``__be32``,
``struct in_addr`` and ``__u8[4]``, IPv6 in ``struct in6_addr`` and ``__u8[16]``, MACs in ``__u8[6]``.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_names import c_name
from kubebee.bpf.btf_types import Array, Composite, Enum, Float, Int, Member, Modifier, Ptr, Type, Typedef
from kubebee.errors import KubebeeError

Value = bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"] | None
Decoded = bool | int | float | str | list["Decoded"] | dict[str, "Decoded"]

_NETWORK_ORDER: Final = frozenset({"__be16", "__be32", "__be64"})
_ADDRESS_STRUCTS: Final = frozenset({"in_addr", "in6_addr"})
_ADDRESS_BYTES: Final = frozenset({4, 6, 16})
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_NUMBER: Final = re.compile(r"-?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")
_FLOATS: Final = {4: "<f", 8: "<d"}


class ValueMismatchError(KubebeeError):
    """A value does not fit the C type; ``where`` is the path of the value, such as ``globals.ports[2]``."""

    reason = "InvalidValue"


def encode(btf: Btf, type_id: int, value: Value, where: str) -> bytes:
    """The bytes of a value; raises ValueMismatchError, which names the path and the C type."""
    return _Encoder(btf, type_id, where).encode(value)


def decode(btf: Btf, type_id: int, data: bytes) -> Decoded:
    """The value in the first bytes of ``data``, as JSON can say it: structs are dicts, enums names.

    ``__be32``, ``struct in_addr``, ``struct in6_addr`` and ``__u8[6]`` are addresses.

    Raises:
        ValueMismatchError: there are fewer bytes than the type has.
    """
    size = btf.size(type_id)
    if len(data) < size:
        raise ValueMismatchError(f"{len(data)} bytes are too few for {c_name(btf, type_id)} of {size}")
    names, found = _unwrap(btf, type_id)
    if isinstance(found, Composite):
        return _decode_composite(btf, found, data[:size])
    if isinstance(found, Array):
        return _decode_array(btf, found, data[:size])
    if isinstance(found, Float) and size in _FLOATS:
        return float(struct.unpack(_FLOATS[size], data[:size])[0])
    if "__be32" in names:
        return str(ipaddress.IPv4Address(data[:size]))
    return _scalar(
        found, int.from_bytes(data[:size], "big" if names & _NETWORK_ORDER else "little"), 8 * size
    )


def _unwrap(btf: Btf, type_id: int) -> tuple[frozenset[str], Type]:
    """The type behind typedefs and qualifiers, and the typedefs' names."""
    resolved, names = btf.resolve(type_id), set()
    while type_id != resolved:
        found = btf[type_id]
        assert isinstance(found, Typedef | Modifier)
        if isinstance(found, Typedef):
            names.add(found.name)
        type_id = found.target
    return frozenset(names), btf[resolved]


def _scalar(found: Type, number: int, bits: int) -> Decoded:
    signed = isinstance(found, Int | Enum) and found.signed
    if signed and number >> (bits - 1):
        number -= 1 << bits
    if isinstance(found, Int) and found.bool:
        return bool(number)
    if isinstance(found, Enum):
        return next((name for name, value in found.values if value == number), number)
    return number


def _decode_array(btf: Btf, array: Array, data: bytes) -> Decoded:
    _, element = _unwrap(btf, array.element)
    if isinstance(element, Int) and element.name == "char":
        return data.split(b"\0", 1)[0].decode(errors="backslashreplace")
    if isinstance(element, Int) and element.size == 1 and array.count == 6:
        return data.hex(":")
    size = btf.size(array.element)
    return [decode(btf, array.element, data[i * size : (i + 1) * size]) for i in range(array.count)]


def _decode_composite(btf: Btf, composite: Composite, data: bytes) -> Decoded:
    if composite.name in _ADDRESS_STRUCTS:
        return str(ipaddress.ip_address(data))
    values: dict[str, Decoded] = {}
    for member in composite.members:
        if member.bits:
            number = int.from_bytes(data, "little") >> member.offset & ((1 << member.bits) - 1)
            value = _scalar(btf[btf.resolve(member.type)], number, member.bits)
        else:
            value = decode(btf, member.type, data[member.offset // 8 :])
        if member.name:
            values[member.name] = value
        elif isinstance(
            value, dict
        ):  # members of an anonymous struct or union are reached by their own names
            values |= value
    return values


class _Encoder:
    """Encodes one value of one type at one path."""

    def __init__(self, btf: Btf, type_id: int, where: str) -> None:
        self._btf = btf
        self._where = where
        self._c = f"{c_name(btf, type_id)} {where.rpartition('.')[2]}"
        self._names, self._type = _unwrap(btf, type_id)
        self._size = btf.size(type_id)

    def encode(self, value: Value) -> bytes:
        found = self._type
        if isinstance(found, Composite):
            return self._composite(found, value)
        if isinstance(found, Array):
            return self._array(found, value)
        if isinstance(found, Float) and self._size in _FLOATS:
            if isinstance(value, str | bool) or not isinstance(value, int | float):
                raise self._mismatch(value, "a number")
            return struct.pack(_FLOATS[self._size], value)
        if isinstance(found, Int | Enum):
            if self._names & {"__be32"} and isinstance(value, str) and (packed := _address(value)):
                if len(packed) != 4:
                    raise self._mismatch(value, "an IPv4 address")
                return packed
            order: Final = "big" if self._names & _NETWORK_ORDER else "little"
            return self.number(value, 8 * self._size).to_bytes(self._size, order)
        if isinstance(found, Ptr):
            raise self._error("pointers cannot be set: their target has no address here")
        raise self._error(f"{self._c} cannot be set")

    def number(self, value: Value, bits: int) -> int:
        """The value as the unsigned number of so many bits that has its bit pattern."""
        found = self._type
        assert isinstance(found, Int | Enum)
        if isinstance(found, Int) and found.bool:
            if isinstance(value, bool) or value in (0, 1):
                return int(bool(value))
            raise self._mismatch(value, "true or false")
        if isinstance(found, Enum) and isinstance(value, str):
            named = dict(found.values)
            if value not in named:
                raise self._error(f"{value!r} is not in {self._c}", f"one of {', '.join(named)}")
            value = named[value]
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value, 0) if "x" in value.lower() else int(value)
        if isinstance(value, str) and _address(value):
            raise self._error(
                f"{value!r} is an address and {self._c} a number",
                "declare an IPv4 address as __be32, IPv6 as struct in6_addr, a MAC as __u8[6]",
            )
        if not isinstance(value, int):
            raise self._mismatch(value, "a number")
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if found.signed else (0, (1 << bits) - 1)
        if not low <= value <= high:
            raise self._error(f"{value} does not fit in {self._c}", f"{low} to {high}")
        return value & ((1 << bits) - 1)

    def _array(self, array: Array, value: Value) -> bytes:
        element = self._btf[self._btf.resolve(array.element)]
        if isinstance(value, str) and isinstance(element, Int) and element.size == 1:
            return self._text(array, element, value)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self._mismatch(value, "a list")
        if len(value) > array.count:
            raise self._error(f"{len(value)} values do not fit in {self._c}")
        parts = [encode(self._btf, array.element, v, f"{self._where}[{i}]") for i, v in enumerate(value)]
        return b"".join(parts).ljust(self._size, b"\0")

    def _text(self, array: Array, element: Int, value: str) -> bytes:
        if element.name == "char":
            data = value.encode()
            if b"\0" in data:
                raise self._error("text for a char array must not hold NUL")
            if len(data) >= array.count:
                raise self._error(f"{len(data)} bytes of text and NUL do not fit in {self._c}")
            return data.ljust(array.count, b"\0")
        packed = _address(value)
        if array.count not in _ADDRESS_BYTES or len(packed) != array.count:
            kind = {4: "an IPv4 address", 6: "a MAC address", 16: "an IPv6 address"}.get(
                array.count, "a list"
            )
            raise self._mismatch(value, kind)
        return packed

    def _composite(self, composite: Composite, value: Value) -> bytes:
        if composite.name in _ADDRESS_STRUCTS and isinstance(value, str):
            packed = _address(value)
            if len(packed) != composite.size:
                raise self._mismatch(value, "an IPv4 address" if composite.size == 4 else "an IPv6 address")
            return packed
        if not isinstance(value, Mapping):
            raise self._mismatch(value, "a mapping of member names to values")
        members = _members(self._btf, composite, 0)
        if composite.union and len(value) > 1:
            raise self._error(f"{self._c} is a union: give one member, not {', '.join(value)}")
        content = 0
        for name, part in value.items():
            if name not in members:
                raise self._error(f"{self._c} has no member {name!r}", f"members: {', '.join(members)}")
            member = members[name]
            encoder = _Encoder(self._btf, member.type, f"{self._where}.{name}")
            number = (
                encoder.number(part, member.bits)
                if member.bits
                else int.from_bytes(encoder.encode(part), "little")
            )
            content |= number << member.offset
        return content.to_bytes(composite.size, "little")

    def _mismatch(self, value: Value, wanted: str) -> ValueMismatchError:
        return self._error(f"{value!r} is not {wanted}, which {self._c} needs")

    def _error(self, message: str, hint: str = "") -> ValueMismatchError:
        return ValueMismatchError(message, where=self._where, hint=hint)


def _members(btf: Btf, composite: Composite, base: int) -> dict[str, Member]:
    """Members by name, those of anonymous structs and unions included; offsets in bits from the outermost."""
    members: dict[str, Member] = {}
    for member in composite.members:
        inner = btf[btf.resolve(member.type)]
        offset = base + member.offset
        if member.name:
            members[member.name] = Member(member.name, member.type, offset, member.bits)
        elif isinstance(inner, Composite):
            members |= _members(btf, inner, offset)
    return members


def _address(text: str) -> bytes:
    """The bytes of an IP or MAC address in network order; nothing if it is none."""
    if _MAC.fullmatch(text):
        return bytes.fromhex(text.replace(":", ""))
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return b""
