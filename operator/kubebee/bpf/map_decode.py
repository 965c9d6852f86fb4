"""Map entries as Python values, by the BTF that the kernel holds for the map."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kubebee.bpf.btf import VOID, Btf
from kubebee.bpf.btf_codec import Decoded, decode
from kubebee.bpf.btf_types import Datasec, Var
from kubebee.bpf.constants import Cmd, MapType
from kubebee.bpf.map import Map, MapInfo, split_percpu
from kubebee.bpf.syscall import fd_by_id, obj_info

_BTF_INFO: Final = struct.Struct(
    "=QIIQII"
)  # struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf
_ARRAYS: Final = {MapType.ARRAY, MapType.PERCPU_ARRAY}


@dataclass(frozen=True)
class Entry:
    """One entry; ``per_cpu`` holds the values by CPU number and ``value`` is None for per-CPU maps.

    Keys and values without BTF are numbers (indexes of arrays) or hex text.
    """

    key: Decoded
    value: Decoded | None
    per_cpu: tuple[Decoded, ...] = ()


def kernel_btf(btf_id: int) -> Btf:
    """The BTF object of this id, as the kernel holds it; raises BpfError."""
    fd = fd_by_id(Cmd.BTF_GET_FD_BY_ID, btf_id)
    try:
        size = _BTF_INFO.unpack(obj_info(fd, _BTF_INFO.size))[1]
        buffer = ctypes.create_string_buffer(size)
        obj_info(fd, _BTF_INFO.size, _BTF_INFO.pack(ctypes.addressof(buffer), size, 0, 0, 0, 0))
        return Btf(buffer.raw)
    finally:
        os.close(fd)


def entries(map_: Map) -> Iterator[Entry]:
    """All entries of a map, decoded; a map that changes meanwhile may show either state."""
    info = map_.info
    btf = kernel_btf(info.btf_id) if info.btf_id else None
    for key, value in map_.items():
        decoded = _key(btf, info, key)
        if info.type.per_cpu:
            yield Entry(
                decoded, None, tuple(_value(btf, info, v) for v in split_percpu(value, info.value_size))
            )
        else:
            yield Entry(decoded, _value(btf, info, value))


def _key(btf: Btf | None, info: MapInfo, data: bytes) -> Decoded:
    if btf is not None and info.btf_key_type_id != VOID:
        return decode(btf, info.btf_key_type_id, data)
    return int.from_bytes(data, "little") if info.type in _ARRAYS else data.hex()


def _value(btf: Btf | None, info: MapInfo, data: bytes) -> Decoded:
    if btf is None or info.btf_value_type_id == VOID:
        return data.hex()
    found = btf[info.btf_value_type_id]
    if not isinstance(found, Datasec):
        return decode(btf, info.btf_value_type_id, data)
    values: dict[str, Decoded] = {}
    for placed in found.variables:  # the map of a data section
        var = btf.expect(placed.type, Var)
        values[var.name] = decode(btf, var.type, data[placed.offset : placed.offset + placed.size])
    return values
