"""Maps: the kernel's tables, as bytes in and bytes out."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kubebee.bpf.constants import OBJ_NAME_LEN, Cmd, MapFlag, MapType, UpdateFlag
from kubebee.bpf.handle import Handle
from kubebee.bpf.syscall import (
    BpfError,
    address,
    bpf,
    bpf_errno,
    c_string,
    next_id,
    not_supported,
    obj_info,
)

_ELEM = struct.Struct("=I4xQQQ")  # map_fd, key, value or next_key, flags
_BATCH = struct.Struct("=QQQQIIQQ")  # in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags
_COUNT_OFFSET = 32
_INFO = struct.Struct("=IIIIII16sIIQQIII4xQ")
_BATCH_SIZE = 4096


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says about a map (struct bpf_map_info). Sizes in bytes."""

    id: int
    type: MapType
    name: str
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    ifindex: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    btf_vmlinux_value_type_id: int
    map_extra: int

    @property
    def value_stride(self) -> int:
        """Bytes that one value takes in a lookup: for per-CPU maps all CPUs' slots together."""
        if self.type.per_cpu:
            return _round_up(self.value_size) * possible_cpus()
        return self.value_size


def _round_up(size: int) -> int:
    return (size + 7) & ~7


@functools.cache
def possible_cpus() -> int:
    """Return the number of CPUs that a per-CPU value has slots for."""
    total = 0
    for part in Path("/sys/devices/system/cpu/possible").read_text().strip().split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


