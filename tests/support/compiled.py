"""Objects that earlier tests of this run compiled: the same source need not be compiled by each of them.

What the cache of a kubebee has is found by a key of all that decides what a compiler makes, so that an entry
of another one is as good as its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from pathlib import Path

_OBJECTS = "objects"


@functools.cache
def _shared() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kb-objects-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def seed(cache: Path) -> None:
    """Give a cache that is not there yet what is known."""
    if not cache.exists():
        shutil.copytree(_shared(), cache / _OBJECTS)


def harvest(cache: Path) -> None:
    """Take what a cache has and is not known."""
    known = {path.name for path in _shared().iterdir()}
    with contextlib.suppress(OSError):  # a test may have taken the disk away
        for entry in (cache / _OBJECTS).iterdir():
            if entry.name not in known and not entry.name.startswith("."):
                shutil.copy2(entry, _shared() / entry.name)
