"""Wait for one record of a BPF ring buffer."""

from __future__ import annotations

import time
from collections.abc import Callable

from kubebee.bpf.map import Map
from kubebee.bpf.ringbuf import RingBuffer


def wait_for_record(ring: Map, wanted: Callable[[bytes], bool], seconds: float = 5) -> bytes:
    """The first record that is wanted, those before it are consumed; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    passed = 0
    with RingBuffer(ring) as buffer:
        while (left := deadline - time.monotonic()) > 0:
            buffer.poll(left)
            for record in buffer.read(limit=1):
                if wanted(record):
                    return record
                passed += 1
    raise AssertionError(f"no such record among {passed} within {seconds} s")