class Map(Handle):
    """An open map. Owns its file descriptor; use as a context manager or call close()."""

    open_by_id = Cmd.MAP_GET_FD_BY_ID

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._info: MapInfo | None = None

    @classmethod
    def create(
        cls,
        type: MapType,  # noqa: A002  the kernel's word
        key_size: int,
        value_size: int,
        max_entries: int,
        name: str = "",
        flags: int = 0,
        inner_map_fd: int | None = None,
    ) -> Self:
        """Create a map. Names longer than 15 bytes are cut, as libbpf does."""
        attr = struct.pack(
            "=IIIIIII16s",
            type,
            key_size,
            value_size,
            max_entries,
            flags,
            inner_map_fd or 0,
            0,
            name.encode()[: OBJ_NAME_LEN - 1],
        )
        return cls(bpf(Cmd.MAP_CREATE, attr, f"cannot create map of type {MapType(type).name}", name))

    @property
    def info(self) -> MapInfo:
        """What the kernel says about the map; read once, it does not change."""
        if self._info is None:
            self._info = map_info(self._fd)
        return self._info

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of a key, None if absent.

        Per-CPU maps: the values of all possible CPUs, each padded to a multiple of 8 bytes.
        """
        self._check_key(key)
        value = ctypes.create_string_buffer(self.info.value_stride)
        result, err = bpf_errno(
            Cmd.MAP_LOOKUP_ELEM, _ELEM.pack(self._fd, address(key), ctypes.addressof(value), 0)
        )
        if result < 0:
            if err == errno.ENOENT:
                return None
            raise BpfError("cannot look up", err, where=self._where())
        return value.raw

    def lookup_percpu(self, key: bytes) -> list[bytes]:
        """Return one value per possible CPU, without padding; empty if the key is absent."""
        data = self.lookup(key)
        return [] if data is None else split_percpu(data, self.info.value_size)

    def update(self, key: bytes, value: bytes, flags: int = UpdateFlag.ANY) -> None:
        """Write a value; for per-CPU maps the slots of all possible CPUs, as lookup() returns them."""
        self._check_key(key)
        if len(value) != self.info.value_stride:
            raise ValueError(f"{self._where()}: value of {len(value)} bytes, needs {self.info.value_stride}")
        attr = _ELEM.pack(self._fd, address(key), address(value), flags)
        bpf(Cmd.MAP_UPDATE_ELEM, attr, "cannot update", self._where())

    def delete(self, key: bytes) -> bool:
        """Delete a key; False if it was absent."""
        self._check_key(key)
        result, err = bpf_errno(Cmd.MAP_DELETE_ELEM, _ELEM.pack(self._fd, address(key), 0, 0))
        if result < 0 and err != errno.ENOENT:
            raise BpfError("cannot delete", err, where=self._where())
        return result == 0

    def keys(self) -> Iterator[bytes]:
        """Yield the keys, one system call each.

        If the map changes meanwhile, keys may be missed or repeated, as the kernel documents.
        """
        following = ctypes.create_string_buffer(self.info.key_size)
        key: bytes | None = None
        while True:
            attr = _ELEM.pack(self._fd, address(key) if key else 0, ctypes.addressof(following), 0)
            result, err = bpf_errno(Cmd.MAP_GET_NEXT_KEY, attr)
            if result < 0:
                if err == errno.ENOENT:
                    return
                raise BpfError("cannot list keys", err, where=self._where())
            key = following.raw
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value), in batches where the kernel has them for this map type."""
        key_size, stride = self.info.key_size, self.info.value_stride
        for keys, values, count in self.batches():
            for i in range(count):
                yield keys[i * key_size : (i + 1) * key_size], values[i * stride : (i + 1) * stride]

    def batches(self, size: int = _BATCH_SIZE) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield (keys, values, count), concatenated: of a large map a tenth of the time that items() takes.

        Where the kernel has no batches for the map type, each is one entry.

        Args:
            size: most entries of a batch; more if one bucket of a hash holds more.
        """
        try:
            yield from self._batches(size)
        except _NoBatchError:
            for key in self.keys():
                value = self.lookup(key)
                if value is not None:
                    yield key, value, 1

    def _batches(self, size: int) -> Iterator[tuple[bytes, bytes, int]]:
        key_size, stride = self.info.key_size, self.info.value_stride
        size = max(1, min(size, self.info.max_entries))
        # The position token is a bucket number for hashes, the last key for the other types.
        position = ctypes.create_string_buffer(max(8, key_size))
        started, first_call = False, True
        while True:
            keys = ctypes.create_string_buffer(size * key_size)
            values = ctypes.create_string_buffer(size * stride)
            where = ctypes.addressof(position)
            attr = bytearray(
                _BATCH.pack(
                    where if started else 0,
                    where,
                    ctypes.addressof(keys),
                    ctypes.addressof(values),
                    size,
                    self._fd,
                    0,
                    0,
                )
            )
            result, err = bpf_errno(Cmd.MAP_LOOKUP_BATCH, attr)
            if result < 0 and err == errno.ENOSPC:  # one hash bucket holds more than the batch
                size *= 2
                continue
            if result < 0 and err != errno.ENOENT:
                if first_call and (err == errno.EINVAL or not_supported(err)):
                    raise _NoBatchError
                raise BpfError("cannot read batch", err, where=self._where())
            count = struct.unpack_from("=I", attr, _COUNT_OFFSET)[0]
            if count:
                yield keys.raw[: count * key_size], values.raw[: count * stride], count
            if result < 0:
                return
            started, first_call = True, False

    def read_run(self, first: int, count: int) -> bytes:
        """Return `count` values of an array, from index `first` on, concatenated.

        Falls back to single lookups where the kernel has no batches for the map type.
        """
        stride = self.info.value_stride
        values, keys = ctypes.create_string_buffer(count * stride), ctypes.create_string_buffer(count * 4)
        before, position = struct.pack("=I", max(first - 1, 0)), ctypes.create_string_buffer(8)
        attr = bytearray(
            _BATCH.pack(
                address(before) if first else 0,
                ctypes.addressof(position),
                ctypes.addressof(keys),
                ctypes.addressof(values),
                count,
                self._fd,
                0,
                0,
            )
        )
        result, err = bpf_errno(Cmd.MAP_LOOKUP_BATCH, attr)
        if result == 0 or err == errno.ENOENT:  # that is the end of the array
            read = struct.unpack_from("=I", attr, _COUNT_OFFSET)[0]
            if read == count:
                return values.raw
        found = [self.lookup(struct.pack("=I", index)) for index in range(first, first + count)]
        if None in found:
            raise ValueError(f"{self._where()}: {first} to {first + count - 1} are not all there")
        return b"".join(value for value in found if value is not None)

    def update_batch(self, keys: bytes, values: bytes, count: int) -> None:
        """Write `count` entries in one call; keys and values are concatenated.

        Falls back to single updates where the kernel has no batches for the map type.
        """
        key_size, stride = self.info.key_size, self.info.value_stride
        if len(keys) != count * key_size or len(values) != count * stride:
            raise ValueError(f"{self._where()}: batch of {count} does not fit its keys and values")
        if self._batch(Cmd.MAP_UPDATE_BATCH, keys, address(values), count):
            return
        for i in range(count):
            self.update(keys[i * key_size : (i + 1) * key_size], values[i * stride : (i + 1) * stride])

    def delete_batch(self, keys: bytes, count: int) -> None:
        """Delete `count` keys (concatenated). Absent ones are no error."""
        key_size = self.info.key_size
        if len(keys) != count * key_size:
            raise ValueError(f"{self._where()}: batch of {count} does not fit its keys")
        if self._batch(Cmd.MAP_DELETE_BATCH, keys, 0, count):
            return
        for i in range(count):
            self.delete(keys[i * key_size : (i + 1) * key_size])

    def _batch(self, cmd: Cmd, keys: bytes, values: int, count: int) -> bool:
        """Run a batch command; False if the caller shall do it one by one instead."""
        if count == 0:
            return True
        attr = bytearray(_BATCH.pack(0, 0, address(keys), values, count, self._fd, 0, 0))
        result, err = bpf_errno(cmd, attr)
        if result == 0:
            return True
        # A deletion stops at the first absent key; one by one goes on after it.
        absent = cmd is Cmd.MAP_DELETE_BATCH and err == errno.ENOENT
        if absent or err == errno.EINVAL or not_supported(err):
            return False
        done = struct.unpack_from("=I", attr, _COUNT_OFFSET)[0]
        raise BpfError(f"batch of {count} stopped after {done}", err, where=self._where())

    def freeze(self) -> None:
        """Make the map read-only for system calls, for good."""
        bpf(Cmd.MAP_FREEZE, struct.pack("=I", self._fd), "cannot freeze", self._where())

    def mmap(self, writable: bool = True) -> mmap.mmap:
        """Map the values of an array made with MapFlag.MMAPABLE.

        Element i starts at i * (value_size rounded up to 8).
        """
        if not self.info.map_flags & MapFlag.MMAPABLE:
            raise BpfError(
                "cannot map memory: not created with BPF_F_MMAPABLE", errno.EINVAL, where=self._where()
            )
        length = _round_up(self.info.value_size) * self.info.max_entries
        length = (length + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return mmap.mmap(self._fd, length, mmap.MAP_SHARED, prot)

    def _where(self) -> str:
        return f"map {self.info.name or self.info.id}"

    def _check_key(self, key: bytes) -> None:
        if len(key) != self.info.key_size:
            raise ValueError(f"{self._where()}: key of {len(key)} bytes, needs {self.info.key_size}")


class _NoBatchError(Exception):
    """The kernel has no batch lookup for this map type."""


def map_info(fd: int) -> MapInfo:
    """Read the info of an open map."""
    (
        type_number,
        map_id,
        key_size,
        value_size,
        max_entries,
        flags,
        name,
        ifindex,
        vmlinux_type,
        _,
        _,
        btf_id,
        btf_key,
        btf_value,
        extra,
    ) = _INFO.unpack(obj_info(fd, _INFO.size))
    return MapInfo(
        id=map_id,
        type=MapType(type_number),
        name=c_string(name),
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        map_flags=flags,
        ifindex=ifindex,
        btf_id=btf_id,
        btf_key_type_id=btf_key,
        btf_value_type_id=btf_value,
        btf_vmlinux_value_type_id=vmlinux_type,
        map_extra=extra,
    )


def split_percpu(data: bytes, value_size: int) -> list[bytes]:
    """Cut a per-CPU value, as lookup() or items() return it, into one value per possible CPU."""
    stride = _round_up(value_size)
    return [data[i : i + value_size] for i in range(0, len(data), stride)]


def map_ids() -> Iterator[int]:
    """Yield the ids of all maps on the machine."""
    current: int | None = 0
    while (current := next_id(Cmd.MAP_GET_NEXT_ID, current or 0)) is not None:
        yield current
