"""Read what a BPF ring buffer holds, from its memory (Documentation/bpf/ringbuf.rst)."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable, Iterator

from kubebee.bpf.map import Map

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8


def records(ring: Map) -> Iterator[bytes]:
    """Every complete record from the start; the ring must not have wrapped, and nothing is consumed."""
    page = mmap.PAGESIZE
    with mmap.mmap(
        ring.fd, page + ring.info.max_entries, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
    ) as memory:
        (produced,) = struct.unpack_from("=Q", memory, 0)
        at = 0
        while at < produced:
            (length,) = struct.unpack_from("=I", memory, page + at)
            if length & _BUSY:
                return
            size = length & ~(_BUSY | _DISCARDED)
            if not length & _DISCARDED:
                yield memory[page + at + _HEADER : page + at + _HEADER + size]
            at += (_HEADER + size + 7) & ~7


def wait_for_record(ring: Map, wanted: Callable[[bytes], bool], seconds: float = 5) -> bytes:
    """The first record that is wanted; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for record in records(ring):
            if wanted(record):
                return record
        time.sleep(0.01)
    raise AssertionError(f"no such record among {len(list(records(ring)))} within {seconds} s")
