"""Read records from a BPF ring buffer."""

from __future__ import annotations

import mmap
import select
import struct
from typing import Self

from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map

_BUSY = 1 << 31
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1
_HEADER = 8
_POSITION = struct.Struct("Q")  # native, so that it is read and written as one word


class RingBuffer:
    """The consumer of one ring buffer map; there must be no other. Does not own the map.

    Layout (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the producer's,
    then the data, mapped twice in a row so that a record never wraps.
    """

    def __init__(self, buffer: Map) -> None:
        if buffer.info.type is not MapType.RINGBUF:
            raise ValueError(f"map {buffer.info.name} is of type {buffer.info.type.name}, not RINGBUF")
        self._fd = buffer.fd
        self._size = buffer.info.max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(self._fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._produced = mmap.mmap(
            self._fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are records."""
        return self._fd

    def poll(self, timeout_seconds: float) -> bool:
        """Wait until there may be records; False when the time is up."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(timeout_seconds * 1000))

    def read(self, limit: int = 4096) -> list[bytes]:
        """Take the finished records, oldest first, at most `limit`; empty if there are none.

        A record's bytes are the size that the program reserved.
        """
        records: list[bytes] = []
        position = _POSITION.unpack_from(self._consumer)[0]
        end = _POSITION.unpack_from(self._produced)[0]
        data = mmap.PAGESIZE
        while position < end and len(records) < limit:
            start = data + position % self._size
            header = struct.unpack_from("=I", self._produced, start)[0]
            if header & _BUSY:  # reserved, not yet submitted; those behind it wait too
                break
            length = header & _LENGTH
            if not header & _DISCARD:
                records.append(self._produced[start + _HEADER : start + _HEADER + length])
            position += (_HEADER + length + 7) & ~7
            # Only after the copy above: from here on the kernel may overwrite the record.
            _POSITION.pack_into(self._consumer, 0, position)
        return records

    def close(self) -> None:
        """Unmap the buffer."""
        self._consumer.close()
        self._produced.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
