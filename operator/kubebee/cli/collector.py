"""When Python's garbage collector has its turn: not while an edit is waited for."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_spared() -> Iterator[None]:
    """What the first pass makes stays: the garbage collector need not look at it, now or later.

    With 100,000 backends each full collection takes a third of a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def collector_waiting() -> Iterator[None]:
    """The garbage collector has its turn after the pass: a collection takes as long as a small edit."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
